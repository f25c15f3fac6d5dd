"""What is refused, and how it is said."""

import numpy as np
import pytest

import flashcore
from flashcore import Status

Q = np.ones((2, 10, 4, 64), np.float16)
KV = np.ones((2, 12, 2, 64), np.float16)


def strided(strides, shape=Q.shape):
    """An array with these strides, in elements, in memory that is large enough."""
    last = sum((size - 1) * stride for size, stride in zip(shape, strides))
    memory = np.zeros(last + 8, np.float16)
    return np.lib.stride_tricks.as_strided(memory, shape, [2 * stride for stride in strides])


def shifted(array, elements):
    """The same array at an address that is so many elements later."""
    memory = np.empty(array.size + elements, array.dtype)
    view = memory[elements:].reshape(array.shape)
    view[...] = array
    return view


ARGUMENT = [
    (dict(q=Q[..., :60]), Status.HEAD_DIM, "head_dim 60 is not supported: it must be a multiple of 8 from 8 to 512"),
    (dict(v=np.zeros((2, 12, 2, 264), Q.dtype), softcap=9.0), Status.HEAD_DIM, "head_dim 264 is not supported with a softcap, ALiBi, a bias, dropout, key ranges or a block mask: it must be at most 256"),
    (dict(k=KV[:1]), Status.SHAPE_MISMATCH, "k has batch 1, but 2 is needed to agree with the other tensors"),
    (dict(v=KV[:, :11]), Status.SHAPE_MISMATCH, "v has seqlen 11, but 12 is needed to agree with the other tensors"),
    (dict(k=KV[..., :32]), Status.SHAPE_MISMATCH, "k has head_dim 32, but 64 is needed to agree with the other tensors"),
    (dict(v=KV[..., :60]), Status.HEAD_DIM, "head_dim 60 is not supported: it must be a multiple of 8 from 8 to 512"),
    (dict(q=Q[:, :, :3]), Status.HEAD_RATIO, "3 query heads are not a multiple of 2 key/value heads"),
    (dict(scale=-1.0), Status.SCALE, "softmax scale -1 is not supported: it must be positive, finite and not denormal"),
    (dict(scale=float("nan")), Status.SCALE, "softmax scale NaN is not supported: it must be positive, finite and not denormal"),
    (dict(scale=1e300), Status.SCALE, "softmax scale inf is not supported: it must be positive, finite and not denormal"),
    (dict(q=strided((2563, 256, 64, 1))), Status.STRIDE_MISALIGNED, "q has batch stride 2563 (elements); it must be a multiple of 8"),
    (dict(q=strided((8192, 512, 128, 2))), Status.STRIDE_MISALIGNED, "q has head_dim stride 2 (elements); it must be 1"),
    (dict(q=Q[:, ::-1]), Status.STRIDE_MISALIGNED, "q has seqlen stride -256 (elements); it must not be negative"),
    (dict(k=KV[..., ::-1]), Status.STRIDE_MISALIGNED, "k has head_dim stride -1 (elements); it must be 1"),
    (dict(out=np.zeros_like(Q)[:1]), Status.SHAPE_MISMATCH, "out has batch 1, but 2 is needed to agree with the other tensors"),
    (dict(out=strided((0, 256, 64, 1))), Status.OVERLAPPING_OUTPUT, "out has elements that overlap: its batch stride is 0 (elements), but 64 lie within one step"),
    (dict(out=Q), Status.ALIASING, "the memory of out overlaps that of q"),
    (dict(q=Q[0]), None, "q has 3 dimensions (10, 4, 64); it must have 4: (batch, seqlen, heads, head_dim)"),
]  # fmt: skip


def call(q=Q, k=KV, v=KV, **options):
    return flashcore.attention(q, k, v, **options)


@pytest.mark.parametrize("arguments, status, message", ARGUMENT, ids=lambda value: getattr(value, "name", ""))
def test_arguments(arguments, status, message):
    with pytest.raises(flashcore.ArgumentError) as raised:
        call(**arguments)
    assert (str(raised.value), raised.value.status) == (message, status)
    assert isinstance(raised.value, ValueError) and isinstance(raised.value, flashcore.Error)


