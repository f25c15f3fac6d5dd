"""PyTorch on the CPU, computed by the emulator: what needs no GPU to be right."""

import re
import subprocess
import sys

import numpy
import pytest
import reference
from cases import CASES
from hypothesis import given, settings

import flashcore

torch = pytest.importorskip("torch")

import flashcore.torch as operators  # noqa: E402

DTYPES = [torch.float16, torch.bfloat16]


def normal(*shape, dtype=torch.float16, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def numpy_of(tensor):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def check(out, q, k, v, lse=None, **options):
    reference.check(*map(numpy_of, (out, q, k, v)), None if lse is None else lse.numpy(), **options)


@settings(max_examples=30)
@given(case=CASES)
def test_results_are_those_of_the_reference(case):
    q, k, v, out = map(torch.from_numpy, case.arrays("float16"))
    options = dict(causal=case.causal, scale=case.scale)
    found, lse = flashcore.attention(q, k, v, return_lse=True, out=out, **options)
    assert found is out
    check(out, q, k, v, lse, **options)
    new = flashcore.attention(q, k, v, **options)
    assert torch.equal(new, out) and new.stride() == torch.empty_like(q).stride()


def test_bfloat16():
    q, k = normal(1, 70, 4, 64, dtype=torch.bfloat16), normal(1, 90, 2, 64, dtype=torch.bfloat16)
    check(flashcore.attention(q, k, k, causal=True), q, k, k, causal=True)


def test_broadcast_q_gets_an_output_of_its_own():
    q = normal(1, 20, 2, 64).expand(3, 20, 2, 64)
    check(flashcore.attention(q, q, q), q, q, q)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
def test_operators_pass_opcheck(dtype, causal):
    q, k = normal(2, 20, 4, 64, dtype=dtype), normal(2, 30, 2, 64, dtype=dtype)
    transposed = normal(2, 4, 20, 64, dtype=dtype).transpose(1, 2)
    for query in (q, transposed):
        torch.library.opcheck(operators.attention, (query, k, k, causal, 0.3))
        torch.library.opcheck(operators.attention_with_lse, (query, k, k, causal, None))
        torch.library.opcheck(operators.attention_out, (query, k, k, torch.empty_like(query), causal, None))
        torch.library.opcheck(operators.attention_with_lse, (query, k, k[..., :32], causal, None))


def ints(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


FEATURES = [
    dict(window=(5, 2), softcap=3.0),
    dict(causal=True, sinks=torch.tensor([0.5, -1.0, 2.0, 0.0])),
    dict(chunk=7, align="top-left"),
    dict(causal=True, prefix=ints(4, 9)),
    dict(seqused_q=ints(20, 20), seqused_kv=ints(30, 11)),
    dict(causal=True, alibi_slopes=torch.tensor([[0.5, 0.25, 0.125, 0.0], [0.1, 0.2, 0.3, 0.4]])),
    dict(bias=normal(2, 4, 20, 30), softcap=3.0),
    dict(causal=True, dropout_p=0.3, dropout_seed=-7, dropout_offset=2),
    dict(causal=True, key_ranges=torch.randint(-2, 33, (2, 1, 20, 2), dtype=torch.int32)),
    dict(block_mask=flashcore.block_lists(torch.tensor([True, False, True, True]).view(1, 4, 1, 1))),
    dict(
        key_ranges=torch.randint(-2, 33, (1, 4, 20, 2), dtype=torch.int32),
        block_mask=flashcore.block_lists(torch.tensor([True, False]).view(2, 1, 1, 1)),
    ),
    dict(bias=normal(1, 4, 1, 30).expand(2, 4, 20, 30), alibi_slopes=torch.tensor([0.5, 0.25, 0.125, 0.0])),
]


def packed():
    """q, k and v of sequences that lie one behind the other, and where they begin."""
    starts = dict(cu_seqlens_q=ints(0, 5, 30), cu_seqlens_kv=ints(0, 20, 40))
    return [normal(30, 4, 64), normal(40, 2, 64, seed=1), normal(40, 2, 64, seed=2)], starts


@pytest.mark.parametrize("options", FEATURES, ids=lambda options: "-".join(options))
def test_features_are_those_of_numpy(options):
    q, k = normal(2, 20, 4, 64), normal(2, 30, 2, 64)
    found, lse = flashcore.attention(q, k, k, return_lse=True, **options)
    arrays = {name: x.numpy() if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    if "block_mask" in options:
        arrays["block_mask"] = [x.numpy() for x in options["block_mask"]]
    expected, expected_lse = flashcore.attention(q.numpy(), k.numpy(), k.numpy(), return_lse=True, **arrays)
    assert (found.numpy() == expected).all() and (lse.numpy() == expected_lse).all()


@pytest.mark.parametrize("options", FEATURES, ids=lambda options: "-".join(options))
def test_operators_with_features_pass_opcheck(options):
    q, k = normal(2, 20, 4, 64), normal(2, 30, 2, 64)
    left, right = options.get("window", (None, None))
    named = {name: value for name, value in options.items() if name != "window"}
    named |= dict(window_left=left, window_right=right)
    if "block_mask" in named:
        named["kv_num_blocks"], named["kv_indices"] = named.pop("block_mask")
    for operator, tensors in [
        (operators.attention, (q, k, k)),
        (operators.attention_with_lse, (q, k, k)),
        (operators.attention_out, (q, k, k, torch.empty_like(q))),
    ]:
        torch.library.opcheck(operator, tensors, named)
    assert torch.equal(operators.attention(q, k, k, **named), flashcore.attention(q, k, k, **options))


def test_packed_sequences_are_those_of_numpy_and_pass_opcheck():
    (q, k, v), starts = packed()
    out, lse = flashcore.attention(q, k, v, causal=True, return_lse=True, **starts)
    arrays = {name: x.numpy() for name, x in starts.items()}
    expected, expected_lse = flashcore.attention(
        q.numpy(), k.numpy(), v.numpy(), causal=True, return_lse=True, **arrays
    )
    assert (out.numpy() == expected).all() and (lse.numpy() == expected_lse).all() and lse.shape == (4, 30)
    torch.library.opcheck(operators.attention, (q, k, v), starts)
    torch.library.opcheck(operators.attention_with_lse, (q, k, v), starts)
    torch.library.opcheck(operators.attention_out, (q, k, v, torch.empty_like(q)), starts)
    meta = [x.to("meta") for x in (q, k, v)]
    found, lse = flashcore.attention(*meta, return_lse=True, **{name: x.to("meta") for name, x in starts.items()})
    assert found.is_meta and found.shape == q.shape and lse.shape == (4, 30)


def test_features_can_be_compiled():
    (q, k, v), starts = packed()

    def model(q, k, v, out, **starts):
        first, lse = flashcore.attention(q * 1, k, v, causal=True, window=(6, None), return_lse=True, **starts)
        flashcore.attention(q, k, v, softcap=4.0, out=out, dropout_p=0.5, dropout_seed=2**64 - 7, **starts)
        return first + 0, lse

    out = torch.empty_like(q)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    first, lse = compiled(q, k, v, out, **starts)
    expected = flashcore.attention(q, k, v, causal=True, window=(6, None), return_lse=True, **starts)
    assert torch.equal(first, expected[0]) and torch.equal(lse, expected[1])
    assert torch.equal(out, flashcore.attention(q, k, v, softcap=4.0, dropout_p=0.5, dropout_seed=-7, **starts))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_masks_of_dropout(dtype):
    mask = flashcore.dropout_mask(torch.empty(1, 2, 30, 40, dtype=dtype), 0.25, seed=9)
    expected = flashcore.dropout_mask(numpy.empty((1, 2, 30, 40), bool), 0.25, seed=9)
    assert (mask.numpy() == expected).all()


@pytest.mark.parametrize(
    "options",
    [
        dict(sinks=torch.zeros(4, requires_grad=True)),
        dict(alibi_slopes=torch.zeros(4, requires_grad=True)),
        dict(bias=torch.zeros(1, 4, 20, 20, dtype=torch.float16, requires_grad=True)),
    ],
    ids=lambda options: "-".join(options),
)
def test_what_goes_along_has_no_backward_pass(options):
    q = normal(2, 20, 4, 64)
    for out in (flashcore.attention(q, q, q, **options), flashcore.attention(q, q, q, return_lse=True, **options)[1]):
        with pytest.raises(flashcore.UnsupportedError, match="no backward pass yet"):
            out.sum().backward()
    with torch.no_grad():
        assert not flashcore.attention(q, q, q, **options).requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_biases_are_those_of_the_reference(dtype):
    q, k, v = (normal(2, *shape, 64, dtype=dtype, seed=shape[0]) for shape in ((20, 4), (31, 2), (31, 2)))
    bias, slopes = normal(2, 4, 20, 31, dtype=dtype, seed=2), torch.tensor([0.5, 0.25, 0.125, 0.0625])
    room = torch.nn.functional.pad(bias, (0, 1))[..., :-1]
    out, lse = flashcore.attention(q, k, v, bias=room, alibi_slopes=slopes, return_lse=True)
    check(out, q, k, v, lse, bias=numpy_of(bias), alibi_slopes=slopes.numpy())


def test_biases_without_room_are_refused():
    q, k = normal(2, 20, 4, 64), normal(2, 31, 4, 64)
    cure = re.escape(": take torch.nn.functional.pad(bias, (0, 1))[..., :-1]")
    with pytest.raises(flashcore.ArgumentError, match=r"bias has seqlen_q stride 31 \(elements\).*" + cure):
        flashcore.attention(q, k, k, bias=normal(1, 1, 20, 31))
    with pytest.raises(flashcore.ArgumentError, match="bias reaches over 64 bytes, but has only 62, since .*" + cure):
        flashcore.attention(q, k, k, bias=normal(1, 1, 1, 31))
    with pytest.raises(flashcore.ArgumentError, match=re.escape("30 apart: take bias.contiguous()")):
        flashcore.attention(q, k[:, :20], k[:, :20], bias=normal(1, 1, 20, 30)[..., :20].transpose(2, 3))


def test_biases_can_be_compiled():
    q, k, bias, slopes = normal(2, 20, 4, 64), normal(2, 30, 4, 64), normal(1, 4, 20, 30), torch.rand(4)

    def model(q, k, bias, slopes):
        return flashcore.attention(q, k, k, bias=bias * 2, alibi_slopes=slopes) + 0

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, bias, slopes), model(q, k, bias, slopes))


def test_ranges_and_block_masks_can_be_compiled():
    q, k = normal(1, 150, 2, 64), normal(1, 300, 2, 64)
    first, end = (torch.randint(0, 300, (1, 2, 150), dtype=torch.int32) for _ in "12")
    visible, full = torch.rand(1, 2, 2, 3) < 0.7, torch.rand(1, 2, 2, 3) < 0.5

    def model(q, k, first, end, visible, full):
        lists = (*flashcore.block_lists(visible & ~full), *flashcore.block_lists(visible & full))
        return flashcore.attention(q, k, k, key_ranges=(first, end), block_mask=lists) + 0

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(q, k, first, end, visible, full)
    assert torch.equal(found, model(q, k, first, end, visible, full))
    expected = dict(ranges=torch.stack((first, end), -1).numpy(), blocks=visible.numpy())
    check(found, q, k, k, **expected)


def test_block_masks_of_flex_attention():
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    q, k = normal(1, 300, 2, 64), normal(1, 500, 2, 64)
    causal = lambda b, h, i, j: (i + 200 >= j) & ((h == 0) | (j >= 256))  # noqa: E731
    mask = flex.create_block_mask(causal, 1, 2, 300, 500, device="cpu")
    lists = (mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices)
    assert lists[0].any() and lists[2].any()
    blocks = torch.ones(1, 2, 3, 4, dtype=torch.bool)
    blocks[:, 1, :, :2] = False
    for same in (lists, flashcore.block_lists(mask.to_dense().bool())):
        out, lse = flashcore.attention(q, k, k, causal=True, block_mask=same, return_lse=True)
        check(out, q, k, k, lse, causal=True, blocks=blocks.numpy())


def test_lists_of_bitmaps():
    visible = torch.rand(2, 3, 4, 5) < 0.5
    for same in (visible, visible.transpose(2, 3).contiguous().transpose(2, 3), visible[:1].expand(2, 3, 4, 5)):
        counts, indices = flashcore.block_lists(same)
        expected = flashcore.block_lists(same.numpy())
        assert (counts.numpy() == expected[0]).all() and (indices.numpy() == expected[1]).all()
        assert counts.dtype == indices.dtype == torch.int32 and counts.is_contiguous() and indices.is_contiguous()
    with pytest.raises(flashcore.ArgumentTypeError, match="visible has element type int32; bool is needed"):
        flashcore.block_lists(visible.int())


def test_operators_need_both_lists():
    q, (counts, indices) = normal(1, 20, 4, 64), flashcore.block_lists(torch.ones(1, 1, 1, 1, dtype=torch.bool))
    for half in (dict(kv_num_blocks=counts), dict(kv_indices=indices)):
        with pytest.raises(flashcore.ArgumentError, match="a block mask needs both kv_num_blocks and kv_indices"):
            operators.attention(q, q, q, **half)
    with pytest.raises(flashcore.ArgumentError, match=r"kv_indices has shape \(1, 1, 2, 1\); it must be that of"):
        operators.attention(q, q, q, kv_num_blocks=counts, kv_indices=indices.repeat(1, 1, 2, 1))


def test_arrays_of_other_things_are_refused():
    q = normal(2, 20, 4, 64)
    with pytest.raises(flashcore.ArgumentTypeError, match="seqused_kv has element type torch.int64; i32 is needed"):
        flashcore.attention(q, q, q, seqused_kv=torch.tensor([1, 2]))
    with pytest.raises(flashcore.ArgumentTypeError, match="seqused_kv is a numpy.ndarray, but q is a torch.Tensor"):
        flashcore.attention(q, q, q, seqused_kv=ints(1, 2).numpy())


def test_8_bits_are_those_of_numpy():
    q, k = normal(2, 20, 4, 64), normal(2, 30, 2, 64)
    for options in (dict(causal=True), dict(format="e5m2", rotated=True), dict(per_tensor=True, softcap=3.0)):
        found, lse = flashcore.attention_fp8(q, k, k, return_lse=True, **options)
        arrays = q.numpy(), k.numpy(), k.numpy()
        expected, expected_lse = flashcore.attention_fp8(*arrays, return_lse=True, **options)
        assert (found.numpy() == expected).all() and (lse.numpy() == expected_lse).all()
        out = torch.empty_like(q)
        assert flashcore.attention_fp8(q, k, k, out=out, **options) is out and torch.equal(out, found)


def test_the_operator_of_8_bits():
    q, k = normal(2, 20, 4, 64), normal(2, 30, 2, 64)
    for seed in (None, -5):
        torch.library.opcheck(operators.attention_fp8, (q, k, k, "e4m3", True, False, seed, 3, True, 0.3))

    def model(q, k):
        out, lse = flashcore.attention_fp8(q * 1, k, k, rotated=True, softcap=3.0, return_lse=True)
        by_chance = flashcore.attention_fp8(q, k, k, rounding_seed=2**64 - 5, rounding_offset=2**32 - 1)
        return out + 0, lse, flashcore.attention_fp8(q, k, k, rotated=True, softcap=3.0), by_chance

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(q, k), model(q, k)):
        assert torch.equal(found, expected)
    q.requires_grad_()
    with pytest.raises(flashcore.UnsupportedError, match="no backward pass yet"):
        flashcore.attention_fp8(q, k, k).sum().backward()
    with pytest.raises(flashcore.ArgumentError, match="out and room cannot be given"):
        flashcore.attention_fp8(q, k, k, room=flashcore.fp8_room(q, k, k))


