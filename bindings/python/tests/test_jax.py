"""JAX on the CPU, computed by the emulator."""

import numpy as np
import pytest
import reference

import flashcore

jax = pytest.importorskip("jax")

jnp = jax.numpy


@pytest.fixture(autouse=True)
def on_the_cpu():
    with jax.default_device(jax.devices("cpu")[0]):
        yield


def normal(shape, dtype, seed=0):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_results_are_those_of_the_reference(dtype, causal):
    q, k, v = normal((2, 40, 4, 64), dtype), normal((2, 50, 2, 64), dtype, 1), normal((2, 50, 2, 64), dtype, 2)
    before = np.array(q)
    out, lse = flashcore.attention(q, k, v, causal=causal, return_lse=True)
    assert isinstance(out, jax.Array) and out.devices() == q.devices()
    reference.check(out, q, k, v, lse, causal=causal)
    assert np.array_equal(before, q)


def test_8_bits_are_those_of_numpy():
    q, k = normal((2, 40, 4, 64), jnp.bfloat16), normal((2, 50, 2, 64), jnp.bfloat16, 1)
    found, lse = flashcore.attention_fp8(q, k, k, causal=True, rotated=True, return_lse=True)
    assert isinstance(found, jax.Array)
    arrays = np.array(q), np.array(k), np.array(k)
    expected, expected_lse = flashcore.attention_fp8(*arrays, causal=True, rotated=True, return_lse=True)
    assert np.array_equal(found, expected) and np.array_equal(lse, expected_lse)
    room = flashcore.fp8_room(q, k, k, rotated=True)
    assert np.array_equal(flashcore.attention_fp8(q, k, k, causal=True, room=room), expected)
    with pytest.raises(flashcore.UnsupportedError, match="cannot be traced"):
        jax.jit(lambda q: flashcore.attention_fp8(q, q, q))(q)


def test_slopes_and_biases():
    q, k, bias = (
        normal((2, 40, 4, 64), jnp.float16),
        normal((2, 50, 2, 64), jnp.float16, 1),
        normal((1, 4, 40, 50), jnp.float16, 2),
    )
    slopes = jnp.array([0.5, 0.25, 0.0, 0.1], jnp.float32)
    out, lse = flashcore.attention(q, k, k, alibi_slopes=slopes, bias=bias, return_lse=True)
    reference.check(out, q, k, k, lse, alibi_slopes=slopes, bias=bias)
    with pytest.raises(flashcore.ArgumentError, match="append a key to k, v and bias, with a bias of -inf"):
        flashcore.attention(q, k[:, 1:], k[:, 1:], bias=bias[..., 1:])
    out, lse = flashcore.attention(q, k, k, bias=bias.at[..., -1].set(-jnp.inf), return_lse=True)
    reference.check(out, q, k[:, :-1], k[:, :-1], lse, bias=bias[..., :-1])


def test_ranges_and_block_masks():
    q, k = normal((1, 150, 2, 64), jnp.float16), normal((1, 300, 1, 64), jnp.float16, 1)
    first, end = (jax.random.randint(jax.random.key(seed), (1, 2, 150), 0, 300) for seed in range(2))
    visible = jax.random.bernoulli(jax.random.key(2), 0.6, (1, 1, 2, 3))
    full = visible & jax.random.bernoulli(jax.random.key(3), 0.6, (1, 1, 2, 3))
    lists = (*flashcore.block_lists(visible & ~full), *flashcore.block_lists(full))
    ranges = jnp.stack((first, end), -1)
    for options in (
        dict(key_ranges=(first, end), block_mask=lists),
        dict(key_ranges=ranges, block_mask=flashcore.block_lists(visible)),
    ):
        out, lse = flashcore.attention(q, k, k, return_lse=True, **options)
        reference.check(out, q, k, k, lse, ranges=np.asarray(ranges), blocks=np.asarray(visible))


def test_results_that_jax_still_computes_are_waited_for():
    q = normal((1, 60, 2, 128), jnp.float16)
    k = jax.jit(lambda x: sum(jnp.sin(x * i) for i in range(50)))(q)
    out = flashcore.attention(q, k, k)
    reference.check(out + 0, q, k, k)


def test_two_outputs_are_two_arrays():
    q = normal((1, 9, 1, 64), jnp.float16)
    one, other = flashcore.attention(q, q, q), flashcore.attention(q, q, q, causal=True)
    assert one.unsafe_buffer_pointer() != other.unsafe_buffer_pointer()
    reference.check(one, q, q, q)


def test_empty_tensors():
    q, k = normal((1, 9, 1, 64), jnp.float16), normal((1, 0, 1, 64), jnp.float16)
    assert np.all(np.asarray(flashcore.attention(q, k, k)) == 0)
    assert flashcore.attention(k, q, q).shape == k.shape


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_merges(dtype):
    q, k, v = normal((2, 40, 4, 64), dtype), normal((2, 50, 2, 64), dtype, 1), normal((2, 50, 2, 64), dtype, 2)
    states = [flashcore.attention(q, k[:, part], v[:, part], return_lse=True) for part in (slice(20), slice(20, 50))]
    (o1, lse1), (o2, lse2) = states
    out, lse = flashcore.merge_attention_states(o1, lse1, o2, lse2)
    assert isinstance(out, jax.Array) and isinstance(lse, jax.Array)
    reference.check_merged(out, lse, o1, lse1, o2, lse2)
    reference.check(out, q, k, v, lse)
    with pytest.raises(flashcore.ArgumentError, match="lse cannot be given: JAX's arrays are immutable"):
        flashcore.merge_attention_states(o1, lse1, o2, lse2, lse=lse)
    with pytest.raises(flashcore.UnsupportedError, match="cannot be traced"):
        jax.jit(flashcore.merge_attention_states)(o1, lse1, o2, lse2)
    with pytest.raises(flashcore.ArgumentTypeError, match="lse2 has element type float16; f32 is needed"):
        flashcore.merge_attention_states(o1, lse1, o2, lse2.astype(jnp.float16))


def test_errors():
    q = normal((1, 10, 2, 64), jnp.float16)
    with pytest.raises(flashcore.UnsupportedError, match="cannot be traced by jax.jit"):
        jax.jit(flashcore.attention)(q, q, q)
    with pytest.raises(flashcore.UnsupportedError, match="cannot be traced"):
        jax.vmap(lambda x: flashcore.attention(x, x, x))(q[None])
    with pytest.raises(flashcore.ArgumentError, match="JAX's arrays are immutable"):
        flashcore.attention(q, q, q, out=q)
    with pytest.raises(flashcore.ArgumentTypeError, match="k is a numpy.ndarray"):
        flashcore.attention(q, np.asarray(q), q)
    with pytest.raises(flashcore.ArgumentTypeError, match="q has element type float32"):
        flashcore.attention(q.astype(jnp.float32), q, q)
    with pytest.raises(flashcore.ArgumentError, match="3 query heads are not a multiple"):
        flashcore.attention(normal((1, 10, 3, 64), jnp.float16), q, q)


def test_plans():
    q = normal((1, 10, 2, 64), jnp.bfloat16)
    assert "bf16" in flashcore.plan(q, q, q)
