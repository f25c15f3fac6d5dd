"""Merging attention states of NumPy's arrays, computed by the emulator."""

import ml_dtypes
import numpy as np
import pytest
import reference
from cases import LAYOUTS
from hypothesis import given, settings
from hypothesis import strategies as st

import flashcore
from flashcore import Status

DTYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
SHAPE = (2, 10, 4, 64)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def state(shape, dtype, layout="bshd", seed=0, empty=0.0):
    """A state; so many of its rows have no keys, and an output of NaN."""
    generator = np.random.default_rng(seed)
    batch, seqlen, heads, _ = shape
    o = LAYOUTS[layout](shape, dtype)
    o[...] = generator.standard_normal(shape).astype(dtype)
    lse = (5 * generator.standard_normal((batch, heads, seqlen))).astype(np.float32)
    lse[generator.random(lse.shape) < empty] = -np.inf
    o[(lse == -np.inf).transpose(0, 2, 1)] = np.nan
    return o, lse


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60)
@given(
    shape=st.tuples(
        st.integers(1, 3), st.integers(0, 40), st.integers(1, 5), st.integers(1, 64).map(lambda eighths: 8 * eighths)
    ),
    layouts=st.tuples(*[st.sampled_from(sorted(LAYOUTS))] * 3),
    in_place=st.sampled_from([None, 0, 1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_results_are_those_of_the_reference(dtype, shape, layouts, in_place, seed):
    states = [state(shape, dtype, layouts[i], seed + i, empty=0.3) for i in range(2)]
    before = [array.copy() for one in states for array in one]
    if in_place is None:
        batch, seqlen, heads, _ = shape
        out, lse = LAYOUTS[layouts[2]](shape, dtype), np.empty((batch, heads, seqlen), np.float32)
        out[...], lse[...] = np.nan, np.nan
    else:
        out, lse = states[in_place]
    found = flashcore.merge_attention_states(*states[0], *states[1], out=out, lse=lse)
    assert found[0] is out and found[1] is lse
    reference.check_merged(out, lse, *before)


def test_attention_over_parts_of_the_keys_is_attention_over_all(dtype):
    generator = np.random.default_rng(1)
    q, k, v = (generator.standard_normal((2, seqlen, 2, 64)).astype(dtype) for seqlen in (40, 100, 100))
    parts = [slice(0, 30), slice(30, 60), slice(60, 100)]
    o, lse = flashcore.attention(q, k[:, parts[0]], v[:, parts[0]], return_lse=True)
    for part in parts[1:]:
        # The last part has as many keys as there are queries: a prompt worked on in chunks.
        causal = part.stop == 100
        other = flashcore.attention(q, k[:, part], v[:, part], causal=causal, return_lse=True)
        o, lse = flashcore.merge_attention_states(o, lse, *other, out=o, lse=lse)
    reference.check(o, q, k, v, lse, causal=True)


def test_new_outputs_lie_like_o1(dtype):
    (o1, lse1), (o2, lse2) = state(SHAPE, dtype, "bhsd"), state(SHAPE, dtype, "bshd", 1)
    out, lse = flashcore.merge_attention_states(o1, lse1, o2, lse2)
    assert np.argsort(out.strides).tolist() == np.argsort(o1.strides).tolist()
    reference.check_merged(out, lse, o1, lse1, o2, lse2)


def test_rows_without_keys_and_nan(dtype):
    (o1, lse1), (o2, lse2) = state(SHAPE, dtype), state(SHAPE, dtype, seed=1)
    o1[:, 0], lse1[..., 0] = np.nan, -np.inf
    o2[:, 0], lse2[..., 0] = np.inf, -np.inf
    lse2[..., 1] = np.nan
    out, lse = flashcore.merge_attention_states(o1, lse1, o2, lse2)
    assert np.all(out[:, 0] == 0) and np.all(lse[..., 0] == -np.inf)
    assert np.all(np.isnan(out[:, 1].astype(np.float32))) and np.all(np.isnan(lse[..., 1]))
    reference.check_merged(out[:, 2:], lse[..., 2:], o1[:, 2:], lse1[..., 2:], o2[:, 2:], lse2[..., 2:])


OUT, LSE = state(SHAPE, np.dtype(np.float16))
MEMORY = np.zeros(OUT.size + 64, np.float16)
READ_ONLY = LSE.copy()
READ_ONLY.flags.writeable = False

ARGUMENT = [
    (dict(o1=OUT[..., :60]), Status.HEAD_DIM, "head_dim 60 is not supported: it must be a multiple of 8 from 8 to 512"),
    (dict(o2=OUT[:, :9]), Status.SHAPE_MISMATCH, "o2 has seqlen 9, but 10 is needed to agree with the other tensors"),
    (dict(o2=OUT[0]), None, "o2 has 3 dimensions (10, 4, 64); it must have 4: (batch, seqlen, heads, head_dim)"),
    (dict(lse1=LSE[:1]), Status.SHAPE_MISMATCH, "lse1 has shape (1, 4, 10), but (2, 4, 10) is needed: (batch, heads, seqlen)"),
    (dict(lse2=LSE.transpose(0, 2, 1)), Status.SHAPE_MISMATCH, "lse2 has shape (2, 10, 4), but (2, 4, 10) is needed: (batch, heads, seqlen)"),
    (dict(lse2=np.repeat(LSE, 2, 2)[..., ::2]), None, "lse2 has seqlen stride 2 (elements); it must be 1: contiguous"),
    (dict(lse2=np.repeat(LSE, 2, 1)[:, ::2]), None, "lse2 has heads stride 20 (elements); it must be 10: contiguous"),
    (dict(lse=READ_ONLY), None, "lse is read-only"),
    (dict(o1=MEMORY[:-64].reshape(SHAPE), out=MEMORY[64:].reshape(SHAPE)), Status.ALIASING, "the memory of out overlaps that of o1"),
]  # fmt: skip


def call(o1=OUT, lse1=LSE, o2=OUT, lse2=LSE, **options):
    return flashcore.merge_attention_states(o1, lse1, o2, lse2, **options)


@pytest.mark.parametrize("arguments, status, message", ARGUMENT, ids=lambda value: getattr(value, "name", ""))
def test_arguments(arguments, status, message):
    with pytest.raises(flashcore.ArgumentError) as raised:
        call(**arguments)
    assert (str(raised.value), raised.value.status) == (message, status)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(o1=OUT.astype(np.float32)), "o1 has element type float32; f16 and bf16 are supported"),
        (dict(o2=OUT.astype(ml_dtypes.bfloat16)), "o2 has element type bf16, but f16 is needed to agree with the other tensors"),
        (dict(lse1=LSE.astype(np.float64)), "lse1 has element type float64; f32 is needed"),
        (dict(lse2=3.0), "lse2 is a builtins.float, but o1 is a numpy.ndarray"),
        (dict(out=[1]), "out is a builtins.list, but o1 is a numpy.ndarray"),
        (dict(o1=None), "o1 is a builtins.NoneType, which is no tensor of PyTorch, JAX, CuPy or NumPy"),
    ],
)  # fmt: skip
def test_types(arguments, message):
    with pytest.raises(flashcore.ArgumentTypeError) as raised:
        call(**arguments)
    assert str(raised.value) == message
