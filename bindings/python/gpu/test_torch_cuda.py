"""PyTorch on a Hopper GPU."""

import itertools
import random
import threading
import time

import pytest

import flashcore

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

import flashcore.torch as operators  # noqa: E402
from flashcore import flash_attn_interface  # noqa: E402

ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def normal(*shape, dtype=torch.bfloat16):
    return torch.randn(shape, device="cuda", dtype=torch.float32).to(dtype)


def visible(seqlen_q, seqlen_kv, causal, window, chunk):
    """Which keys each query sees."""
    keys = torch.arange(seqlen_kv, device="cuda")
    stands = torch.arange(seqlen_q, device="cuda")[:, None] + seqlen_kv - seqlen_q
    left, right = window[0], 0 if causal else window[1]
    sees = torch.ones(seqlen_q, seqlen_kv, dtype=torch.bool, device="cuda")
    if left is not None:
        sees &= stands - left <= keys
    if right is not None:
        sees &= keys <= stands + right
    if chunk is not None:
        sees &= keys // chunk == stands.div(chunk, rounding_mode="floor")
    return sees


def exact(
    q,
    k,
    v,
    causal=False,
    scale=None,
    rounded=lambda x: x,
    window=(None, None),
    chunk=None,
    softcap=None,
    sinks=None,
    alibi_slopes=None,
    bias=None,
    factors=None,
    shown=None,
):
    """Output and log-sum-exp in float64; ``rounded`` is what an ideal kernel does to probabilities and output. Of keys
    that a query would see it sees those that are ``shown``, (batch, heads_q, seqlen_q, seqlen_kv)."""
    ratio = q.shape[2] // k.shape[2]
    q, k, v = (x.double() for x in (q, k.repeat_interleave(ratio, 2), v.repeat_interleave(ratio, 2)))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if alibi_slopes is not None:
        stands = torch.arange(q.shape[1], device="cuda")[:, None] + k.shape[1] - q.shape[1]
        distances = (stands - torch.arange(k.shape[1], device="cuda")).abs()
        scores = scores - alibi_slopes.double()[..., None, None] * distances
    if bias is not None:
        scores = scores + bias.double()
    sees = visible(q.shape[1], k.shape[1], causal, window, chunk)
    scores = scores.masked_fill(~(sees if shown is None else sees & shown), -torch.inf)
    logits = scores.new_full(scores.shape[:-1], -torch.inf)
    if sinks is not None:
        logits = sinks.double()[None, :, None].expand(logits.shape)
    logits = logits.unsqueeze(-1)
    with_sink = torch.cat([scores, logits], -1)
    lse = with_sink.logsumexp(-1)
    largest = with_sink.amax(-1, keepdim=True)
    largest = largest.masked_fill(largest == -torch.inf, 0.0)
    weights = (scores - largest).exp()
    total = weights.sum(-1, keepdim=True) + (logits - largest).exp()
    kept = rounded(weights) if factors is None else rounded(weights) * factors
    out = torch.einsum("bhij,bjhd->bhid", kept, v) / total.masked_fill(total == 0.0, 1.0)
    return rounded(out.transpose(1, 2)), lse


def check(out, q, k, v, lse=None, causal=False, scale=None, **options):
    """At most twice as far from float64 as an ideal kernel; the log-sum-exp within 1e-5."""
    expected, expected_lse = exact(q, k, v, causal, scale, **options)
    ideal, _ = exact(q, k, v, causal, scale, lambda x: x.to(q.dtype).double(), **options)
    assert out.shape == q.shape and out.dtype == q.dtype
    if out.numel() == 0:
        return
    limit = 2 * (ideal - expected).abs().max() + ROUNDING[q.dtype] * expected.abs().max()
    error = (out.double() - expected).abs().max()
    assert error <= limit, f"error {error:.2e}, limit {limit:.2e}"
    if lse is not None:
        torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-5)


def padded(shape, dtype):
    batch, seqlen, heads, head_dim = shape
    return torch.empty(batch, seqlen + 1, heads + 2, head_dim + 8, device="cuda", dtype=dtype)[
        :, :seqlen, 1:-1, :head_dim
    ]