def states(dtype=torch.float16):
    """Two states of the same queries."""
    q = normal(2, 20, 4, 64, dtype=dtype)
    keys = normal(2, 30, 2, 64, dtype=dtype, seed=1), normal(2, 50, 2, 64, dtype=dtype, seed=2)
    return [tensor for k in keys for tensor in flashcore.attention(q, k, k, return_lse=True)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_merges_are_those_of_the_reference(dtype):
    inputs = states(dtype)
    expected = [numpy_of(tensor).copy() for tensor in inputs]
    out, lse = flashcore.merge_attention_states(*inputs)
    reference.check_merged(numpy_of(out), lse.numpy(), *expected)
    found = flashcore.merge_attention_states(*inputs, out=inputs[2], lse=inputs[1])
    assert found[0] is inputs[2] and found[1] is inputs[1]
    assert torch.equal(inputs[2], out) and torch.equal(inputs[1], lse)


def test_operators_that_merge_pass_opcheck():
    inputs = states()
    inputs[2] = inputs[2].transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(operators.merge_attention_states, inputs)
    outputs = torch.empty_like(inputs[2]), torch.empty_like(inputs[1])
    torch.library.opcheck(operators.merge_attention_states_out, (*inputs, *outputs))


def test_merges_can_be_compiled_and_traced():
    o1, lse1, o2, lse2 = states()
    expected, expected_lse = flashcore.merge_attention_states(o1, lse1, o2, lse2)

    def model(o1, lse1, o2, lse2, out):
        first, lse = flashcore.merge_attention_states(o1 * 1, lse1, o2, lse2)
        second, _ = flashcore.merge_attention_states(o1, lse1, o2, lse2, out=out)
        return first + 0, lse, second

    out = torch.empty_like(o1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    first, lse, second = compiled(o1, lse1, o2, lse2, out)
    assert torch.equal(lse, expected_lse)
    for result in (first, second, out):
        assert torch.equal(result, expected)
    meta = [tensor.to("meta") for tensor in (o1, lse1, o2, lse2)]
    out, lse = flashcore.merge_attention_states(*meta)
    assert out.is_meta and out.shape == o1.shape and lse.shape == lse1.shape


def test_merges_have_no_backward_pass():
    o1, lse1, o2, lse2 = states()
    lse2.requires_grad_()
    out, lse = flashcore.merge_attention_states(o1, lse1, o2, lse2)
    for result in (out, lse):
        with pytest.raises(flashcore.UnsupportedError, match="no backward pass yet"):
            result.sum().backward(retain_graph=True)
    with pytest.raises(flashcore.ArgumentError, match="out and lse cannot be given"):
        flashcore.merge_attention_states(o1, lse1, o2, lse2, out=o1)
    with torch.no_grad():
        assert not flashcore.merge_attention_states(o1, lse1, o2, lse2)[0].requires_grad


def test_merges_of_other_things_are_refused():
    o1, lse1, o2, lse2 = states()
    with pytest.raises(flashcore.ArgumentTypeError, match="lse2 has element type torch.float64; f32 is needed"):
        flashcore.merge_attention_states(o1, lse1, o2, lse2.double())
    with pytest.raises(flashcore.ArgumentTypeError, match="lse1 is a numpy.ndarray, but o1 is a torch.Tensor"):
        flashcore.merge_attention_states(o1, lse1.numpy(), o2, lse2)


def test_compiled_graphs_have_no_break():
    q, k = normal(1, 20, 4, 64), normal(1, 30, 2, 64)
    expected, lse = flashcore.attention(q, k, k, causal=True, return_lse=True)

    def model(q, k, v, out):
        first = flashcore.attention(q * 1, k, v, causal=True)
        second, lse = flashcore.attention(q, k, v, causal=True, return_lse=True)
        third = flashcore.attention(q, k, v, causal=True, out=out)
        return first + 0, second, lse, third

    out = torch.empty_like(q)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    first, second, found, third = compiled(q, k, k, out)
    for result in (first, second, third, out):
        assert torch.equal(result, expected)
    assert torch.equal(found, lse)


def test_the_first_call_may_be_a_compiled_one():
    script = (
        "{}\n"
        "q = torch.ones(1, 20, 2, 64, dtype=torch.float16)\n"
        "call = lambda q: flashcore.attention(q, q, q, causal=True)\n"
        "print(torch.compile(call, fullgraph=True, backend='aot_eager')(q).sum().item())"
    )
    for imports in ("import torch, flashcore", "import flashcore, torch, flashcore.torch"):
        result = subprocess.run(
            [sys.executable, "-c", script.format(imports)], capture_output=True, text=True, check=False
        )
        assert result.stdout == "2560.0\n", result.stderr


def test_there_is_no_backward_pass():
    q, k = normal(1, 20, 2, 64).requires_grad_(), normal(1, 30, 2, 64)
    for out in (
        flashcore.attention(q, k, k),
        flashcore.attention(k, q, q, return_lse=True)[0],
        operators.attention(q, k, k),
    ):
        assert out.requires_grad
        with pytest.raises(NotImplementedError, match="no backward pass yet") as raised:
            out.sum().backward()
        assert isinstance(raised.value, flashcore.UnsupportedError)
    with torch.no_grad():
        assert not flashcore.attention(q, k, k).requires_grad
    with pytest.raises(flashcore.ArgumentError, match="out cannot be given where a backward pass is recorded"):
        flashcore.attention(q, k, k, out=torch.empty_like(q))


def test_parameters_and_subclasses():
    q = torch.nn.Parameter(normal(1, 20, 2, 64))
    with torch.no_grad():
        check(flashcore.attention(q, q, q), q, q, q)
    labelled = q.detach().as_subclass(type("Labelled", (torch.Tensor,), {}))
    check(flashcore.attention(labelled, q.detach(), q.detach()).as_subclass(torch.Tensor), q, q, q)


def test_tensors_without_memory_have_a_shape():
    q = normal(2, 20, 4, 64)
    out, lse = flashcore.attention(q.to("meta"), q.to("meta"), q.to("meta"), return_lse=True)
    assert out.is_meta and out.shape == q.shape and lse.shape == (2, 4, 20)
    with pytest.raises(flashcore.ArgumentError, match="q has 3 dimensions"):
        flashcore.attention(q[0].to("meta"), q, q)
    with pytest.raises(flashcore.ArgumentError, match="k is on device meta; cuda and cpu are supported"):
        flashcore.attention(q, q.to("meta"), q)


@pytest.mark.parametrize(
    "change, kind, message",
    [
        (lambda q: q.float(), TypeError, "q has element type torch.float32; f16 and bf16 are supported"),
        (lambda q: q.bfloat16(), TypeError, "k has element type f16, but bf16 is needed"),
        (lambda q: q[0], ValueError, "q has 3 dimensions"),
        (lambda q: q.transpose(1, 3), ValueError, "q has head_dim stride 128 (elements); it must be 1"),
        (lambda q: q[..., :12], ValueError, "head_dim 12 is not supported"),
        (lambda q: q.numpy(), TypeError, "k is a torch.Tensor, but q is a numpy.ndarray"),
        (lambda q: torch.nn.Identity(), TypeError, "which is no tensor"),
    ],
)
def test_errors(change, kind, message):
    q = normal(1, 64, 2, 64)
    with pytest.raises(kind) as raised:
        flashcore.attention(change(q), q, q)
    assert message in str(raised.value) and isinstance(raised.value, flashcore.Error)


def test_the_warning_points_to_the_caller():
    q = normal(1, 8, 2, 64)
    with pytest.warns(flashcore.EmulatedWarning) as warned:
        flashcore.attention(q, q, q)
    assert [warning.filename for warning in warned] == [__file__]


def test_plans():
    q = normal(1, 64, 2, 64)
    assert "seqlen 64 x 64" in flashcore.plan(q, q, q)


def test_the_registration_computes_and_goes():
    attention = pytest.importorskip("torch.nn.attention")
    if not hasattr(attention, "activate_flash_attention_impl"):
        pytest.skip(f"PyTorch {torch.__version__} cannot exchange its flash attention")
    operators.register()
    assert operators.NAME in attention.list_flash_attention_impls()
    attention.activate_flash_attention_impl(operators.NAME)
    assert attention.current_flash_attention_impl() == operators.NAME
    attention.restore_flash_attention_impl()
    assert attention.current_flash_attention_impl() is None

    registration = operators._Registration()
    q, k = normal(1, 2, 20, 64), normal(1, 2, 30, 64)
    out, lse, *_ = registration.forward(None, q, k, k, 0.0, False, scale=0.3)
    registration.remove()
    check(*(x.transpose(1, 2) for x in (out, q, k, k)), lse, scale=0.3)
    assert out.stride() == q.stride()
