"""Windows, chunks, prefixes, key ranges, block masks, softcap, sinks, ALiBi, biases, dropout and sequences of their own
lengths, on NumPy's arrays, by the emulator."""

import re

import numpy as np
import pytest
import reference

import flashcore
from flashcore import Status


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


def ints(*numbers):
    return np.array(numbers, np.int32)


Q, K, V = normal(2, 70, 4, 64), normal(2, 90, 2, 64, seed=1), normal(2, 90, 2, 64, seed=2)
SINKS = np.array([-np.inf, 0.5, 3.0, -1.0], np.float32)
SLOPES = np.array([0.5, 0.25, 0.0, -0.01], np.float32)
HIDES = np.where(normal(2, 4, 70, 90) > 0.7, np.float16(-np.inf), np.float16(0))

DENSE = [
    dict(window=(20, 3)),
    dict(window=(None, 5)),
    dict(window=(0, 0)),
    dict(window=(30, None), align="top-left"),
    dict(causal=True, align="top-left"),
    dict(causal=True, window=(10, 50)),
    dict(chunk=16),
    dict(chunk=25, causal=True),
    dict(softcap=2.0),
    dict(softcap=2.0, approximate_softcap=True),
    dict(softcap=2.0, causal=True, scale=0.5),
    dict(sinks=SINKS),
    dict(sinks=SINKS, window=(7, 7)),
    dict(prefix=ints(40, 0), causal=True),
    dict(prefix=ints(3, 200), window=(None, 4)),
    dict(alibi_slopes=SLOPES),
    dict(alibi_slopes=SLOPES, causal=True, window=(30, None)),
    dict(bias=normal(2, 4, 70, 90)),
    dict(bias=normal(1, 4, 1, 90), softcap=2.0, scale=0.5),
    dict(bias=HIDES, sinks=SINKS),
    dict(bias=normal(1, 1, 70, 90), alibi_slopes=SLOPES, causal=True),
    dict(seqused_kv=ints(31, 0)),
    dict(seqused_kv=ints(90, 64), causal=True, window=(20, None)),
]


@pytest.mark.parametrize("options", DENSE, ids=lambda options: "-".join(options))
def test_dense(options):
    out, lse = flashcore.attention(Q, K, V, return_lse=True, **options)
    for b in range(2):
        per_sequence = {name: options[name][b] for name in ("prefix",) if name in options}
        used = options.get("seqused_kv", ints(90, 90))[b]
        if "bias" in options:
            per_sequence["bias"] = options["bias"][b % len(options["bias"]), :, :, :used]
        others = {name: value for name, value in options.items() if name not in ("prefix", "seqused_kv", "bias")}
        one = slice(b, b + 1)
        reference.check(out[one], Q[one], K[one, :used], V[one, :used], lse[one], **others, **per_sequence)


@pytest.mark.parametrize("columns", [8, 128, 256, 512])
def test_values_have_a_head_dim_of_their_own(columns):
    v = normal(2, 90, 2, columns, seed=4)
    out, lse = flashcore.attention(Q, K, v, causal=True, return_lse=True)
    assert out.shape == (2, 70, 4, columns)
    reference.check(out, Q, K, v, lse, causal=True)
    assert "head_dim 64 x " in flashcore.plan(Q, K, v)


def ranges(*sizes, keys=90, seed=0):
    """Any, some of them empty, some beyond the keys."""
    return np.random.default_rng(seed).integers(-3, keys + 9, (*sizes, 2), np.int32)


def bitmap(*sizes, seed=0):
    return np.random.default_rng(seed).random(sizes) < 0.6