def permuted(*order):
    def empty(shape, dtype):
        memory = torch.empty([shape[dim] for dim in order], device="cuda", dtype=dtype)
        return memory.permute([order.index(dim) for dim in range(4)])

    return empty


LAYOUTS = [permuted(0, 1, 2, 3), permuted(0, 2, 1, 3), permuted(1, 0, 2, 3), permuted(2, 1, 0, 3), padded]


def random_problem(seed):
    """Tensors q, k, v and out of random shapes and strides, and the arguments that go with them."""
    generator = random.Random(seed)
    dtype = generator.choice([torch.float16, torch.bfloat16])
    batch, heads_kv, ratio = generator.randint(1, 3), generator.randint(1, 3), generator.randint(1, 4)
    head_dim = 8 * generator.randint(1, 32)
    seqlen_q, seqlen_kv = (generator.choice([generator.randint(0, 9), generator.randint(1, 1500)]) for _ in "qk")
    causal, scale = generator.random() < 0.5, generator.choice([None, 0.05, 0.3])
    q_shape, kv_shape = (batch, seqlen_q, heads_kv * ratio, head_dim), (batch, seqlen_kv, heads_kv, head_dim)
    torch.manual_seed(seed)
    q, k, v, out = (generator.choice(LAYOUTS)(shape, dtype) for shape in (q_shape, kv_shape, kv_shape, q_shape))
    for tensor in (q, k, v):
        tensor.copy_(torch.randn(tensor.shape, device="cuda"))
    return (q, k, v), out, {"causal": causal, "scale": scale}


@pytest.mark.parametrize("seed", range(500))
def test_random_shapes_and_strides(seed):
    qkv, out, arguments = random_problem(seed)
    out.fill_(torch.nan)
    found, lse = flashcore.attention(*qkv, return_lse=True, out=out, **arguments)
    assert found is out
    check(out, *qkv, lse, **arguments)
    assert torch.equal(flashcore.attention(*qkv, **arguments), out)
    if out.numel() == 0:
        return
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = flashcore.attention(*qkv, **arguments)
    captured.fill_(torch.nan)
    graph.replay()
    assert torch.equal(captured, out)


@pytest.mark.parametrize("seed", range(0, 500, 25))
def test_random_shapes_and_strides_compiled(seed):
    qkv, _, arguments = random_problem(seed)
    torch._dynamo.reset()  # else the compiler gives up after some shapes
    compiled = torch.compile(flashcore.attention, fullgraph=True)
    assert torch.equal(compiled(*qkv, **arguments), flashcore.attention(*qkv, **arguments))


def random_options(generator, heads):
    """What a call asks for beyond plain attention."""
    distance = lambda: generator.choice([None, 0, 5, 130, 400])  # noqa: E731
    return {
        "causal": generator.random() < 0.5,
        "window": (distance(), distance()),
        "chunk": generator.choice([None, None, 100]),
        "softcap": generator.choice([None, 2.0, 30.0]),
        "sinks": generator.choice([None, torch.randn(heads, device="cuda")]),
        "alibi_slopes": generator.choice([None, torch.rand(heads, device="cuda")]),
    }


def starts_of(lengths):
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device="cuda")