def test_misaligned_memory():
    with pytest.raises(flashcore.ArgumentError, match=r"k at 0x[0-9a-f]+ is not aligned to 16 bytes") as raised:
        call(k=shifted(KV, 1))
    assert raised.value.status == Status.MISALIGNED
    call(k=shifted(KV, 8))


def test_memory_that_cannot_be_written():
    out = np.zeros_like(Q)
    out.flags.writeable = False
    with pytest.raises(flashcore.ArgumentError, match="out is read-only"):
        call(out=out)


def test_strides_that_are_no_elements():
    packed = np.zeros((1, 4, 1, 64), np.dtype([("a", np.float16), ("b", np.uint8)]))["a"]
    with pytest.raises(flashcore.ArgumentError, match="q has a stride of 3 bytes, which is no number of elements"):
        flashcore.attention(packed, packed, packed)


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (dict(q=Q.astype(np.float32)), 4, "q has element type float32; f16 and bf16 are supported"),
        (dict(v=KV.astype(">f2")), 4, "v has element type >f2; f16 and bf16 are supported"),
        (dict(k=[1.0]), None, "k is a builtins.list, but q is a numpy.ndarray"),
        (dict(out=1), None, "out is a builtins.int, but q is a numpy.ndarray"),
        (dict(q=[1.0]), None, "q is a builtins.list, which is no tensor of PyTorch, JAX, CuPy or NumPy"),
        (dict(q=np.float16(1)), None, "q is a numpy.float16, which is no tensor of PyTorch, JAX, CuPy or NumPy"),
        (dict(scale="large"), None, "scale is 'large', which is no number"),
    ],
)  # fmt: skip
def test_types(arguments, status, message):
    with pytest.raises(flashcore.ArgumentTypeError) as raised:
        call(**arguments)
    assert (str(raised.value), raised.value.status) == (message, status)
    assert isinstance(raised.value, TypeError)


def test_types_that_differ():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(flashcore.ArgumentTypeError, match="k has element type bf16, but f16 is needed") as raised:
        call(k=KV.astype(ml_dtypes.bfloat16))
    assert raised.value.status == Status.DTYPE_MISMATCH


def test_devices_that_are_not_there():
    with pytest.raises(flashcore.DeviceError) as raised:
        flashcore.preload(999)
    assert isinstance(raised.value, RuntimeError)
    assert raised.value.status in (Status.NO_DRIVER, Status.NO_DEVICE)


def test_plans_refuse_the_same():
    with pytest.raises(flashcore.ArgumentError, match="3 query heads are not a multiple"):
        flashcore.plan(Q[:, :, :3], KV, KV)
    with pytest.raises(flashcore.ArgumentError, match="scale -1 is not"):
        flashcore.plan(Q, KV, KV, scale=-1)
    with pytest.raises(TypeError, match="which is no tensor"):
        flashcore.plan(1, 2, 3)


def test_statuses_have_their_kind():
    from flashcore._errors import failure

    kinds = {
        Status.INTERNAL: flashcore.InternalError,
        Status.STRUCT_SIZE: flashcore.InternalError,
        Status.NO_DRIVER: flashcore.DeviceError,
        Status.HAZARDS: flashcore.DeviceError,
        Status.OUT_OF_MEMORY: flashcore.OutOfMemoryError,
        Status.SHAPE_OVERFLOW: flashcore.ArgumentError,
        Status.DTYPE_MISMATCH: flashcore.ArgumentTypeError,
        Status.ALIASING: flashcore.ArgumentError,
        1000: flashcore.Error,
    }
    for status, kind in kinds.items():
        error = failure(status, "text")
        assert type(error) is kind and str(error) == "text" and error.status == status
    assert isinstance(failure(Status.OUT_OF_MEMORY, ""), MemoryError)