@pytest.mark.parametrize("sizes", [(1, 1), (2, 4), (1, 4), (2, 1)])
@pytest.mark.parametrize(
    "options",
    [dict(), dict(causal=True, sinks=SINKS), dict(prefix=ints(40, 40), causal=True)],
    ids=lambda options: "-".join(options) or "alone",
)
def test_key_ranges(options, sizes):
    given = ranges(*sizes, 70)
    out, lse = flashcore.attention(Q, K, V, key_ranges=given, return_lse=True, **options)
    others = options | ({"prefix": 40} if "prefix" in options else {})
    reference.check(out, Q, K, V, lse, ranges=given, **others)
    for pair in ((given[..., 0], given[..., 1]), list(given.transpose(3, 0, 1, 2))):
        assert np.array_equal(flashcore.attention(Q, K, V, key_ranges=pair, **options), out)


LONG_Q, LONG_K = normal(2, 150, 2, 64, seed=5), normal(2, 300, 1, 64, seed=6)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("options", [dict(), dict(causal=True)], ids=lambda options: "-".join(options) or "alone")
def test_block_masks(options, sizes):
    visible = bitmap(*sizes, 2, 3, seed=sum(sizes))
    mask = flashcore.block_lists(visible)
    out, lse = flashcore.attention(LONG_Q, LONG_K, LONG_K, block_mask=mask, return_lse=True, **options)
    reference.check(out, LONG_Q, LONG_K, LONG_K, lse, blocks=visible, **options)
    # FlexAttention's, of which only some blocks are full; what it has no number of may be anything.
    full = visible & bitmap(*sizes, 2, 3, seed=9)
    lists = []
    for part in (visible & ~full, full):
        counts, indices = flashcore.block_lists(part)
        lists += [counts, np.where(np.arange(3) < counts[..., None], indices, -7).astype(np.int32)]
    joined, lse = flashcore.attention(LONG_Q, LONG_K, LONG_K, block_mask=lists, return_lse=True, **options)
    reference.check(joined, LONG_Q, LONG_K, LONG_K, lse, blocks=visible, **options)
    for same in ((*mask, None, None), (mask[0], mask[1][..., : mask[0].max()].copy())):
        assert np.array_equal(flashcore.attention(LONG_Q, LONG_K, LONG_K, block_mask=same, **options), out)
    given = ranges(*sizes, 150, keys=300)
    both, lse = flashcore.attention(
        LONG_Q, LONG_K, LONG_K, block_mask=mask, key_ranges=given, return_lse=True, **options
    )
    reference.check(both, LONG_Q, LONG_K, LONG_K, lse, blocks=visible, ranges=given, **options)


