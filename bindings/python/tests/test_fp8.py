"""Attention over 8 bits on NumPy's arrays, computed by the emulator."""

import gc
import threading

import ml_dtypes
import numpy as np
import pytest
import reference
from cases import LAYOUTS

import flashcore
from flashcore import Status, _fp8

DTYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
#: Errors in the root mean square, relative to the output's, that rounding to these formats leads to, and a half more.
LIMIT = {"e4m3": 0.08, "e5m2": 0.16}


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def normal(shape, dtype=np.float16, seed=0, layout="bshd"):
    array = LAYOUTS[layout](shape, dtype)
    array[...] = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return array


def qkv(dtype=np.float16, head_dim=64, layout="bshd"):
    """Of four query heads and two of keys."""
    shapes = [(2, 90, 4, head_dim), (2, 130, 2, head_dim), (2, 130, 2, head_dim)]
    return [normal(shape, dtype, seed, layout) for seed, shape in enumerate(shapes)]


def relative(found, expected):
    """How far numbers are from others, relative to these, in the root mean square."""
    found, expected = (np.asarray(x).astype(np.float64) for x in (found, expected))
    return np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))


def check(out, q, k, v, lse=None, limit=LIMIT["e4m3"], **options):
    expected, expected_lse = reference.attention(q, k, v, **options)
    assert out.shape == expected.shape and out.dtype == q.dtype
    assert relative(out, expected) < limit
    if lse is not None:
        assert lse.shape == expected_lse.shape and lse.dtype == np.float32
        np.testing.assert_allclose(lse, expected_lse, atol=0.5, rtol=0)
        assert np.mean(np.abs(lse - expected_lse)) < 0.1


@pytest.mark.parametrize("rounding", [{}, dict(rotated=True), dict(per_tensor=True)], ids=str)
@pytest.mark.parametrize("format", LIMIT)
@pytest.mark.parametrize("causal", [False, True])
def test_results_are_near_those_of_the_reference(dtype, format, causal, rounding):
    q, k, v = qkv(dtype)
    out, lse = flashcore.attention_fp8(q, k, v, format=format, causal=causal, return_lse=True, **rounding)
    check(out, q, k, v, lse, LIMIT[format], causal=causal)
    other, _ = reference.attention(q, k, v, causal=not causal)
    assert relative(out, other) > 2 * LIMIT[format]