@pytest.mark.parametrize("seed", range(200))
def test_random_packed_sequences(seed):
    """Also recorded in a graph, and replayed with other lengths."""
    generator = random.Random(seed)
    torch.manual_seed(seed)
    dtype = generator.choice([torch.float16, torch.bfloat16])
    heads_kv, ratio, head_dim = generator.randint(1, 3), generator.randint(1, 4), 8 * generator.randint(1, 32)
    options = random_options(generator, heads_kv * ratio)
    sequences = generator.randint(1, 6)
    draws = [
        [[generator.choice([0, 1, generator.randint(1, 700)]) for _ in range(sequences)] for _ in "qk"] for _ in "12"
    ]
    totals = [max(sum(draw[i]) for draw in draws) for i in range(2)]
    q = normal(totals[0], heads_kv * ratio, head_dim, dtype=dtype)
    k, v = (normal(totals[1], heads_kv, head_dim, dtype=dtype) for _ in "kv")
    starts = {name: starts_of(lengths) for name, lengths in zip(("cu_seqlens_q", "cu_seqlens_kv"), draws[0])}
    out = torch.full_like(q, 7.0)

    def judge(lengths, lse):
        ends = [list(itertools.accumulate(of)) for of in lengths]
        for b in range(sequences):
            rows, keys = (slice(ends[i][b] - lengths[i][b], ends[i][b]) for i in range(2))
            check(out[None, rows], q[None, rows], k[None, keys], v[None, keys], lse[None, :, rows], **options)
        assert (out[ends[0][-1] :] == 7.0).all()

    _, lse = flashcore.attention(q, k, v, out=out, return_lse=True, **starts, **options)
    judge(draws[0], lse)
    if out.numel() == 0:
        return
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _, lse = flashcore.attention(q, k, v, out=out, return_lse=True, **starts, **options)
    for lengths in reversed(draws):
        for array, of in zip(starts.values(), lengths):
            array.copy_(starts_of(of))
        out.fill_(7.0)
        graph.replay()
        judge(lengths, lse)


@pytest.mark.parametrize("seed", range(100))
def test_random_caches(seed):
    generator = random.Random(seed)
    torch.manual_seed(seed)
    heads_kv, ratio, head_dim = generator.randint(1, 3), generator.randint(1, 4), 8 * generator.randint(1, 32)
    options = random_options(generator, heads_kv * ratio)
    batch, seqlen_q, cache = generator.randint(1, 5), generator.choice([1, 2, 130]), generator.randint(1, 1500)
    q = normal(batch, seqlen_q, heads_kv * ratio, head_dim)
    k, v = (normal(batch, cache, heads_kv, head_dim) for _ in "kv")
    used = [generator.randint(0, cache) for _ in range(batch)]
    for b in range(batch):
        k[b, used[b] :], v[b, used[b] :] = torch.nan, torch.nan
    seqused = torch.tensor(used, dtype=torch.int32, device="cuda")
    out, lse = flashcore.attention(q, k, v, seqused_kv=seqused, return_lse=True, **options)
    for b in range(batch):
        one = slice(b, b + 1)
        check(out[one], q[one], k[one, : used[b]], v[one, : used[b]], lse[one], **options)


def merged(o1, lse1, o2, lse2):
    """The formula in float64."""
    lse = torch.logaddexp(lse1.double(), lse2.double())
    finite = lse.masked_fill(lse == -torch.inf, 0.0)
    out = torch.zeros_like(o1, dtype=torch.float64)
    for o, one in ((o1, lse1), (o2, lse2)):
        weight = (one.double() - finite).exp().transpose(1, 2).unsqueeze(-1)
        out += weight * o.double().masked_fill(weight == 0.0, 0.0)
    return out, lse


@pytest.mark.parametrize("seed", range(100))
def test_random_biases(seed):
    generator = random.Random(seed)
    (q, k, v), _, arguments = random_problem(seed)
    sizes = [q.shape[0], q.shape[2], q.shape[1], k.shape[1]]
    present = [size if generator.random() < 0.7 else 1 for size in sizes[:3]]
    bias = torch.nn.functional.pad(normal(*present, sizes[3], dtype=q.dtype), (0, sizes[3] % 2))[..., : sizes[3]]
    if generator.random() < 0.3:
        bias = bias.expand(sizes)
    options = arguments | random_options(generator, q.shape[2]) | {"bias": bias}
    if generator.random() < 0.3:
        options["alibi_slopes"] = torch.rand(q.shape[0], q.shape[2], device="cuda")
    out, lse = flashcore.attention(q, k, v, return_lse=True, **options)
    check(out, q, k, v, lse, **options)


def shown_by(ranges, visible, seqlen_q, seqlen_kv):
    """Which keys ranges and blocks show each query."""
    keys = torch.arange(seqlen_kv, device="cuda")
    within = (ranges[..., :1] <= keys) & (keys < ranges[..., 1:])
    blocks = visible.repeat_interleave(128, -2).repeat_interleave(128, -1)
    return within & blocks[..., :seqlen_q, :seqlen_kv]


