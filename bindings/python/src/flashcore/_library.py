"""The C library, libflashcore_c.so: loaded once, its functions typed, its failures raised as exceptions."""

import ctypes
import functools
import math
import struct
import threading
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path

from ._errors import ArgumentTypeError, failure

ABI_VERSION = 1
NAME_BYTES = 256

F16 = 1
BF16 = 2
#: ``fc_dtype`` of an element type, by its name in NumPy.
DTYPES = {"float16": F16, "bfloat16": BF16}
#: ``fc_fp8``.
E4M3 = 1
E5M2 = 2

#: ``fc_tensor``: address; batch, seqlen, heads, head_dim; strides of the first three, in elements; ``fc_dtype``.
pack_tensor = struct.Struct("@8Qi4x").pack
_OPTIONS = struct.Struct("@QiifiQQiiQfi8Q2Q9Qi4xfIQ4Q6Q")
_pack_options = _OPTIONS.pack
_OPTIONS_BYTES = _OPTIONS.size
_FP8_OPTIONS = struct.Struct("@Qiii4x2Q")
_FP8_STOCHASTIC = struct.Struct("@QQI4x")
#: ``num_sequences``, ``cu_seqlens_q`` and ``cu_seqlens_kv`` of ``fc_attention_options``.
_SEQUENCES = struct.Struct("@3Q")
_SEQUENCES_AT = 64


class DeviceProperties(ctypes.Structure):
    """``fc_device_properties``: facts of a device."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("total_memory_bytes", c_uint64),
        ("l2_bytes", c_uint64),
        ("ordinal", c_uint32),
        ("is_emulated", c_uint32),
        ("compute_capability_major", c_uint32),
        ("compute_capability_minor", c_uint32),
        ("sm_count", c_uint32),
        ("smem_limit_bytes", c_uint32),
        ("driver_version", c_uint32),
        ("name", c_char * NAME_BYTES),
    ]


# Structs are passed as the bytes that `struct` packs (c_char_p): quicker than filling ctypes structures, and every call
# has its own, so that threads share nothing. Device addresses are numbers.
_TENSOR = c_char_p
_ADDRESS = c_size_t
_SIGNATURES = {
    "fc_abi_version": (c_uint32, []),
    "fc_version_string": (c_char_p, []),
    "fc_kernel_count": (c_size_t, []),
    "fc_last_error": (c_char_p, []),
    "fc_attention_forward": (c_int32, [c_void_p, _ADDRESS, *[_TENSOR] * 4, _ADDRESS, c_char_p]),
    "fc_attention_plan_text": (
        c_int32,
        [c_void_p, *[_TENSOR] * 4, c_char_p, c_void_p, c_size_t, POINTER(c_size_t)],
    ),
    "fc_merge_attention_states": (
        c_int32,
        [c_void_p, _ADDRESS, _TENSOR, _ADDRESS, _TENSOR, _ADDRESS, _TENSOR, _ADDRESS],
    ),
    "fc_dropout_mask": (
        c_int32,
        [c_void_p, _ADDRESS, c_float, c_uint64, c_uint32, *[c_size_t] * 4, _ADDRESS],
    ),
    "fc_fp8_qkv_create": (c_int32, [c_void_p, *[_TENSOR] * 3, c_char_p, POINTER(c_void_p)]),
    "fc_fp8_qkv_destroy": (c_int32, [c_void_p]),
    "fc_attention_fp8": (c_int32, [c_void_p, _ADDRESS, *[_TENSOR] * 4, _ADDRESS, c_char_p, c_char_p]),
    "fc_device_open_cuda": (c_int32, [c_uint32, POINTER(c_void_p)]),
    "fc_device_open_emulated": (c_int32, [POINTER(c_void_p)]),
    "fc_device_get_properties": (c_int32, [c_void_p, POINTER(DeviceProperties)]),
    "fc_device_preload": (c_int32, [c_void_p]),
    "fc_stream_synchronize": (c_int32, [c_void_p, _ADDRESS]),
    "fc_alloc": (c_int32, [c_void_p, c_size_t, POINTER(c_size_t)]),
    "fc_free": (c_int32, [c_void_p, _ADDRESS]),
    "fc_copy_to_device": (c_int32, [c_void_p, _ADDRESS, _ADDRESS, c_size_t]),
    "fc_copy_to_host": (c_int32, [c_void_p, _ADDRESS, _ADDRESS, c_size_t]),
}


def _load() -> ctypes.CDLL:
    path = Path(__file__).with_name("libflashcore_c.so")
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    found = library.fc_abi_version()
    if found != ABI_VERSION:
        raise ImportError(f"{path} has version {found} of the C interface, but this package needs {ABI_VERSION}")
    return library


library = _load()
_forward = library.fc_attention_forward
_forward_fp8 = library.fc_attention_fp8
_merge = library.fc_merge_attention_states
_last_error = library.fc_last_error

VERSION: str = library.fc_version_string().decode()
KERNEL_COUNT: int = library.fc_kernel_count()


def check(status: int) -> None:
    """Raises what this thread's last call failed with, if it did."""
    if status:
        raise failure(status, _last_error().decode())