@pytest.mark.parametrize(
    "options",
    [
        dict(scale=0.3),
        dict(window=(20, 3), softcap=5.0),
        dict(chunk=33, align="top-left"),
        dict(causal=True, sinks=np.array([0.5, -1.0, 2.0, 0.0], np.float32)),
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("head_dim, layout", [(128, "bhsd"), (72, "padded")])
def test_features(head_dim, layout, options):
    q, k, v = qkv(head_dim=head_dim, layout=layout)
    out, lse = flashcore.attention_fp8(q, k, v, rotated=True, return_lse=True, **options)
    assert np.argsort(out.strides).tolist() == np.argsort(q.strides).tolist()
    check(out, q, k, v, lse, 0.1, **options)


def test_columns_that_are_large():
    """Rotating is of use, and each rounding gives other bits."""
    q, k, v = qkv(np.float32)
    for x in (q, k):
        x[..., ::32] *= 10
    q, k, v = (x.astype(np.float16) for x in (q, k, v))
    expected, _ = reference.attention(q, k, v, scale=0.02)
    plain, rotated = (flashcore.attention_fp8(q, k, v, scale=0.02, rotated=rotated) for rotated in (False, True))
    assert relative(rotated, expected) < 0.7 * relative(plain, expected)
    e5m2 = flashcore.attention_fp8(q, k, v, scale=0.02, format="e5m2")
    v[:, :, 0] *= np.float16(0.01)
    each, one = (flashcore.attention_fp8(q, k, v, scale=0.02, per_tensor=whole) for whole in (False, True))
    assert len({x.tobytes() for x in (plain, rotated, e5m2, each, one)}) == 5


def test_outputs_and_rooms_of_the_caller():
    q, k, v = qkv()
    expected, lse = flashcore.attention_fp8(q, k, v, rotated=True, return_lse=True)
    room = flashcore.fp8_room(q, k, v, rotated=True)
    out = np.full_like(q, np.nan)
    found, found_lse = flashcore.attention_fp8(q, k, v, room=room, return_lse=True, out=out)
    assert found is out and (out == expected).all() and (found_lse == lse).all()
    # By the time that the output is written, q has been rounded.
    assert flashcore.attention_fp8(q, k, v, room=room, out=q) is q and (q == expected).all()
    with pytest.raises(flashcore.ArgumentError, match="k has seqlen 129, but 130 is needed") as raised:
        flashcore.attention_fp8(q, k[:, 1:], v[:, 1:], room=room)
    assert raised.value.status == Status.SHAPE_MISMATCH


def test_packed_sequences():
    """Each is what it is alone: rows that are no sequence's, whatever they hold, are of no weight."""
    q, k, v = qkv()
    q, k, v = (x[0] for x in (q, k, v))
    q[90:], k[110:], v[110:] = np.nan, np.inf, np.nan
    of_q, of_k = (np.array(starts, np.int32) for starts in ([0, 30, 30, 90], [0, 41, 50, 110]))
    packed = dict(cu_seqlens_q=of_q, cu_seqlens_kv=of_k)
    found, lse = flashcore.attention_fp8(q, k, v, **packed, return_lse=True)
    room = flashcore.fp8_room(q, k, v, num_sequences_q=3, num_sequences_kv=3)
    again = flashcore.attention_fp8(q, k, v, **packed, room=room)
    for (a, b), (c, d) in zip(zip(of_q, of_q[1:]), zip(of_k, of_k[1:])):
        alone, lse_alone = flashcore.attention_fp8(q[None, a:b], k[None, c:d], v[None, c:d], return_lse=True)
        # Another kernel, by another order of keys.
        assert relative(found[a:b], alone[0]) < 0.02 if b > a else True
        np.testing.assert_allclose(lse.reshape(lse.shape[-2:])[:, a:b], lse_alone[0], atol=2e-3)
        assert (again[a:b] == found[a:b]).all()
    with pytest.raises(flashcore.ArgumentError, match="made for 3 packed sequences, but the call has 1") as raised:
        flashcore.attention_fp8(q, k, v, cu_seqlens_q=of_q[[0, 3]], cu_seqlens_kv=of_k[[0, 3]], room=room)
    assert raised.value.status == Status.FP8_PACKING


def test_no_packed_sequences():
    q, k, v = (np.zeros((0, heads, 64), np.float16) for heads in (4, 2, 2))
    starts = np.zeros(1, np.int32)
    out = flashcore.attention_fp8(q, k, v, cu_seqlens_q=starts, cu_seqlens_kv=starts)
    assert out.shape == q.shape


def test_streams_of_threads_have_rooms_of_their_own():
    kept, narrow = _fp8._Kept(), _fp8.Narrow("e4m3", False, False)
    handle = _fp8._library.emulated().handle
    tensors = [_fp8._library.pack_tensor(16, 1, 8, 1, 64, 512, 64, 64, _fp8._library.F16)] * 3
    rooms = []

    def use(stream):
        rooms.append(kept.room(handle, stream, tensors, narrow, (0, 0)))

    for stream, different in ((2, 2), (16, 1)):
        rooms.clear()
        for _ in range(2):
            use(stream)
        thread = threading.Thread(target=use, args=(stream,))
        thread.start()
        thread.join()
        assert len(set(map(id, rooms))) == different


def test_rounding_by_chance():
    q, k, v = qkv()
    nearest = flashcore.attention_fp8(q, k, v)

    def by(seed, offset=0, **others):
        return flashcore.attention_fp8(q, k, v, rounding_seed=seed, rounding_offset=offset, **others)

    found = by(2**63 + 5, 1)
    assert (found == by(2**63 + 5, 1, room=flashcore.fp8_room(q, k, v))).all()
    assert len({x.tobytes() for x in (nearest, found, by(5, 1), by(2**63 + 5))}) == 4
    for wrong, message in ((-1, "rounding_seed is -1"), (2**64, "below 2\\*\\*64"), ("x", "no integer")):
        with pytest.raises((flashcore.ArgumentError, flashcore.ArgumentTypeError), match=message):
            by(wrong)
    with pytest.raises(flashcore.ArgumentError, match="rounding_offset is 4294967296"):
        by(1, 2**32)


def test_rooms_are_kept_and_freed(monkeypatch):
    monkeypatch.setattr(_fp8, "_kept", _fp8._Kept())
    destroyed, destroy = [], _fp8._library.destroy_fp8
    monkeypatch.setattr(_fp8._library, "destroy_fp8", lambda room: destroyed.append(room) or destroy(room))
    arrays = [normal((1, seqlen, 1, 64)) for seqlen in range(8, 8 + 2 * _fp8._KEPT)]
    for q in arrays:
        for _ in range(2):
            flashcore.attention_fp8(q, q, q)
    gc.collect()
    assert len(_fp8._kept._rooms) == _fp8._KEPT and len(destroyed) == _fp8._KEPT
    before = list(_fp8._kept._rooms.values())
    for q in arrays[_fp8._KEPT :]:
        flashcore.attention_fp8(q, q, q)
    assert list(_fp8._kept._rooms.values()) == before
    flashcore.attention_fp8(q, q, q, rotated=True)
    del before
    gc.collect()
    assert len(destroyed) == _fp8._KEPT + 1


def test_threads_share_a_room():
    arrays = [normal((1, 60, 2, 64), seed=seed) for seed in range(3)]
    expected = [flashcore.attention_fp8(q, q, q) for q in arrays]
    failures = []

    def work(index):
        try:
            for _ in range(3):
                q = arrays[index]
                assert (flashcore.attention_fp8(q, q, q) == expected[index]).all()
        except BaseException as failure:  # pytest's failures are no Exceptions
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


Q, KV = np.ones((2, 10, 4, 64), np.float16), np.ones((2, 12, 2, 64), np.float16)
FEATURES = "q, k and v of 8 bits have no "


@pytest.mark.parametrize(
    "arguments, kind, status, message",
    [
        (dict(format="e3m4"), flashcore.ArgumentError, None, "format is 'e3m4'; it must be one of 'e4m3', 'e5m2'"),
        (dict(q=Q[..., :60]), flashcore.ArgumentError, Status.HEAD_DIM, "head_dim 60 is not supported: it must be a multiple of 8 from 8 to 256"),
        (dict(v=np.zeros((2, 12, 2, 264), Q.dtype)), flashcore.ArgumentError, Status.HEAD_DIM, "head_dim 264 is not supported: it must be a multiple of 8 from 8 to 256"),
        (dict(q=Q[:, :, :3]), flashcore.ArgumentError, Status.HEAD_RATIO, "3 query heads are not a multiple of 2 key/value heads"),
        (dict(v=KV[:, :11]), flashcore.ArgumentError, Status.SHAPE_MISMATCH, "v has seqlen 11, but 12 is needed to agree with the other tensors"),
        (dict(scale=-1.0), flashcore.ArgumentError, Status.SCALE, "softmax scale -1 is not supported"),
        (dict(q=Q[0]), flashcore.ArgumentError, None, "q has 3 dimensions (10, 4, 64)"),
        (dict(q=Q.astype(np.float32)), flashcore.ArgumentTypeError, Status.UNKNOWN_DTYPE, "q has element type float32; f16 and bf16 are supported"),
        (dict(k=KV.astype(ml_dtypes.bfloat16)), flashcore.ArgumentTypeError, Status.DTYPE_MISMATCH, "k has element type bf16, but f16 is needed"),
        (dict(k=[1.0]), flashcore.ArgumentTypeError, None, "k is a builtins.list, but q is a numpy.ndarray"),
        (dict(alibi_slopes=np.ones(4, np.float32)), flashcore.UnsupportedError, Status.FP8_FEATURES, FEATURES),
        (dict(bias=np.zeros((1, 1, 10, 12), np.float16)), flashcore.UnsupportedError, Status.FP8_FEATURES, FEATURES),
        (dict(dropout_p=0.5), flashcore.UnsupportedError, Status.FP8_FEATURES, FEATURES),
        (dict(key_ranges=np.zeros((1, 1, 10, 2), np.int32)), flashcore.UnsupportedError, Status.FP8_FEATURES, FEATURES),
        (dict(format="e5m2", softcap=5.0), flashcore.UnsupportedError, Status.FP8_FEATURES, FEATURES),
    ],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_mistakes(arguments, kind, status, message):
    out = np.zeros_like(Q)
    with pytest.raises(kind) as raised:
        flashcore.attention_fp8(**(dict(q=Q, k=KV, v=KV, out=out) | arguments))
    assert message in str(raised.value) and raised.value.status == status
    assert not out.any()


def test_rooms_for_other_things_are_refused():
    with pytest.raises(flashcore.ArgumentTypeError, match="v is a builtins.int, but q is a numpy.ndarray"):
        flashcore.fp8_room(Q, KV, 1)
    with pytest.raises(flashcore.ArgumentError, match="format is None; it must be one of"):
        flashcore.fp8_room(Q, KV, KV, format=None)
    with pytest.raises(flashcore.ArgumentTypeError, match="q is a builtins.int, which is no tensor"):
        flashcore.fp8_room(1, KV, KV)