@pytest.mark.parametrize("seed", range(100))
def test_random_ranges_and_blocks(seed):
    """Also recorded in a graph, and replayed with other ones."""
    generator = random.Random(seed)
    (q, k, v), _, arguments = random_problem(seed)
    options = arguments | random_options(generator, q.shape[2]) | {"softcap": None, "alibi_slopes": None}
    (batch, seqlen_q, heads, _), seqlen_kv = q.shape, k.shape[1]
    sizes = [[generator.choice([1, size]) for size in (batch, heads)] for _ in "12"]
    blocks = [-(-seqlen // 128) for seqlen in (seqlen_q, seqlen_kv)]

    def draw():
        ends = torch.randint(-9, seqlen_kv + 99, (*sizes[0], seqlen_q, 2), device="cuda", dtype=torch.int32)
        ends[torch.rand(ends.shape[:-1], device="cuda") < 0.3] = ends.new_tensor([0, 2**31 - 1])
        return ends, torch.rand(*sizes[1], *blocks, device="cuda") < generator.choice([0.2, 0.6, 1.0])

    ranges, bitmap = draw()
    mask = flashcore.block_lists(bitmap)
    call = lambda: flashcore.attention(q, k, v, key_ranges=ranges, block_mask=mask, return_lse=True, **options)  # noqa: E731
    out, lse = call()
    check(out, q, k, v, lse, shown=shown_by(ranges, bitmap, seqlen_q, seqlen_kv), **options)
    if out.numel() == 0:
        return
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = call()
    for _ in "12":
        other, bitmap = draw()
        ranges.copy_(other)
        for numbers, others in zip(mask, flashcore.block_lists(bitmap)):
            numbers.copy_(others)
        graph.replay()
        check(out, q, k, v, lse, shown=shown_by(ranges, bitmap, seqlen_q, seqlen_kv), **options)


def test_ranges_and_blocks_are_those_of_flex_attention():
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    q, k = normal(2, 1000, 4, 128), normal(2, 1500, 4, 128)
    documents = torch.tensor([0, 300, 301, 900, 1500], device="cuda", dtype=torch.int32)
    stands = torch.arange(500, 1500, device="cuda", dtype=torch.int32)
    document = torch.searchsorted(documents, stands, right=True, out_int32=True) - 1
    of_key = torch.searchsorted(documents, torch.arange(1500, device="cuda"), right=True) - 1

    def sees(b, h, i, j):
        return (document[i] == of_key[j]) & (j <= i + 500)

    mask = flex.create_block_mask(sees, None, None, 1000, 1500, device="cuda")
    lists = (mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices)
    ranges = (documents[document].expand(1, 1, -1), documents[document + 1].expand(1, 1, -1))
    shown = document[:, None] == of_key
    options = dict(causal=True, key_ranges=ranges, return_lse=True)
    for block_mask in (None, lists):
        out, lse = flashcore.attention(q, k, k, block_mask=block_mask, **options)
        check(out, q, k, k, lse, causal=True, shown=shown)


def test_compiled_ranges_and_blocks():
    q, k = normal(2, 300, 4, 64), normal(2, 700, 2, 64)
    ranges = torch.randint(0, 700, (2, 1, 300, 2), device="cuda", dtype=torch.int32)
    bitmap = torch.rand(1, 4, 3, 6, device="cuda") < 0.5

    def model(q, k, first, end, bitmap):
        return flashcore.attention(q, k, k, key_ranges=(first, end), block_mask=flashcore.block_lists(bitmap)) + 0

    torch._dynamo.reset()
    arguments = (q, k, *ranges.unbind(-1), bitmap)
    assert torch.equal(torch.compile(model, fullgraph=True)(*arguments), model(*arguments))


@pytest.mark.parametrize("seed", range(100))
def test_random_dropout(seed):
    generator = random.Random(seed)
    (q, k, v), _, arguments = random_problem(seed)
    threshold, offset = generator.randrange(1, 256), generator.randrange(2**32)
    p, seed = 1 - threshold / 256, generator.randrange(-(2**63), 2**64)
    options = arguments | random_options(generator, q.shape[2])
    out, lse = flashcore.attention(
        q, k, v, return_lse=True, dropout_p=p, dropout_seed=seed, dropout_offset=offset, **options
    )
    mask = torch.empty(q.shape[0], q.shape[2], q.shape[1], k.shape[1], device="cuda", dtype=torch.bool)
    factors = flashcore.dropout_mask(mask, p, seed=seed, offset=offset) * (256 / threshold)
    check(out, q, k, v, lse, factors=factors, **options)


@pytest.mark.parametrize("seed", range(200))
def test_random_merges(seed):
    generator = random.Random(seed)
    dtype = generator.choice([torch.float16, torch.bfloat16])
    head_dim = 8 * generator.randint(1, 64)
    shape = (
        generator.randint(1, 3),
        generator.choice([0, generator.randint(1, 2000)]),
        generator.randint(1, 9),
        head_dim,
    )
    torch.manual_seed(seed)
    o1, o2, out = (generator.choice(LAYOUTS)(shape, dtype) for _ in range(3))
    lse1, lse2, lse = (5 * torch.randn(shape[0], shape[2], shape[1], device="cuda") for _ in range(3))
    for o, sums in ((o1, lse1), (o2, lse2)):
        o.copy_(torch.randn(shape, device="cuda"))
        empty = torch.rand_like(sums) < 0.2
        sums[empty] = -torch.inf
        o[empty.transpose(1, 2)] = torch.nan
    expected, expected_lse = merged(o1, lse1, o2, lse2)
    out.fill_(torch.nan)
    found = flashcore.merge_attention_states(o1, lse1, o2, lse2, out=out, lse=lse)
    assert found[0] is out and found[1] is lse
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-5)
    if out.numel():
        assert (out.double() - expected).abs().max() <= 2 * ROUNDING[dtype] * expected.abs().max()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured, captured_lse = flashcore.merge_attention_states(o1, lse1, o2, lse2)
        captured.fill_(torch.nan)
        graph.replay()
        assert torch.equal(captured, out) and torch.equal(captured_lse, lse)
    place = generator.choice([(o1, lse1), (o2, lse2)])
    flashcore.merge_attention_states(o1, lse1, o2, lse2, out=place[0], lse=place[1])
    assert torch.equal(place[0], out) and torch.equal(place[1], lse)


def test_merges_follow_attention_and_can_be_compiled():
    q, k, v = normal(2, 256, 8, 128), normal(2, 1000, 2, 128), normal(2, 1000, 2, 128)
    past, own = slice(744), slice(744, 1000)

    def model(q, k, v):
        one = flashcore.attention(q, k[:, past], v[:, past], return_lse=True)
        other = flashcore.attention(q, k[:, own], v[:, own], causal=True, return_lse=True)
        return flashcore.merge_attention_states(*one, *other)

    out, lse = model(q, k, v)
    check(out, q, k, v, lse, causal=True)
    torch._dynamo.reset()
    compiled, compiled_lse = torch.compile(model, fullgraph=True)(q, k, v)
    assert torch.equal(compiled, out) and torch.equal(compiled_lse, lse)


def test_nothing_is_copied():
    qkv = normal(2, 1024, 3, 8, 128)
    q, k, v = qkv.unbind(2)
    flashcore.attention(q, k, v)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = flashcore.attention(q, k, v)
    assert torch.cuda.max_memory_allocated() - before == out.numel() * out.element_size()
    memory = torch.empty_like(out)
    pointer = memory.data_ptr()
    assert flashcore.attention(q, k, v, out=memory).data_ptr() == pointer
    assert torch.equal(memory, out)


def test_calls_return_before_the_work_is_done():
    q = normal(1, 512, 8, 64)
    flashcore.attention(q, q, q)
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda._sleep(1_000_000_000)  # about half a second
    start = time.perf_counter()
    out = flashcore.attention(q, q, q)
    seconds = time.perf_counter() - start
    done.record()
    assert not done.query() and seconds < 0.1
    check(out, q, q, q)


def test_side_streams():
    expected = normal(1, 300, 4, 128)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        q = torch.zeros_like(expected)
        torch.cuda._sleep(100_000_000)
        q.copy_(expected)  # on another stream than this one, attention would read zeros
        out = flashcore.attention(q, q, q)
    stream.synchronize()
    check(out, expected, expected, expected)


def test_threads_with_streams_of_their_own():
    failures = []

    def work(index):
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                q = normal(1, 100 + 30 * index, 4, 64)
                for _ in range(20):
                    out = flashcore.attention(q, q, q, causal=True)
                torch.cuda.current_stream().synchronize()
                check(out, q, q, q, causal=True)
                with pytest.raises(flashcore.ArgumentError, match=f"softmax scale -{index + 1} "):
                    flashcore.attention(q, q, q, scale=-index - 1)
        except BaseException as failure:  # pytest's failures are no Exceptions
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


CALLS = {
    "attention": lambda q, k, v: flashcore.attention(q, k, v, causal=True),
    "operator": lambda q, k, v: operators.attention(q, k, v, True),
    "drop-in": lambda q, k, v: flash_attn_interface.flash_attn_func(q, k, v, causal=True),
    "with_lse": lambda q, k, v: flashcore.attention(q, k, v, causal=True, return_lse=True)[0],
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_cuda_graphs(call):
    q, k = normal(2, 300, 8, 64), normal(2, 400, 2, 64)
    call(q, k, k)  # loads the kernel
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(q, k, k)
    for _ in range(3):
        q.copy_(normal(*q.shape))
        k.copy_(normal(*k.shape))
        out.fill_(torch.nan)
        graph.replay()
        assert torch.equal(out, call(q, k, k))
    check(out, q, k, k, causal=True)


def test_8_bits_on_streams_and_in_graphs():
    inputs = [[normal(1, 4096, 8, 128) for _ in "qkv"] for _ in range(4)]
    expected = [flashcore.attention_fp8(*qkv, causal=True, rotated=True) for qkv in inputs]
    for out, qkv in zip(expected, inputs):
        wide = flashcore.attention(*qkv, causal=True)
        assert (out.float() - wide.float()).norm() < 0.08 * wide.float().norm()
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    for _ in range(20):
        found = []
        for stream, qkv in zip(streams, inputs):
            with torch.cuda.stream(stream):
                found.append(flashcore.attention_fp8(*qkv, causal=True, rotated=True))
        torch.cuda.synchronize()
        assert all(map(torch.equal, found, expected))

    q, k, v = (x.clone() for x in inputs[0])
    out, room = torch.empty_like(q), flashcore.fp8_room(q, k, v, rotated=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        flashcore.attention_fp8(q, k, v, causal=True, room=room, out=out)
        with pytest.raises(flashcore.ArgumentError, match="needs a room that stays"):
            flashcore.attention_fp8(q, k, v)
    for of, qkv in zip(expected, inputs):
        for to, x in zip((q, k, v), qkv):
            to.copy_(x)
        graph.replay()
        assert torch.equal(out, of)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_graphs_have_no_break(mode):
    def model(q, k, v):
        out, lse = flashcore.attention(torch.sin(q), k, v, causal=True, return_lse=True)
        return flashcore.attention(out, k, v, scale=0.1) + 1, lse

    compiled = torch.compile(model, fullgraph=True, mode=mode)
    for _ in range(4):
        q, k = normal(2, 300, 8, 64), normal(2, 400, 2, 64)
        expected, expected_lse = model(q, k, k)
        found, lse = compiled(q, k, k)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(lse, expected_lse)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("causal", [False, True])
def test_operators_pass_opcheck(dtype, causal):
    q, k = normal(2, 100, 4, 64, dtype=dtype), normal(2, 120, 2, 64, dtype=dtype)
    transposed = normal(2, 4, 100, 64, dtype=dtype).transpose(1, 2)
    for query in (q, transposed):
        torch.library.opcheck(operators.attention, (query, k, k, causal, 0.3))
        torch.library.opcheck(operators.attention_with_lse, (query, k, k, causal, None))
        torch.library.opcheck(operators.attention_out, (query, k, k, torch.empty_like(query), causal, None))


def test_there_is_no_backward_pass():
    q = normal(1, 100, 2, 64).requires_grad_()
    for call in CALLS.values():
        with pytest.raises(NotImplementedError, match="no backward pass yet"):
            call(q, q, q).sum().backward()


@pytest.fixture
def activated(monkeypatch):
    """PyTorch's flash back end, computed by flashcore; the calls that reach it are listed."""
    attention = pytest.importorskip("torch.nn.attention")
    if not hasattr(attention, "activate_flash_attention_impl"):
        pytest.skip(f"PyTorch {torch.__version__} cannot exchange its flash attention")
    calls = []
    compute = operators.TORCH.compute
    monkeypatch.setattr(operators.TORCH, "compute", lambda *arguments: calls.append(1) or compute(*arguments))
    operators.register()
    attention.activate_flash_attention_impl(operators.NAME)
    with attention.sdpa_kernel(attention.SDPBackend.FLASH_ATTENTION):
        yield calls
    attention.restore_flash_attention_impl()


sdpa = torch.nn.functional.scaled_dot_product_attention


@pytest.mark.parametrize("head_dim", [64, 100, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_scaled_dot_product_attention(activated, head_dim, causal):
    q = normal(2, 8, 300, head_dim)
    k, v = normal(2, 2, 300, head_dim), normal(2, 2, 300, head_dim)
    out = sdpa(q, k, v, is_causal=causal, enable_gqa=True)
    assert len(activated) == 1
    check(*(x.transpose(1, 2) for x in (out, q, k, v)), causal=causal)


def test_what_flashcore_has_not_stays_pytorchs(activated):
    q, k, v = (normal(2, 4, 256, 64).requires_grad_() for _ in "qkv")
    assert sdpa(q, k, v, dropout_p=0.5).shape == q.shape and not activated
    gradients = torch.autograd.grad(sdpa(q, k, v, is_causal=True).square().sum(), (q, k, v))
    assert len(activated) == 1
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = torch.autograd.grad(sdpa(*exact, is_causal=True).square().sum(), exact)
    for found, reference in zip(gradients, expected):
        assert (found.double() - reference).abs().max() <= 0.02 * reference.abs().max()


def test_pytorch_has_its_own_back(activated):
    q = normal(1, 4, 64, 64)
    torch.nn.attention.restore_flash_attention_impl()
    sdpa(q, q, q)
    assert not activated


def test_compiled_scaled_dot_product_attention(activated):
    q = normal(2, 4, 200, 64)
    out = torch.compile(sdpa, fullgraph=True)(q, q, q)
    assert activated
    check(*(x.transpose(1, 2) for x in (out, q, q, q)))


def test_errors():
    q = normal(1, 100, 2, 64)
    with pytest.raises(flashcore.ArgumentError, match="k is CPU memory, but q is memory of CUDA device 0|k at 0x"):
        flashcore.attention(q, q.cpu(), q)
    with pytest.raises(flashcore.ArgumentError, match="k is memory of CUDA device 0, but q is CPU memory"):
        flashcore.attention(q.cpu(), q, q)
    with pytest.raises(flashcore.ArgumentError, match="overlaps that of q"):
        flashcore.attention(q, q.clone(), q, out=q)
    with pytest.raises(flashcore.ArgumentError, match="head_dim stride"):
        flashcore.attention(q.transpose(1, 3), q, q)
    with pytest.raises(flashcore.ArgumentTypeError, match="torch.float32"):
        flashcore.attention(q, q, q.float())


def test_two_devices():
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    q = normal(1, 100, 2, 64)
    other = q.to("cuda:1")
    out = flashcore.attention(other, other, other)  # while device 0 is the current one
    assert out.device == other.device and torch.equal(out.cpu(), flashcore.attention(q, q, q).cpu())
    with pytest.raises(flashcore.ArgumentError) as raised:
        flashcore.attention(q, other, other)
    assert raised.value.status == flashcore.Status.WRONG_DEVICE


def test_plans_and_preloading():
    flashcore.preload()
    q = normal(1, 100, 2, 64)
    assert "grid" in flashcore.plan(q, q, q)
