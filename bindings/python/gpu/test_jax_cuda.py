"""JAX on a Hopper GPU."""

import numpy as np
import pytest
import reference

import flashcore

jax = pytest.importorskip("jax")
jnp = jax.numpy
try:
    GPU = jax.devices("gpu")[0]
except RuntimeError as error:
    pytest.skip(f"JAX sees no GPU: {error}", allow_module_level=True)


def normal(shape, dtype, seed=0):
    return jax.device_put(jax.random.normal(jax.random.key(seed), shape, dtype), GPU)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_nothing_is_copied(addresses, dtype, causal):
    q, k, v = normal((2, 200, 4, 64), dtype), normal((2, 300, 2, 64), dtype, 1), normal((2, 300, 2, 64), dtype, 2)
    out, lse = flashcore.attention(q, k, v, causal=causal, return_lse=True)
    assert addresses == [[x.unsafe_buffer_pointer() for x in (q, k, v, out, lse)]]
    assert out.devices() == q.devices()
    reference.check(out, q, k, v, lse, causal=causal)


def test_what_jax_still_computes_is_waited_for():
    x = normal((1, 2000, 8, 128), jnp.float16)
    slow = jax.jit(
        lambda x: jax.lax.fori_loop(0, 2000, lambda i, y: jnp.sin(y + i), x.astype(jnp.float32)).astype(x.dtype)
    )
    slow(x).block_until_ready()
    for _ in range(5):
        k = slow(x)
        out = flashcore.attention(x[:, :64], k, k)  # before k is there
        reference.check(out, x[:, :64], k, k)


def test_results_are_ready_for_jax():
    q = normal((1, 300, 4, 64), jnp.bfloat16)
    for seed in range(20):
        k = normal((1, 300, 4, 64), jnp.bfloat16, seed)
        doubled = jax.jit(lambda x: x * 2)(flashcore.attention(q, k, k))
        assert np.array_equal(np.asarray(doubled), 2 * np.asarray(flashcore.attention(q, k, k)))


def test_tracing_is_refused():
    q = normal((1, 10, 2, 64), jnp.float16)
    with pytest.raises(flashcore.UnsupportedError, match="cannot be traced"):
        jax.jit(flashcore.attention)(q, q, q)