def pack_options(causal: bool, scale: float | None) -> bytes:
    """``fc_attention_options`` of plain attention."""
    if scale is None:
        return _DEFAULT_SCALE[bool(causal)]
    return pack_all_options(causal, scale, *_PLAIN)


def pack_all_options(causal: bool, scale: float | None, *others: float) -> bytes:
    """``fc_attention_options``; ``others`` are its fields from ``align`` on."""
    if scale is None:
        return _pack_options(_OPTIONS_BYTES, bool(causal), 0, 0.0, *others)
    try:
        return _pack_options(_OPTIONS_BYTES, bool(causal), 1, scale, *others)
    except OverflowError:  # beyond f32: the library says what is wrong with infinity
        return _pack_options(_OPTIONS_BYTES, bool(causal), 1, math.inf, *others)
    except struct.error:
        raise ArgumentTypeError(f"scale is {scale!r}, which is no number") from None


#: Nothing beyond plain attention.
_PLAIN = (0,) * 41
_DEFAULT_SCALE = [pack_all_options(causal, None, *_PLAIN) for causal in (False, True)]


def forward(handle: int, stream: int, tensors: Sequence[bytes], lse: int, options: bytes) -> None:
    """``fc_attention_forward`` over q, k, v and out; ``lse`` is an address, or 0 for none."""
    status = _forward(handle, stream, *tensors, lse, options)
    if status:
        check(status)


def pack_fp8_options(format: int, rotated: bool, per_tensor: bool, sequences: tuple[int, int]) -> bytes:
    """``fc_fp8_options``; ``sequences`` are those that are packed in q, and in k and v, 0 where none are."""
    return _FP8_OPTIONS.pack(_FP8_OPTIONS.size, format, rotated, per_tensor, *sequences)


def pack_fp8_stochastic(seed: int, offset: int) -> bytes:
    """``fc_fp8_stochastic``."""
    return _FP8_STOCHASTIC.pack(_FP8_STOCHASTIC.size, seed, offset)


def packed_sequences(options: bytes) -> tuple[int, int]:
    """How many sequences are packed in q, and in k and v, of a call with these ``fc_attention_options``."""
    count, of_q, of_kv = _SEQUENCES.unpack_from(options, _SEQUENCES_AT)
    return count if of_q else 0, count if of_kv else 0


def create_fp8(handle: int, tensors: Sequence[bytes], options: bytes) -> int:
    """``fc_fp8_qkv_create`` for the shapes of q, k and v; ``options`` are ``fc_fp8_options``."""
    qkv = c_void_p()
    check(library.fc_fp8_qkv_create(handle, *tensors, options, byref(qkv)))
    return qkv.value or 0


