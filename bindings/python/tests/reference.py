"""Attention by its definition, in float64, and how far a result may be from it. Knows nothing of flashcore."""

import numpy as np

#: Half a unit of the last place of numbers around 1.
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def visible(seqlen_q, seqlen_kv, causal, window, align, chunk, prefix, ranges, blocks):
    """Which keys each query sees, (seqlen_q, seqlen_kv), or of each sequence and head: (batch, heads, seqlen_q,
    seqlen_kv)."""
    keys = np.arange(seqlen_kv)
    stands = np.arange(seqlen_q)[:, None] + (0 if align == "top-left" else seqlen_kv - seqlen_q)
    left, right = window
    sees = np.ones((seqlen_q, seqlen_kv), bool)
    if causal:
        right = 0
    if left is not None:
        sees &= stands - left <= keys
    if right is not None:
        sees &= keys <= stands + right
    if chunk is not None:
        sees &= keys // chunk == stands // chunk
    sees = sees | (keys < prefix)
    if ranges is not None:
        sees = sees & (ranges[..., :1] <= keys) & (keys < ranges[..., 1:])
    if blocks is not None:
        sees = sees & blocks.repeat(128, -2).repeat(128, -1)[..., :seqlen_q, :seqlen_kv]
    return sees


def attention(
    q,
    k,
    v,
    causal=False,
    scale=None,
    rounded=lambda x: x,
    window=(None, None),
    align="bottom-right",
    chunk=None,
    prefix=0,
    ranges=None,
    blocks=None,
    softcap=None,
    approximate_softcap=False,
    sinks=None,
    alibi_slopes=None,
    bias=None,
    factors=None,
):
    """Output, (batch, seqlen_q, heads_q, head_dim), and log-sum-exp, (batch, heads_q, seqlen_q). ``rounded`` is applied
    to what an ideal kernel rounds: the probabilities before they are divided by their sum, and the output. ``factors``,
    of the weights in the output, are those of dropout. ``ranges`` are (batch, heads, seqlen_q, 2), ``blocks`` of 128
    queries and keys (batch, heads, blocks of queries, blocks of keys), each with sizes of 1 for all. The hyperbolic
    tangent is exact, whatever is asked for."""
    q, k, v = (np.asarray(x).astype(np.float64) for x in (q, k, v))
    (_, seqlen_q, heads_q, head_dim), (_, seqlen_kv, heads_kv, _) = q.shape, k.shape
    k, v = (np.repeat(x, heads_q // heads_kv, axis=2) for x in (k, v))
    scores = np.einsum("bihd,bjhd->bhij", q, k) * (head_dim**-0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if alibi_slopes is not None:
        distances = np.abs(np.arange(seqlen_q)[:, None] + seqlen_kv - seqlen_q - np.arange(seqlen_kv))
        scores = scores - np.asarray(alibi_slopes).astype(np.float64)[..., None, None] * distances
    if bias is not None:
        scores = scores + np.asarray(bias).astype(np.float64)
    sees = visible(seqlen_q, seqlen_kv, causal, window, align, chunk, prefix, ranges, blocks)
    scores = np.where(sees, scores, -np.inf)
    largest = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    logits = np.full((1, heads_q, 1, 1), -np.inf) if sinks is None else sinks.astype(np.float64)[None, :, None, None]
    largest = np.maximum(largest, logits)
    finite = np.where(np.isfinite(largest), largest, 0.0)
    weights = np.exp(scores - finite)
    total = weights.sum(axis=-1, keepdims=True) + np.exp(logits - finite)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + finite)[..., 0]
    kept = rounded(weights) if factors is None else rounded(weights) * factors
    out = np.einsum("bhij,bjhd->bhid", kept, v) / np.where(total == 0.0, 1.0, total)
    return rounded(out.transpose(0, 2, 1, 3)), lse


def merged(o1, lse1, o2, lse2):
    """Output and log-sum-exp of two states as one."""
    lses = np.stack([lse1, lse2]).astype(np.float64)
    largest = lses.max(axis=0)
    offset = np.where(largest == -np.inf, 0.0, largest)
    weights = np.exp(lses - offset)
    total = weights.sum(axis=0)
    with np.errstate(divide="ignore"):
        lse = np.log(total) + offset
    # (batch, heads, seqlen) to (batch, seqlen, heads, 1)
    weights = (weights / np.where(total == 0.0, 1.0, total)).transpose(0, 1, 3, 2)[..., None]
    states = np.stack([np.asarray(o1), np.asarray(o2)]).astype(np.float64)
    empty = (lses == -np.inf).transpose(0, 1, 3, 2)[..., None]
    return (weights * np.where(empty, 0.0, states)).sum(axis=0), lse


def check_merged(out, lse, o1, lse1, o2, lse2):
    """Fails unless ``out`` is the reference, rounded, but for what sums in f32 may do, and ``lse`` within 1e-5."""
    expected, expected_lse = merged(o1, lse1, o2, lse2)
    out, lse, dtype = np.asarray(out), np.asarray(lse), np.asarray(o1).dtype
    assert out.shape == expected.shape and out.dtype == dtype
    assert lse.shape == expected_lse.shape and lse.dtype == np.float32
    largest = np.max(np.abs(expected), initial=0.0)
    error = np.max(np.abs(out.astype(np.float64) - expected), initial=0.0)
    assert error <= 2 * UNIT[dtype.name] * largest, f"error {error:.2e}, largest value {largest:.2e}"
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-5, atol=1e-5, equal_nan=False)


def check(out, q, k, v, lse=None, causal=False, scale=None, **options):
    """Fails unless ``out`` is at most twice as far from the reference as an ideal kernel, and ``lse`` within 1e-5. NaN
    is never near enough."""
    dtype = np.asarray(q).dtype
    expected, expected_lse = attention(q, k, v, causal, scale, **options)
    ideal, _ = attention(q, k, v, causal, scale, lambda x: x.astype(dtype).astype(np.float64), **options)
    out = np.asarray(out)
    assert out.shape == expected.shape and out.dtype == dtype
    largest = np.max(np.abs(expected), initial=0.0)
    limit = 2 * np.max(np.abs(ideal - expected), initial=0.0) + UNIT[dtype.name] * largest
    error = np.max(np.abs(out.astype(np.float64) - expected), initial=0.0)
    assert error <= limit, f"error {error:.2e}, limit {limit:.2e}"
    if lse is not None:
        lse = np.asarray(lse)
        assert lse.shape == expected_lse.shape and lse.dtype == np.float32
        np.testing.assert_allclose(lse, expected_lse, rtol=1e-5, atol=1e-5, equal_nan=False)
