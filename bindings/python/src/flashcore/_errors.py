"""What can go wrong, as exceptions. Messages are those of the Rust library, with the offending value and the limit."""

import enum


class Status(enum.IntEnum):
    """Why a call failed: the numbers of ``fc_status`` in ``flashcore.h``, which never change."""

    NULL_ARGUMENT = 1
    STRUCT_SIZE = 2
    DEVICE_HANDLE = 3
    UNKNOWN_DTYPE = 4
    BUFFER_TOO_SMALL = 5
    NOT_ALLOCATED = 6
    INTERNAL = 7
    UNKNOWN_ALIGN = 8
    UNKNOWN_FP8 = 9
    FP8_QKV_HANDLE = 10
    NO_DRIVER = 20
    DRIVER_TOO_OLD = 21
    NO_DEVICE = 22
    NOT_HOPPER = 23
    OUT_OF_MEMORY = 24
    DRIVER = 25
    CONTEXT_LOST = 26
    WRONG_STREAM = 27
    SHARED_MEMORY = 28
    KERNEL_MISSING = 29
    KERNEL_REFUSED = 30
    HAZARDS = 31
    EMULATOR_REFUSED = 32
    SHAPE_OVERFLOW = 40
    DIMENSION_TOO_LARGE = 41
    TOO_MANY_TILES = 42
    HEAD_DIM = 43
    SHAPE_MISMATCH = 44
    HEAD_RATIO = 45
    DTYPE_MISMATCH = 46
    SCALE = 47
    SOFTCAP = 48
    PREFIX_UNDER_WINDOW = 49
    ARRAY_LENGTH = 50
    BIAS_OF_PACKED = 51
    DROPOUT_RATE = 52
    SPARSE_SCORES = 53
    FP8_FEATURES = 54
    FP8_PACKING = 55
    NULL_POINTER = 60
    NOT_DEVICE_POINTER = 61
    WRONG_DEVICE = 62
    MISALIGNED = 63
    STRIDE_MISALIGNED = 64
    STRIDE_TOO_LARGE = 65
    OVERLAPPING_OUTPUT = 66
    ALIASING = 67
    REACHES_TOO_FAR = 68
    BIAS_KEYS_APART = 69


class Error(Exception):
    """Everything that flashcore raises, but for wrong Python calls (unknown keywords and the like)."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message, status)

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def status(self) -> int | None:
        """A :class:`Status`, or None if the package refused the call before the library saw it."""
        status: int | None = self.args[1]
        return status


class ArgumentError(Error, ValueError):
    """A shape, stride, address or option that cannot be computed with."""


class ArgumentTypeError(Error, TypeError):
    """An element type that is neither f16 nor bf16, tensors of different types, or something that is no tensor."""


class UnsupportedError(Error, NotImplementedError):
    """Something that flashcore does not have yet."""


class DeviceError(Error, RuntimeError):
    """No driver, no Hopper GPU, or a call that the driver or the emulator refused."""


class OutOfMemoryError(DeviceError, MemoryError):
    """Device memory is exhausted."""


class InternalError(Error, RuntimeError):
    """A mistake in flashcore itself. Please report it."""


class EmulatedWarning(UserWarning):
    """Tensors lie in CPU memory, so that the emulator computes: right, but about half a million times slower."""


_TYPE_STATUSES = (Status.UNKNOWN_DTYPE, Status.DTYPE_MISMATCH)


def failure(number: int, message: str) -> Error:
    """The exception for a status of the C library."""
    try:
        status: int = Status(number)
    except ValueError:  # a newer library may have more of them
        return Error(message, number)
    if status in _TYPE_STATUSES:
        return ArgumentTypeError(message, status)
    if status == Status.FP8_FEATURES:
        return UnsupportedError(message, status)
    if status >= Status.SHAPE_OVERFLOW:
        return ArgumentError(message, status)
    if status == Status.OUT_OF_MEMORY:
        return OutOfMemoryError(message, status)
    if status >= Status.NO_DRIVER:
        return DeviceError(message, status)
    return InternalError(message, status)
