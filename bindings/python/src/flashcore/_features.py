"""What a call asks for beyond plain attention."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _library
from ._errors import ArgumentError, ArgumentTypeError, Status

if TYPE_CHECKING:
    from ._framework import Framework, Operand

_ALIGNMENTS = {"bottom-right": 0, "top-left": 1}
#: Larger distances reach as far, and fit into a ``size_t``.
_FAR = 2**62
#: Arrays that go along, and the types of their elements.
ARRAYS = {
    "cu_seqlens_q": "int32",
    "cu_seqlens_kv": "int32",
    "seqused_q": "int32",
    "seqused_kv": "int32",
    "prefix": "int32",
    "sinks": "float32",
    "alibi_slopes": "float32",
}
#: Those that say which keys a query sees, i32, and their dimensions.
MASKS = {
    "key_ranges": ("batch", "heads_q", "seqlen_q", "2"),
    "kv_num_blocks": ("batch", "heads_q", "blocks of queries"),
    "kv_indices": ("batch", "heads_q", "blocks of queries", "room"),
}
#: Where an empty tensor lies, for C: anywhere but at null, which would say that there is none.
_ANYWHERE = 16


class Features(NamedTuple):
    """The arguments of :func:`flashcore.attention` of these names, in the order of PyTorch's operators. A block mask is
    its two lists."""

    window_left: int | None = None
    window_right: int | None = None
    align: str = "bottom-right"
    chunk: int | None = None
    softcap: float | None = None
    sinks: Any = None
    prefix: Any = None
    cu_seqlens_q: Any = None
    cu_seqlens_kv: Any = None
    seqused_q: Any = None
    seqused_kv: Any = None
    alibi_slopes: Any = None
    bias: Any = None
    dropout_p: float = 0.0
    dropout_seed: int = 0
    dropout_offset: int = 0
    key_ranges: Any = None
    kv_num_blocks: Any = None
    kv_indices: Any = None
    approximate_softcap: bool = False

    def arrays(self) -> dict[str, Any]:
        """Those of the arrays that are given."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return {name: array for name, array in arrays.items() if array is not None}

    def masks(self) -> dict[str, Any]:
        """Key ranges and the lists of a block mask, if they are given."""
        masks = {name: getattr(self, name) for name in MASKS}
        return {name: array for name, array in masks.items() if array is not None}

    def signed(self) -> tuple[Any, ...]:
        """As arguments of PyTorch's operators, whose integers are signed."""
        seed = self.dropout_seed
        return (*self[:_SEED], seed - 2**64 if seed >= 2**63 else seed, *self[_SEED + 1 :])

    def tensors(self) -> dict[str, Any]:
        """Those of the tensors that are given."""
        return self.arrays() | self.masks() | ({} if self.bias is None else {"bias": self.bias})


_SEED = Features._fields.index("dropout_seed")
_NO_WINDOW = (None, None)


def gather(
    framework: Framework,
    window: Any,
    align: str,
    chunk: Any,
    softcap: Any,
    sinks: Any,
    prefix: Any,
    cu_seqlens_q: Any,
    cu_seqlens_kv: Any,
    seqused_q: Any,
    seqused_kv: Any,
    alibi_slopes: Any,
    bias: Any,
    dropout_p: Any,
    dropout_seed: Any,
    dropout_offset: Any,
    key_ranges: Any,
    block_mask: Any,
    approximate_softcap: Any,
) -> Features | None:
    """The features of a call; None if it asks for nothing, which is quicker."""
    if (
        cu_seqlens_q is None
        and cu_seqlens_kv is None
        and seqused_q is None
        and seqused_kv is None
        and alibi_slopes is None
        and bias is None
        and key_ranges is None
        and block_mask is None
        and prefix is None
        and sinks is None
        and softcap is None
        and chunk is None
        and window == _NO_WINDOW
        and align == "bottom-right"
        and dropout_p == 0.0
    ):
        return None
    try:
        left, right = window
    except (TypeError, ValueError):
        raise ArgumentTypeError(f"window is {window!r}, which is no pair of numbers of keys") from None
    if isinstance(key_ranges, (tuple, list)):
        key_ranges = framework.pairs(key_ranges)
    kv_num_blocks, kv_indices = (None, None) if block_mask is None else framework.lists(block_mask)
    return Features(
        left,
        right,
        align,
        chunk,
        softcap,
        sinks,
        prefix,
        cu_seqlens_q,
        cu_seqlens_kv,
        seqused_q,
        seqused_kv,
        alibi_slopes,
        bias,
        dropout_p,
        dropout_seed,
        dropout_offset,
        key_ranges,
        kv_num_blocks,
        kv_indices,
        bool(approximate_softcap),
    )


