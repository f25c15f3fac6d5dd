"""Room for q, k and v of 8 bits: kept from call to call, or the caller's."""

from __future__ import annotations

import operator
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _library
from ._errors import ArgumentError, ArgumentTypeError

_FORMATS = {"e4m3": _library.E4M3, "e5m2": _library.E5M2}
#: How many rooms are kept: the layers of a model share one, and few shapes alternate.
_KEPT = 8
#: ``cudaStreamPerThread``: one handle, but another stream in each thread.
_PER_THREAD = 2
#: Where ``fc_tensor`` has batch, seqlen, heads and head_dim.
_SIZES = slice(8, 40)


class Narrow(NamedTuple):
    """How q, k and v are rounded: the arguments of :func:`flashcore.attention_fp8` of these names."""

    format: str
    rotated: bool
    per_tensor: bool
    rounding_seed: int | None = None
    rounding_offset: int = 0

    def packed(self, sequences: tuple[int, int]) -> bytes:
        """``fc_fp8_options`` for so many packed sequences."""
        if self.format not in _FORMATS:
            raise ArgumentError(f"format is {self.format!r}; it must be one of {', '.join(map(repr, _FORMATS))}")
        return _library.pack_fp8_options(_FORMATS[self.format], bool(self.rotated), bool(self.per_tensor), sequences)

    def signed(self) -> tuple[Any, ...]:
        """As arguments of PyTorch's operators, whose integers are signed."""
        if self.rounding_seed is None:
            return (*self[:3], None, 0)
        seed = _below("rounding_seed", self.rounding_seed, 64)
        offset = _below("rounding_offset", self.rounding_offset, 32)
        return (*self[:3], seed - 2**64 if seed >= 2**63 else seed, offset)

    def stochastic(self) -> bytes | None:
        """``fc_fp8_stochastic``; None is to the nearest."""
        if self.rounding_seed is None:
            return None
        return _library.pack_fp8_stochastic(
            _below("rounding_seed", self.rounding_seed, 64), _below("rounding_offset", self.rounding_offset, 32)
        )

    def forward(self, handle: int, stream: int, tensors: Sequence[bytes], lse: int, options: bytes) -> None:
        """As ``_library.forward``, by way of 8 bits, in a room that is kept."""
        room = _kept.room(handle, stream, tensors, self, _library.packed_sequences(options))
        room.forward(handle, stream, tensors, lse, options, self.stochastic())


def _below(name: str, value: Any, bits: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(f"{name} is {value!r}, which is no integer") from None
    if not 0 <= number < 2**bits:
        raise ArgumentError(f"{name} is {number}; it must be at least 0 and below 2**{bits}")
    return number


class Fp8Room:
    """Device memory for q, k and v of 8 bits, which :func:`flashcore.fp8_room` makes. It goes when nobody refers to it,
    after all work of the device. Calls in one room are on one stream, or each waits for the one before it."""

    def __init__(self, handle: int, tensors: Sequence[bytes], narrow: Narrow, sequences: tuple[int, int]) -> None:
        self._number = _library.create_fp8(handle, tensors[:3], narrow.packed(sequences))
        # When the process ends, devices are not closed, either.
        weakref.finalize(self, _library.destroy_fp8, self._number).atexit = False

    def forward(
        self,
        handle: int,
        stream: int,
        tensors: Sequence[bytes],
        lse: int,
        options: bytes,
        stochastic: bytes | None = None,
    ) -> None:
        """As ``_library.forward``, by way of 8 bits; of the device that the room is of."""
        _library.forward_fp8(self._number, stream, tensors, lse, options, stochastic)


class _Kept:
    """The rooms that were used last.

    A call writes its room and then reads it, and returns before either is done. So each stream has rooms of its own:
    on a stream, a call begins when the one before it is done, and the library submits both parts of a call together,
    whatever other threads do. Making room anew for each call would be as safe, but freeing it waits for the device.
    A room that is not kept any more is freed after all work of the device.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rooms: OrderedDict[tuple[object, ...], Fp8Room] = OrderedDict()

    def room(
        self, handle: int, stream: int, tensors: Sequence[bytes], narrow: Narrow, sequences: tuple[int, int]
    ) -> Fp8Room:
        """The room of a device, a stream, these shapes and so many packed sequences. It serves all seeds."""
        thread = _mark() if stream == _PER_THREAD else None
        key = (handle, stream, thread, *(tensor[_SIZES] for tensor in tensors[:3]), narrow[:3], sequences)
        with self._lock:
            room = self._rooms.get(key)
            if room is not None:
                self._rooms.move_to_end(key)
                return room
        room = Fp8Room(handle, tensors, narrow, sequences)
        old = []  # they are freed without the lock
        with self._lock:
            room = self._rooms.setdefault(key, room)
            while len(self._rooms) > _KEPT:
                old.append(self._rooms.popitem(last=False))
        return room


_kept = _Kept()
_marks = threading.local()


def _mark() -> object:
    """What tells this thread from all others, also from those that come after it."""
    try:
        return _marks.mark
    except AttributeError:
        _marks.mark = object()
        return _marks.mark
