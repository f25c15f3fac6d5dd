"""CuPy on a Hopper GPU."""

import numpy as np
import pytest
import reference

import flashcore

cupy = pytest.importorskip("cupy")
try:
    cupy.cuda.runtime.getDeviceCount()
except cupy.cuda.runtime.CUDARuntimeError as error:
    pytest.skip(f"CuPy sees no GPU: {error}", allow_module_level=True)


def normal(*shape, seed=0):
    return cupy.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float16))


@pytest.mark.parametrize("causal", [False, True])
def test_nothing_is_copied(addresses, causal):
    packed = normal(2, 200, 8, 64)
    q, k, v = packed[:, :, :4], packed[:, :, 4:6], packed[:, :, 6:]
    out, lse = flashcore.attention(q, k, v, causal=causal, return_lse=True)
    assert isinstance(out, cupy.ndarray)
    assert addresses == [[x.data.ptr for x in (q, k, v, out, lse)]]
    reference.check(*(cupy.asnumpy(x) for x in (out, q, k, v, lse)), causal=causal)


def test_transposed_and_given_outputs(addresses):
    q = normal(2, 4, 100, 64).transpose(0, 2, 1, 3)
    out = cupy.full((2, 100, 4, 64), cupy.nan, cupy.float16)
    assert flashcore.attention(q, q, q, out=out) is out
    assert addresses[0][3] == out.data.ptr
    reference.check(*(cupy.asnumpy(x) for x in (out, q, q, q)))
    assert flashcore.attention(q, q, q).strides == q.strides


def test_merges():
    q, k = normal(2, 100, 4, 64), normal(2, 300, 2, 64, seed=1)
    (o1, lse1), (o2, lse2) = (flashcore.attention(q, part, part, return_lse=True) for part in (k[:, :90], k[:, 90:]))
    out, lse = flashcore.merge_attention_states(o1, lse1, o2, lse2)
    assert isinstance(out, cupy.ndarray) and isinstance(lse, cupy.ndarray)
    reference.check_merged(*(cupy.asnumpy(x) for x in (out, lse, o1, lse1, o2, lse2)))
    reference.check(*(cupy.asnumpy(x) for x in (out, q, k, k, lse)))
    found = flashcore.merge_attention_states(o1, lse1, o2, lse2, out=o2, lse=lse2)
    assert found[0] is o2 and cupy.array_equal(o2, out) and cupy.array_equal(lse2, lse)


def test_ranges_and_block_masks():
    q, k = normal(1, 200, 4, 64), normal(1, 300, 2, 64, seed=1)
    generator = np.random.default_rng(2)
    ranges, visible = generator.integers(-3, 310, (1, 4, 200, 2), np.int32), generator.random((1, 4, 2, 3)) < 0.6
    full = visible & (generator.random(visible.shape) < 0.5)
    lists = [numbers for part in (visible & ~full, full) for numbers in flashcore.block_lists(cupy.asarray(part))]
    pair = tuple(cupy.asarray(ranges[..., i]) for i in range(2))
    for options in (
        dict(key_ranges=pair, block_mask=lists),
        dict(key_ranges=cupy.asarray(ranges), block_mask=flashcore.block_lists(cupy.asarray(visible))),
    ):
        out, lse = flashcore.attention(q, k, k, causal=True, return_lse=True, **options)
        found = (cupy.asnumpy(x) for x in (out, q, k, k, lse))
        reference.check(*found, causal=True, ranges=ranges, blocks=visible)


def test_the_current_stream_is_taken():
    expected = normal(1, 300, 4, 128)
    stream = cupy.cuda.Stream(non_blocking=True)
    slow = cupy.ElementwiseKernel("int64 n", "float32 y", "for (long long i = 0; i < n; ++i) y = sinf(y + i);", "slow")
    with stream:
        q = cupy.zeros_like(expected)
        slow(20_000_000, cupy.zeros(1, cupy.float32))
        q[...] = expected  # on another stream than this one, attention would read zeros
        out = flashcore.attention(q, q, q)
    stream.synchronize()
    reference.check(*(cupy.asnumpy(x) for x in (out, expected, expected, expected)))


def test_errors():
    q = normal(1, 100, 2, 64)
    with pytest.raises(flashcore.ArgumentTypeError, match="element type float32"):
        flashcore.attention(q.astype(cupy.float32), q, q)
    with pytest.raises(flashcore.ArgumentTypeError, match="k is a numpy.ndarray"):
        flashcore.attention(q, cupy.asnumpy(q), q)
    with pytest.raises(flashcore.ArgumentError, match="overlaps that of q"):
        flashcore.attention(q, q, q, out=q)