def destroy_fp8(qkv: int) -> None:
    """``fc_fp8_qkv_destroy``."""
    check(library.fc_fp8_qkv_destroy(qkv))


def forward_fp8(
    qkv: int, stream: int, tensors: Sequence[bytes], lse: int, options: bytes, stochastic: bytes | None
) -> None:
    """``fc_attention_fp8`` over q, k, v and out; ``lse`` is an address, or 0 for none."""
    status = _forward_fp8(qkv, stream, *tensors, lse, options, stochastic)
    if status:
        check(status)


def merge(handle: int, stream: int, tensors: Sequence[bytes], lses: Sequence[int]) -> None:
    """``fc_merge_attention_states`` over o1, o2 and out, and the addresses of lse1, lse2 and lse."""
    o1, o2, out = tensors
    lse1, lse2, lse = lses
    status = _merge(handle, stream, o1, lse1, o2, lse2, out, lse)
    if status:
        check(status)


def dropout_mask(handle: int, stream: int, dropout: tuple[float, int, int], sizes: Sequence[int], mask: int) -> None:
    """``fc_dropout_mask`` of p, offset and seed, and the address of the mask."""
    p, offset, seed = dropout
    check(library.fc_dropout_mask(handle, stream, p, seed, offset, *sizes, mask))


class Device:
    """An open device of the C library. It stays open until the process ends: recorded graphs may still need it."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    @functools.cached_property
    def properties(self) -> DeviceProperties:
        """Facts of the device."""
        properties = DeviceProperties(struct_size=ctypes.sizeof(DeviceProperties))
        check(library.fc_device_get_properties(self.handle, byref(properties)))
        return properties

    def preload(self) -> None:
        """Loads every kernel now, instead of at the first call that needs it."""
        check(library.fc_device_preload(self.handle))

    def synchronize(self, stream: int) -> None:
        """Waits for the work of a stream."""
        check(library.fc_stream_synchronize(self.handle, stream))

    def alloc(self, size: int) -> int:
        """The address of ``size`` bytes of device memory, a multiple of 256; 0 for none."""
        address = c_size_t()
        check(library.fc_alloc(self.handle, size, byref(address)))
        return address.value

    def free(self, address: int) -> None:
        """Frees what ``alloc`` gave."""
        check(library.fc_free(self.handle, address))

    def upload(self, to: int, source: int, size: int) -> None:
        """Copies host memory at ``source`` to the device, when all its work is done."""
        check(library.fc_copy_to_device(self.handle, to, source, size))

    def download(self, to: int, source: int, size: int) -> None:
        """Copies device memory at ``source`` to the host, when all the device's work is done."""
        check(library.fc_copy_to_host(self.handle, to, source, size))

    def plan(self, tensors: Sequence[bytes], options: bytes) -> str:
        """``fc_attention_plan_text`` of q, k, v and out."""
        length = c_size_t()
        arguments = (self.handle, *tensors, options)
        check(library.fc_attention_plan_text(*arguments, None, 0, byref(length)))
        text = ctypes.create_string_buffer(length.value + 1)
        check(library.fc_attention_plan_text(*arguments, text, len(text), byref(length)))
        return text.value.decode()


_lock = threading.Lock()
_cuda: dict[int, Device] = {}
_emulated: list[Device] = []


def cuda(ordinal: int) -> Device:
    """CUDA device ``ordinal``, opened once."""
    device = _cuda.get(ordinal)
    if device is None:
        with _lock:
            device = _cuda.get(ordinal)
            if device is None:
                handle = c_void_p()
                check(library.fc_device_open_cuda(ordinal, byref(handle)))
                device = _cuda[ordinal] = Device(handle.value or 0)
    return device


def emulated() -> Device:
    """The emulated device, opened once."""
    with _lock:
        if not _emulated:
            handle = c_void_p()
            check(library.fc_device_open_emulated(byref(handle)))
            _emulated.append(Device(handle.value or 0))
        return _emulated[0]