def pack_options(
    causal: bool,
    scale: float | None,
    features: Features | None,
    side: Mapping[str, Operand],
    moved: Callable[[int], int] = int,
) -> bytes:
    """``fc_attention_options``, with the arrays and the bias of ``side``, whose addresses are as ``moved`` has them."""
    if features is None:
        return _library.pack_options(causal, scale)
    if features.align not in _ALIGNMENTS:
        raise ArgumentError(f"align is {features.align!r}; it must be one of {', '.join(map(repr, _ALIGNMENTS))}")
    left, right = _keys("window", features.window_left, 0), _keys("window", features.window_right, 0)

    def address(name: str) -> int:
        return moved(side[name].address) or _ANYWHERE if name in side else 0

    def length(name: str) -> int:
        return math.prod(side[name].shape) if name in side else 0

    return _library.pack_all_options(
        causal,
        scale,
        _ALIGNMENTS[features.align],
        left or 0,
        right or 0,
        left is not None,
        right is not None,
        _keys("chunk", features.chunk, 1) or 0,
        _softcap(features.softcap),
        features.approximate_softcap,
        _sequences(side),
        *(address(name) for name, kind in ARRAYS.items() if kind == "int32"),
        address("sinks"),
        length("sinks"),
        address("alibi_slopes"),
        length("alibi_slopes"),
        address("bias"),
        *_bias(side.get("bias")),
        *pack_dropout(features.dropout_p, features.dropout_seed, features.dropout_offset),
        address("key_ranges"),
        *(side["key_ranges"].shape[:3] if "key_ranges" in side else (0, 0, 0)),
        address("kv_num_blocks"),
        address("kv_indices"),
        *(side["kv_indices"].shape if "kv_indices" in side else (0, 0, 0, 0)),
    )


def pack_dropout(p: Any, seed: Any, offset: Any) -> tuple[float, int, int]:
    """Probability, offset and seed as C has them."""
    offset, seed = _integer("dropout_offset", offset), _integer("dropout_seed", seed)
    if not 0 <= offset < 2**32:
        raise ArgumentError(f"dropout_offset is {offset}; it must be at least 0 and below 2**32")
    if not -(2**63) <= seed < 2**64:
        raise ArgumentError(f"dropout_seed is {seed}; it must have 64 bits")
    return _f32("dropout_p", p), offset, seed % 2**64


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ArgumentTypeError(f"{name} is {value!r}, which is no integer") from None


def _f32(name: str, value: Any) -> float:
    """A number that f32 can have."""
    try:
        struct.pack("f", value)
    except OverflowError:  # the library says what is wrong with infinity
        return math.inf
    except struct.error:
        raise ArgumentTypeError(f"{name} is {value!r}, which is no number") from None
    return float(value)


def _bias(bias: Operand | None) -> tuple[int, ...]:
    """Fields of ``fc_bias`` behind the address."""
    if bias is None:
        return (0,) * 9
    # A stride that nobody steps by may be negative, which the library cannot take.
    return (*bias.shape, *(max(stride, 0) for stride in bias.strides), _library.DTYPES[bias.dtype])


def _keys(name: str, keys: Any, least: int) -> int | None:
    """A number of keys."""
    if keys is None:
        return None
    try:
        number = operator.index(keys)
    except TypeError:
        raise ArgumentTypeError(f"{name} is {keys!r}, which is no number of keys") from None
    if number < least:
        raise ArgumentError(f"{name} is {number}; it must be at least {least}")
    return min(number, _FAR)


def _softcap(softcap: Any) -> float:
    """A bound of scores as f32 has it; 0 for none."""
    if softcap is None:
        return 0.0
    if softcap == 0:
        raise ArgumentError("softcap 0 is not supported: it must be positive, or None", Status.SOFTCAP)
    return _f32("softcap", softcap)


def _sequences(side: Mapping[str, Operand]) -> int:
    """How many sequences these arrays are for; raises if they disagree."""
    first, sequences = "", 0
    for name, kind in ARRAYS.items():
        if kind == "float32" or name not in side:
            continue
        (length,) = side[name].shape
        found = length - name.startswith("cu_seqlens")
        if found < 0:
            raise ArgumentError(f"{name} is empty; it needs a number for each sequence, and the end of the last one")
        if first and found != sequences:
            raise ArgumentError(
                f"{name} has {length} numbers, which are for {found} sequences, but {first} is for {sequences}",
                Status.ARRAY_LENGTH,
            )
        first, sequences = name, found
    return sequences