def test_lists_of_bitmaps():
    visible = bitmap(2, 3, 4, 5)
    for same in (visible, np.asfortranarray(visible), np.broadcast_to(visible[:1], visible.shape)):
        counts, indices = flashcore.block_lists(same)
        assert (
            counts.dtype == indices.dtype == np.int32 and counts.shape == (2, 3, 4) and indices.shape == visible.shape
        )
        assert counts.flags.c_contiguous and indices.flags.c_contiguous
        for place in np.ndindex(counts.shape):
            assert indices[place][: counts[place]].tolist() == np.flatnonzero(same[place]).tolist()
            assert sorted(indices[place]) == [0, 1, 2, 3, 4]
    assert [x.shape for x in flashcore.block_lists(bitmap(1, 1, 0, 5))] == [(1, 1, 0), (1, 1, 0, 5)]
    assert flashcore.block_lists(bitmap(1, 1, 2, 0))[0].tolist() == [[[0, 0]]]
    for wrong, kind, message in (
        (visible.astype(np.uint8), TypeError, "visible has element type uint8; bool is needed"),
        (
            visible[0],
            ValueError,
            "visible has 3 dimensions (3, 4, 5); it must have 4: (batch, heads_q, blocks of queries, blocks of keys)",
        ),
        ([[True]], TypeError, "visible is a builtins.list, which is no tensor"),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            flashcore.block_lists(wrong)


DROPOUT = dict(dropout_p=0.25, dropout_seed=2**64 - 5, dropout_offset=2**32 - 1)


@pytest.mark.parametrize(
    "options", [dict(), dict(causal=True, softcap=3.0, sinks=SINKS)], ids=lambda options: "-".join(options) or "alone"
)
def test_dropout(options):
    out, lse = flashcore.attention(Q, K, V, return_lse=True, **DROPOUT, **options)
    mask = flashcore.dropout_mask(np.empty((2, 4, 70, 90), bool), 0.25, seed=2**64 - 5, offset=2**32 - 1)
    assert abs(mask.mean() - 0.75) < 5 * (0.75 * 0.25 / mask.size) ** 0.5
    reference.check(out, Q, K, V, lse, factors=mask / 0.75, **options)
    assert np.array_equal(out, flashcore.attention(Q, K, V, **(DROPOUT | {"dropout_seed": -5}), **options))
    for other in ({"dropout_seed": 3}, {"dropout_offset": 0}):
        assert not np.array_equal(out, flashcore.attention(Q, K, V, **(DROPOUT | other), **options))


def test_no_dropout():
    assert np.array_equal(flashcore.attention(Q, K, V, dropout_p=0.0, dropout_seed=7), flashcore.attention(Q, K, V))


def test_masks_of_dropout():
    first = flashcore.dropout_mask(np.full((1, 2, 20, 30), 7, np.uint8), 0.5)
    assert set(np.unique(first)) == {0, 1}
    larger = flashcore.dropout_mask(np.empty((1, 2, 50, 77), np.uint8), 0.5)
    assert np.array_equal(first, larger[:, :, :20, :30])
    assert flashcore.dropout_mask(np.empty((1, 0, 20, 30), bool), 0.5).size == 0
    for mask, options, kind, message in (
        (np.empty((1, 2, 3, 4)), {}, TypeError, "mask has element type float64; uint8 and bool are supported"),
        (np.empty((2, 3, 4), bool), {}, ValueError, "mask has 3 dimensions (2, 3, 4); it must have 4"),
        (
            np.empty((1, 2, 3, 8), bool)[..., ::2],
            {},
            ValueError,
            "mask has seqlen_kv stride 2 (elements); it must be 1: contiguous",
        ),
        (np.empty((1, 2, 3, 4), bool), dict(p=1.0), ValueError, "a dropout of 1 is not supported"),
        (
            np.empty((1, 2, 3, 4), bool),
            dict(seed=2**64),
            ValueError,
            "dropout_seed is 18446744073709551616; it must have 64 bits",
        ),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            flashcore.dropout_mask(mask, **({"p": 0.5} | options))


def test_slopes_of_each_sequence():
    slopes = np.stack([SLOPES, 2 * SLOPES])
    out, lse = flashcore.attention(Q, K, V, alibi_slopes=slopes, return_lse=True)
    for b in range(2):
        one = slice(b, b + 1)
        reference.check(out[one], Q[one], K[one], V[one], lse[one], alibi_slopes=slopes[b])
    q, k, v = Q.reshape(140, 4, 64), K.reshape(180, 2, 64), V.reshape(180, 2, 64)
    starts = dict(cu_seqlens_q=ints(0, 70, 140), cu_seqlens_kv=ints(0, 90, 180))
    assert np.array_equal(flashcore.attention(q, k, v, alibi_slopes=slopes, **starts).reshape(out.shape), out)
    same = flashcore.attention(Q, K, V, alibi_slopes=SLOPES)
    assert np.array_equal(flashcore.attention(Q, K, V, alibi_slopes=SLOPES[None]), same)


def test_a_bias_may_lie_in_many_ways():
    bias = normal(2, 4, 70, 90, seed=3)
    expected = flashcore.attention(Q, K, V, bias=bias)
    wider = np.full((70, 2, 4, 98), np.nan, np.float16)[..., 4:94].transpose(1, 2, 0, 3)
    wider[...] = bias
    assert np.array_equal(flashcore.attention(Q, K, V, bias=wider), expected)
    row = normal(1, 4, 1, 90, seed=4)
    expected = flashcore.attention(Q, K, V, bias=np.ascontiguousarray(np.broadcast_to(row, bias.shape)))
    for same in (
        row,
        np.broadcast_to(row, bias.shape),
        np.broadcast_to(row[0, :, 0], (70, 4, 90)).transpose(1, 0, 2)[None],
    ):
        assert np.array_equal(flashcore.attention(Q, K, V, bias=same), expected)


@pytest.mark.parametrize("keys", [1, 89])
def test_an_odd_number_of_keys_needs_room(keys):
    k, v, bias = K[:, :keys], V[:, :keys], normal(2, 4, 70, keys)
    room = np.pad(bias, [(0, 0), (0, 0), (0, 0), (0, 1)], constant_values=np.nan)[..., :-1]
    out, lse = flashcore.attention(Q, k, v, bias=room, return_lse=True)
    reference.check(out, Q, k, v, lse, bias=bias)
    last = room[1:, 3:, 69:]
    assert np.array_equal(
        flashcore.attention(Q, k, v, bias=last), flashcore.attention(Q, k, v, bias=np.broadcast_to(last, bias.shape))
    )
    cure = re.escape("take numpy.pad(bias, [(0, 0), (0, 0), (0, 0), (0, 1)])[..., :-1]")
    message = rf"bias has seqlen_q stride {keys} \(elements\); it must be a multiple of 2"
    with pytest.raises(flashcore.ArgumentError, match=f"{message}: {cure}"):
        flashcore.attention(Q, k, v, bias=bias)
    message = f"bias reaches over {2 * keys + 2} bytes, but has only {2 * keys}, since .*: {cure}"
    with pytest.raises(flashcore.ArgumentError, match=message):
        flashcore.attention(Q, k, v, bias=bias[0, 0, 0].copy()[None, None, None])


STARTS_Q, STARTS_KV = ints(0, 30, 30, 95, 100), ints(0, 40, 50, 50, 140)


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(causal=True),
        dict(window=(9, 2), softcap=3.0, sinks=SINKS),
        dict(chunk=12),
        dict(causal=True, scale=0.3),
        dict(alibi_slopes=SLOPES),
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("used", [False, True])
def test_packed(options, used, heads_first):
    q, k, v = normal(100, 4, 64), normal(140, 2, 64, seed=1), normal(140, 2, 64, seed=2)
    if heads_first:
        q, k, v = (np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2) for x in (q, k, v))
    lengths = [np.diff(STARTS_Q), np.diff(STARTS_KV)]
    arguments = {}
    if used:
        lengths = [ints(20, 0, 65, 3), ints(40, 5, 0, 60)]
        arguments = dict(seqused_q=lengths[0], seqused_kv=lengths[1])
    out = np.full_like(q, 7)
    found, lse = flashcore.attention(
        q, k, v, cu_seqlens_q=STARTS_Q, cu_seqlens_kv=STARTS_KV, return_lse=True, out=out, **arguments, **options
    )
    assert found is out and lse.shape == (4, 100)
    unused = np.ones(100, bool)
    for start_q, start_kv, rows, keys in zip(STARTS_Q, STARTS_KV, *lengths):
        queries, keys = slice(start_q, start_q + rows), slice(start_kv, start_kv + keys)
        unused[queries] = False
        reference.check(
            out[None, queries], q[None, queries], k[None, keys], v[None, keys], lse[None, :, queries], **options
        )
    assert np.all(out[unused] == 7)
    new = flashcore.attention(q, k, v, cu_seqlens_q=STARTS_Q, cu_seqlens_kv=STARTS_KV, **arguments, **options)
    assert np.array_equal(new[~unused], out[~unused])
    assert np.argsort(new.strides).tolist() == np.argsort(q.strides).tolist()


def test_packed_sequences_have_ranges_and_blocks():
    q, k = normal(330, 4, 64), normal(400, 2, 64, seed=1)
    starts = dict(cu_seqlens_q=ints(0, 150, 150, 330), cu_seqlens_kv=ints(0, 290, 300, 400))
    given, visible = ranges(4, 330, keys=250), bitmap(3, 1, 2, 3)
    masks = [
        dict(key_ranges=given),
        dict(key_ranges=(given[..., 0], given[..., 1])),
        dict(block_mask=flashcore.block_lists(visible)),
    ]
    outs = [flashcore.attention(q, k, k, causal=True, return_lse=True, **starts, **mask) for mask in masks]
    for b in range(3):
        rows, keys = (slice(starts[name][b], starts[name][b + 1]) for name in ("cu_seqlens_q", "cu_seqlens_kv"))
        wanted = [dict(ranges=given[None, :, rows]), dict(ranges=given[None, :, rows]), dict(blocks=visible[b : b + 1])]
        for (out, lse), options in zip(outs, wanted):
            check = (out[None, rows], q[None, rows], k[None, keys], k[None, keys], lse[None, :, rows])
            reference.check(*check, causal=True, **options)


def test_queries_or_keys_alone_are_packed():
    q, starts = normal(60, 4, 64), ints(0, 45, 60)
    out = flashcore.attention(q, K, V, cu_seqlens_q=starts, causal=True)
    for b in range(2):
        rows = slice(starts[b], starts[b + 1])
        reference.check(out[None, rows], q[None, rows], K[b : b + 1], V[b : b + 1], causal=True)
    k = normal(60, 2, 64)
    out = flashcore.attention(Q, k, k, cu_seqlens_kv=starts)
    for b in range(2):
        keys = k[None, starts[b] : starts[b + 1]]
        reference.check(out[b : b + 1], Q[b : b + 1], keys, keys)


def test_nothing_asked_for_is_plain():
    expected = flashcore.attention(Q, K, V)
    assert np.array_equal(flashcore.attention(Q, K, V, window=[None, None]), expected)
    assert "full" in flashcore.plan(Q, K, V)
    assert "window 20 to 3" in flashcore.plan(Q, K, V, window=(20, 3))
    assert "chunks of 8, softcap 2" in flashcore.plan(Q, K, V, chunk=8, softcap=2)
    mask = flashcore.block_lists(bitmap(1, 1, 1, 1))
    assert "ranges of keys, a block mask" in flashcore.plan(Q, K, V, key_ranges=ranges(1, 1, 70), block_mask=mask)
    assert "2 sequences of queries" in flashcore.plan(Q[0], K, V, cu_seqlens_q=ints(0, 40, 70))


LISTS = flashcore.block_lists(np.ones((1, 1, 1, 1), bool))

WRONG = [
    (dict(window=5), TypeError, None, "window is 5, which is no pair of numbers of keys"),
    (dict(window=(1, 2, 3)), TypeError, None, "which is no pair"),
    (dict(window=(1.5, None)), TypeError, None, "window is 1.5, which is no number of keys"),
    (dict(window=(-1, None)), ValueError, None, "window is -1; it must be at least 0"),
    (dict(align="left"), ValueError, None, "align is 'left'; it must be one of 'bottom-right', 'top-left'"),
    (dict(chunk=0), ValueError, None, "chunk is 0; it must be at least 1"),
    (dict(softcap=0), ValueError, Status.SOFTCAP, "softcap 0 is not supported"),
    (dict(softcap=-2.0), ValueError, Status.SOFTCAP, "softcap -2 is not supported"),
    (dict(softcap=1e300), ValueError, Status.SOFTCAP, "softcap inf is not supported"),
    (dict(softcap="high"), TypeError, None, "softcap is 'high', which is no number"),
    (dict(prefix=ints(1, 2), chunk=3), ValueError, Status.PREFIX_UNDER_WINDOW, "a prefix goes with no limit to the left"),
    (dict(prefix=ints(1)), ValueError, Status.ARRAY_LENGTH, "prefix has 1 numbers, but 2 are needed"),
    (dict(sinks=SINKS[:2]), ValueError, Status.ARRAY_LENGTH, "sinks has 2 numbers, but 4 are needed"),
    (dict(alibi_slopes=SLOPES[:3]), ValueError, Status.SHAPE_MISMATCH, "alibi_slopes has shape (3,); it must be (heads_q,) or (sequences, heads_q), where heads_q is 4"),
    (dict(alibi_slopes=np.stack([SLOPES] * 3)), ValueError, Status.ARRAY_LENGTH, "alibi_slopes has 12 numbers, but 8 are needed"),
    (dict(alibi_slopes=np.ones((4, 2), np.float32)), ValueError, Status.SHAPE_MISMATCH, "alibi_slopes has shape (4, 2)"),
    (dict(alibi_slopes=np.asfortranarray(np.stack([SLOPES] * 2))), ValueError, None, "alibi_slopes has stride 2 (elements); it must be 1"),
    (dict(alibi_slopes=SLOPES[None, None]), ValueError, None, "alibi_slopes has 3 dimensions (1, 1, 4); it must have 1 or 2"),
    (dict(alibi_slopes=normal(4)), TypeError, Status.UNKNOWN_DTYPE, "alibi_slopes has element type float16; f32 is needed"),
    (dict(bias=normal(70, 90)), ValueError, None, "bias has 2 dimensions (70, 90); it must have 4: (batch, heads_q, seqlen_q, seqlen_kv)"),
    (dict(bias=normal(1, 1, 70, 90).astype(np.float32)), TypeError, Status.UNKNOWN_DTYPE, "bias has element type float32; f16 and bf16 are supported"),
    (dict(bias=[1.0]), TypeError, None, "bias is a builtins.list, but q is a numpy.ndarray"),
    (dict(bias=normal(1, 3, 70, 90)), ValueError, Status.SHAPE_MISMATCH, "bias has heads 3, but 4 is needed"),
    (dict(bias=normal(1, 1, 70, 2)[..., :1]), ValueError, Status.SHAPE_MISMATCH, "bias has seqlen_kv 1, but 90 is needed"),
    (dict(bias=normal(0, 4, 70, 90)), ValueError, Status.SHAPE_MISMATCH, "bias has batch 0, but 2 is needed"),
    (dict(bias=normal(1, 1, 90, 70).swapaxes(2, 3)), ValueError, Status.BIAS_KEYS_APART, "numbers of neighbouring keys must be neighbours in a bias, but they are 70 apart: take numpy.ascontiguousarray(bias)"),
    (dict(bias=normal(1, 1, 70, 91)[..., :90]), ValueError, Status.STRIDE_MISALIGNED, "bias has seqlen_q stride 91 (elements); it must be a multiple of 2: take numpy.ascontiguousarray(bias)"),
    (dict(bias=normal(1, 1, 70, 90)[:, :, ::-1]), ValueError, Status.STRIDE_MISALIGNED, "bias has seqlen_q stride -90 (elements); it must be a multiple of 2: take"),
    (dict(bias=normal(1, 1, 70, 92)[..., 1:91]), ValueError, Status.MISALIGNED, "is not aligned to 4 bytes"),
    (dict(key_ranges=ranges(70)), ValueError, None, "key_ranges has 2 dimensions (70, 2); it must have 4: (batch, heads_q, seqlen_q, 2)"),
    (dict(key_ranges=ranges(1, 1, 70)[..., :1]), ValueError, Status.SHAPE_MISMATCH, "key_ranges has shape (1, 1, 70, 1); the last size must be 2"),
    (dict(key_ranges=ranges(1, 1, 69)), ValueError, Status.ARRAY_LENGTH, "key_ranges has 138 numbers, but 140 are needed"),
    (dict(key_ranges=ranges(1, 3, 70)), ValueError, Status.SHAPE_MISMATCH, "key_ranges has heads 3, but 4 is needed"),
    (dict(key_ranges=ranges(3, 1, 70)), ValueError, Status.SHAPE_MISMATCH, "key_ranges has batch 3, but 2 is needed"),
    (dict(key_ranges=ranges(1, 1, 140)[:, :, ::2]), ValueError, None, "key_ranges has seqlen_q stride 4 (elements); it must be 2: contiguous"),
    (dict(key_ranges=ranges(1, 1, 70).astype(np.int64)), TypeError, Status.UNKNOWN_DTYPE, "key_ranges has element type int64; i32 is needed"),
    (dict(key_ranges=(ints(1), ints(1, 2))), ValueError, Status.SHAPE_MISMATCH, "key_ranges are of the shapes (1,) and (2,); they must be of one"),
    (dict(key_ranges=(ints(1), [1])), TypeError, None, "key_ranges are (numpy.ndarray, builtins.list), which is neither a tensor nor a pair of q's kind"),
    (dict(key_ranges=(ints(1),) * 3), TypeError, None, "which is neither a tensor nor a pair"),
    (dict(key_ranges=5), TypeError, None, "key_ranges is a builtins.int, but q is a numpy.ndarray"),
    (dict(key_ranges=ranges(1, 1, 70), softcap=2.0), ValueError, Status.SPARSE_SCORES, "key ranges and block masks go with no softcap"),
    (dict(key_ranges=ranges(1, 1, 70), dropout_p=0.5), ValueError, Status.SPARSE_SCORES, "key ranges and block masks go with no softcap"),
    (dict(block_mask=ints(1)), TypeError, None, "block_mask is a numpy.ndarray; it must be (kv_num_blocks, kv_indices), which block_lists() makes"),
    (dict(block_mask=LISTS[:1]), TypeError, None, "block_mask is a builtins.tuple; it must be (kv_num_blocks, kv_indices)"),
    (dict(block_mask=(*LISTS, None, LISTS[1])), TypeError, None, "full_kv_num_blocks of block_mask is a builtins.NoneType, which is no tensor of q's kind"),
    (dict(block_mask=(LISTS[0], LISTS[0])), ValueError, None, "kv_indices has 3 dimensions (1, 1, 1); it must have 4: (batch, heads_q, blocks of queries, room)"),
    (dict(block_mask=(LISTS[0], np.repeat(LISTS[1], 2, 1))), ValueError, Status.SHAPE_MISMATCH, "kv_indices has shape (1, 2, 1, 1); it must be that of kv_num_blocks, (1, 1, 1), and one size more"),
    (dict(block_mask=(*LISTS, LISTS[0], LISTS[1][0])), ValueError, Status.SHAPE_MISMATCH, "full_kv_indices has shape (1, 1, 1); it must be that of full_kv_num_blocks, (1, 1, 1), and one size more"),
    (dict(block_mask=flashcore.block_lists(bitmap(1, 1, 2, 1))), ValueError, Status.SHAPE_MISMATCH, "kv_num_blocks has seqlen_q 2, but 1 is needed"),
    (dict(block_mask=flashcore.block_lists(bitmap(1, 3, 1, 1))), ValueError, Status.SHAPE_MISMATCH, "kv_num_blocks has heads 3, but 4 is needed"),
    (dict(block_mask=(LISTS[0].astype(np.int64), LISTS[1])), TypeError, Status.UNKNOWN_DTYPE, "kv_num_blocks has element type int64; i32 is needed"),
    (dict(block_mask=LISTS, bias=normal(1, 1, 70, 90)), ValueError, Status.SPARSE_SCORES, "key ranges and block masks go with no softcap"),
    (dict(dropout_p=1.0), ValueError, Status.DROPOUT_RATE, "a dropout of 1 is not supported: it must be at least 0 and below 1"),
    (dict(dropout_p=-0.5), ValueError, Status.DROPOUT_RATE, "a dropout of -0.5 is not supported"),
    (dict(dropout_p=1e300), ValueError, Status.DROPOUT_RATE, "a dropout of inf is not supported"),
    (dict(dropout_p="1"), TypeError, None, "dropout_p is '1', which is no number"),
    (dict(dropout_p=0.5, dropout_seed=0.5), TypeError, None, "dropout_seed is 0.5, which is no integer"),
    (dict(dropout_p=0.5, dropout_offset=2**32), ValueError, None, "dropout_offset is 4294967296; it must be at least 0 and below 2**32"),
    (dict(sinks=SINKS.astype(np.float64)), TypeError, Status.UNKNOWN_DTYPE, "sinks has element type float64; f32 is needed"),
    (dict(seqused_q=np.array([1, 2])), TypeError, Status.UNKNOWN_DTYPE, "seqused_q has element type int64; i32 is needed"),
    (dict(seqused_q=[1, 2]), TypeError, None, "seqused_q is a builtins.list, but q is a numpy.ndarray"),
    (dict(seqused_q=ints(1, 2)[None]), ValueError, None, "seqused_q has 2 dimensions (1, 2); it must have 1"),
    (dict(seqused_kv=ints(1, 2, 3, 4)[::2]), ValueError, None, "seqused_kv has stride 2 (elements); it must be 1"),
    (dict(cu_seqlens_q=ints(0, 70)), ValueError, None, "q has 4 dimensions (2, 70, 4, 64); it must have 3: (total, heads, head_dim)"),
    (dict(cu_seqlens_kv=ints(0, 70)), ValueError, None, "k has 4 dimensions"),
    (dict(seqused_q=ints(1, 2), seqused_kv=ints(1)), ValueError, Status.ARRAY_LENGTH, "seqused_kv has 1 numbers, which are for 1 sequences, but seqused_q is for 2"),
]  # fmt: skip


@pytest.mark.parametrize("arguments, kind, status, message", WRONG)
def test_mistakes(arguments, kind, status, message):
    with pytest.raises(flashcore.Error) as raised:
        flashcore.attention(Q, K, V, **arguments)
    assert message in str(raised.value)
    assert isinstance(raised.value, kind) and raised.value.status == status


def test_mistakes_of_packing():
    with pytest.raises(flashcore.ArgumentError, match="a bias goes with sequences of one length") as raised:
        flashcore.attention(Q[0], K, V, cu_seqlens_q=ints(0, 40, 70), bias=normal(1, 1, 70, 90))
    assert raised.value.status == Status.BIAS_OF_PACKED
    with pytest.raises(flashcore.ArgumentError, match="cu_seqlens_q is empty"):
        flashcore.attention(Q[0], K, V, cu_seqlens_q=ints())
    with pytest.raises(flashcore.ArgumentError, match="k has batch 2, but 3 is needed"):
        flashcore.attention(Q[0], K, V, cu_seqlens_q=ints(0, 1, 2, 3))
    with pytest.raises(flashcore.ArgumentError, match="q has 3 dimensions"):
        flashcore.attention(Q[0], K[0], V[0])
    with pytest.raises(flashcore.ArgumentError, match=r"key_ranges has 4 dimensions \(1, 4, 70, 2\); it must have 3"):
        flashcore.attention(Q[0], K, V, cu_seqlens_q=ints(0, 40, 70), key_ranges=ranges(1, 4, 70))
    wide = np.zeros((1, 1, 1, 264), np.float16)
    with pytest.raises(flashcore.ArgumentError, match="head_dim 264 is not supported with .* key ranges") as raised:
        flashcore.attention(wide, wide, wide, key_ranges=ranges(1, 1, 1))
    assert raised.value.status == Status.HEAD_DIM
