"""What calls ask of a framework of tensors, and the way of a call that all of them share."""

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from . import _emulated, _library
from ._errors import ArgumentError, ArgumentTypeError, EmulatedWarning, Status
from ._features import ARRAYS, MASKS, Features, pack_options
from ._fp8 import Fp8Room, Narrow

#: What submits a call of a device's handle, a stream, q, k, v and out, the log-sum-exp's address, and options.
Forward = Callable[[int, int, Sequence[bytes], int, bytes], None]
_DIMS = ("batch", "seqlen", "heads", "head_dim")
_WARNING = (
    "these tensors lie in CPU memory, so flashcore computes on its emulator: the result is right, but this is about "
    "half a million times slower than a GPU"
)
# Once per process, wherever it comes from, unless the user's filters say otherwise: those come first.
warnings.simplefilter("once", EmulatedWarning, append=True)


def _warn_emulated() -> None:
    """Says that the emulator computes, and where it was called from outside of this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(_WARNING, EmulatedWarning, stacklevel=level)


def type_name(value: object) -> str:
    """A type's name with its module, for messages."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def check_rank(name: str, shape: Sequence[int], packed: bool = False) -> None:
    """Refuses what is not (batch, seqlen, heads, head_dim), or, of packed sequences, (total, heads, head_dim)."""
    dims = ("total", "heads", "head_dim") if packed else _DIMS
    if len(shape) != len(dims):
        raise ArgumentError(
            f"{name} has {len(shape)} dimensions {tuple(shape)}; it must have {len(dims)}: ({', '.join(dims)})"
        )


def check_strides(name: str, shape: Sequence[int], strides: Sequence[int]) -> None:
    """Refuses steps backwards, and gaps between the elements of a head. Nobody steps along a dimension of size 1, or
    through an empty tensor."""
    if 0 in shape:
        return
    for dim, size, stride in zip(_DIMS, shape, strides):
        if size > 1 and (stride != 1 if dim == "head_dim" else stride < 0):
            needed = "be 1" if dim == "head_dim" else "not be negative"
            raise ArgumentError(
                f"{name} has {dim} stride {stride} (elements); it must {needed}", Status.STRIDE_MISALIGNED
            )


def unknown_dtype(name: str, dtype: object) -> ArgumentTypeError:
    """Neither f16 nor bf16."""
    return ArgumentTypeError(f"{name} has element type {dtype}; f16 and bf16 are supported", Status.UNKNOWN_DTYPE)


def no_tensor(tensor: object, name: str = "q") -> ArgumentTypeError:
    """Something that no framework calls a tensor."""
    return ArgumentTypeError(f"{name} is a {type_name(tensor)}, which is no tensor of PyTorch, JAX, CuPy or NumPy")


def lse_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the log-sum-exp of q: (batch, heads, seqlen), or of packed sequences (heads, total)."""
    *batch, seqlen, heads, _ = shape
    return (*batch, heads, seqlen)


def check_array(name: str, array: "Operand") -> None:
    """Refuses what is not a contiguous array of one dimension; slopes may have two."""
    if len(array.shape) != 1 and not (name == "alibi_slopes" and len(array.shape) == 2):
        allowed = "1 or 2" if name == "alibi_slopes" else "1"
        raise ArgumentError(f"{name} has {len(array.shape)} dimensions {tuple(array.shape)}; it must have {allowed}")
    needed = 1
    for size, stride in zip(reversed(array.shape), reversed(array.strides)):
        if size > 1 and 0 not in array.shape and stride != needed:
            raise ArgumentError(f"{name} has stride {stride} (elements); it must be {needed}")
        needed *= size


def check_ranges_and_lists(name: str, numbers: "Operand", dims: Sequence[str]) -> None:
    """Refuses what is not contiguous, or has other dimensions than key ranges or lists of a block mask have."""
    shape = tuple(numbers.shape)
    if len(shape) != len(dims):
        raise ArgumentError(
            f"{name} has {len(shape)} dimensions {shape}; it must have {len(dims)}: ({', '.join(dims)})"
        )
    if dims[-1] == "2" and shape[-1] != 2:
        message = f"{name} has shape {shape}; the last size must be 2: the first key and the one behind the last"
        raise ArgumentError(message, Status.SHAPE_MISMATCH)
    needed = 1
    for dim, size, stride in zip(reversed(dims), reversed(shape), reversed(numbers.strides)):
        if size > 1 and 0 not in shape and stride != needed:
            raise ArgumentError(f"{name} has {dim} stride {stride} (elements); it must be {needed}: contiguous")
        needed *= size


def check_lists(name: str, lists: Sequence[int], counts_name: str, counts: Sequence[int]) -> None:
    """Refuses lists of these sizes that are not one for each number of blocks."""
    if tuple(counts) != tuple(lists)[:-1]:
        raise ArgumentError(
            f"{name} has shape {tuple(lists)}; it must be that of {counts_name}, {tuple(counts)}, and one size more",
            Status.SHAPE_MISMATCH,
        )


def check_slopes(slopes: "Operand", heads: int) -> None:
    """Refuses other sizes than (heads_q,) and (sequences, heads_q); how many sequences there are, the library knows."""
    if slopes.shape[-1] != heads:
        raise ArgumentError(
            f"alibi_slopes has shape {tuple(slopes.shape)}; it must be (heads_q,) or (sequences, heads_q), "
            f"where heads_q is {heads}",
            Status.SHAPE_MISMATCH,
        )


def check_bias(bias: "Operand", end: int, cures: tuple[str, str]) -> None:
    """Refuses a bias that does not lie as kernels load it, two neighbouring keys at once, and says how one that does
    is made: ``cures`` are for an even number of keys and for an odd one. Its memory ends at ``end``."""
    if 0 in bias.shape:
        return
    keys = bias.shape[3]
    cure = f": {cures[keys % 2]}"
    if keys > 1 and bias.strides[3] != 1:
        raise ArgumentError(
            f"numbers of neighbouring keys must be neighbours in a bias, but they are {bias.strides[3]} apart{cure}",
            Status.BIAS_KEYS_APART,
        )
    for dim, size, stride in zip(("batch", "heads", "seqlen_q"), bias.shape, bias.strides):
        if size > 1 and (stride < 0 or stride % 2):
            raise ArgumentError(
                f"bias has {dim} stride {stride} (elements); it must be a multiple of 2{cure}",
                Status.STRIDE_MISALIGNED,
            )
    needed, given = len(bias.bias_span()), end - bias.address
    if needed > given:
        raise ArgumentError(
            f"bias reaches over {needed} bytes, but has only {given}, since a row of an odd number of keys needs room "
            f"for one number more{cure}"
        )


def check_lse(name: str, lse: "Operand", o1: "Operand") -> None:
    """Refuses a log-sum-exp that is not contiguous (batch, heads, seqlen) of the rows of o1."""
    expected = lse_shape(o1.shape)
    if tuple(lse.shape) != expected:
        raise ArgumentError(
            f"{name} has shape {tuple(lse.shape)}, but {expected} is needed: (batch, heads, seqlen)",
            Status.SHAPE_MISMATCH,
        )
    needed = 1
    for dim, size, stride in zip(("seqlen", "heads", "batch"), reversed(lse.shape), reversed(lse.strides)):
        if size > 1 and 0 not in expected and stride != needed:
            raise ArgumentError(f"{name} has {dim} stride {stride} (elements); it must be {needed}: contiguous")
        needed *= size


def check_mask(mask: "Operand", dtype: object) -> None:
    """Refuses a mask that is not contiguous (batch, heads_q, seqlen_q, seqlen_kv), uint8 or bool."""
    if mask.dtype not in ("uint8", "bool"):
        raise ArgumentTypeError(f"mask has element type {dtype}; uint8 and bool are supported", Status.UNKNOWN_DTYPE)
    dims = ("batch", "heads_q", "seqlen_q", "seqlen_kv")
    if len(mask.shape) != len(dims):
        raise ArgumentError(
            f"mask has {len(mask.shape)} dimensions {tuple(mask.shape)}; it must have 4: ({', '.join(dims)})"
        )
    needed = 1
    for dim, size, stride in zip(reversed(dims), reversed(mask.shape), reversed(mask.strides)):
        if size > 1 and 0 not in mask.shape and stride != needed:
            raise ArgumentError(f"mask has {dim} stride {stride} (elements); it must be {needed}: contiguous")
        needed *= size


def place(ordinal: int | None) -> str:
    """A device in words."""
    return "CPU memory" if ordinal is None else f"memory of CUDA device {ordinal}"


@dataclass(frozen=True)
class Operand:
    """Where a tensor lies."""

    address: int
    #: batch, seqlen, heads, head_dim, with batch 1 if sequences are packed; of a log-sum-exp batch, heads, seqlen; of a
    #: bias batch, heads, seqlen_q, seqlen_kv; of key ranges batch, heads, seqlen_q, 2; of an array its length.
    shape: Sequence[int]
    #: Of the same, in elements.
    strides: Sequence[int]
    #: Name of the element type, as NumPy has it.
    dtype: str
    #: Number of the CUDA device; None for CPU memory.
    ordinal: int | None

    def at(self, address: int) -> bytes:
        """``fc_tensor``, with this address."""
        # A stride that nobody steps by may be negative, which the library cannot take.
        strides = [max(stride, 0) for stride in self.strides[:3]]
        return _library.pack_tensor(address, *self.shape, *strides, _library.DTYPES[self.dtype])

    def packed(self) -> bytes:
        """``fc_tensor``."""
        return self.at(self.address)

    def span(self, item_bytes: int = 2) -> range:
        """Addresses from the first element to the end of the last, gaps included."""
        if 0 in self.shape:
            return range(0)
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))
        return range(self.address, self.address + item_bytes * (last + 1))

    def bias_span(self) -> range:
        """The same of a bias, with the room behind a last row of an odd number of keys."""
        span = self.span()
        return range(span.start, span.stop + 2 * (self.shape[3] % 2)) if span else span


class Framework(ABC):
    """Tensors of one framework."""

    #: How a bias is made that lies as kernels load it, for an even number of keys and for an odd one.
    bias_cures: tuple[str, str]

    @abstractmethod
    def owns(self, tensor: Any) -> bool:
        """Whether a value is a tensor of this framework."""

    @abstractmethod
    def locate(self, name: str, tensor: Any, stream: int | None) -> Operand:
        """Where a tensor of this framework lies, whatever its elements are. On a CUDA device, ``stream`` has to wait
        for what is still to write it."""

    @abstractmethod
    def check_writable(self, name: str, out: Any) -> None:
        """Raises if nothing may write to ``out``."""

    @abstractmethod
    def empty_like(self, q: Any) -> Any:
        """Memory for the output."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], q: Any) -> Any:
        """Contiguous memory of a shape, for numbers of q's type, where q is."""

    def empty_output(self, q: Any, v: Any) -> Any:
        """Memory for the output: as q, but for the head_dim, which is v's."""
        if q.shape[-1:] == v.shape[-1:]:
            return self.empty_like(q)
        return self.empty((*q.shape[:-1], *v.shape[-1:]), q)

    @abstractmethod
    def empty_lse(self, q: Any) -> Any:
        """Memory for the log-sum-exp: f32, contiguous, of the shape that :func:`lse_shape` tells."""

    @abstractmethod
    def stack(self, one: Any, other: Any) -> Any:
        """Two tensors of one shape as the last dimension of a new one."""

    @abstractmethod
    def listed(self, visible: Any) -> tuple[Any, Any]:
        """How many elements of each row of a boolean tensor are true, and the indices of a row with those of the true
        ones first, each in rising order: contiguous i32."""

    @abstractmethod
    def joined(self, one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
        """Numbers of elements, and lists of them, that are those of two lists each: contiguous i32."""

    @abstractmethod
    def stream(self, q: Any) -> int | None:
        """The stream that the work is submitted to; None for CPU memory."""

    def end(self, tensor: Any, operand: Operand) -> int:
        """The address where the memory ends that a tensor is part of, as far as the framework tells."""
        return operand.span().stop

    def capturing(self, q: Any) -> bool:
        """Whether a CUDA graph records the work that is submitted to q's stream."""
        return False

    def submitted(self, device: _library.Device, stream: int) -> None:  # noqa: B027 (most have nothing to do)
        """Called when the work has been submitted."""

    def check_owned(self, name: str, tensor: Any, first: Any, first_name: str = "q") -> None:
        """Refuses what is no tensor of this framework, ``first``'s."""
        if self.owns(tensor):
            return
        if name == first_name:
            raise no_tensor(first, first_name)
        raise ArgumentTypeError(f"{name} is a {type_name(tensor)}, but {first_name} is a {type_name(first)}")

    def operand(
        self, name: str, tensor: Any, first: Any, stream: int | None, first_name: str = "q", packed: bool = False
    ) -> Operand:
        """Where a tensor lies, if it is one that can be computed with; what else is wrong, the library says."""
        self.check_owned(name, tensor, first, first_name)
        check_rank(name, tensor.shape, packed)
        operand = self.locate(name, tensor, stream)
        if operand.dtype not in _library.DTYPES:
            raise unknown_dtype(name, tensor.dtype)
        if packed:
            operand = replace(operand, shape=(1, *operand.shape), strides=(0, *operand.strides))
        check_strides(name, operand.shape, operand.strides)
        return operand

    def numbers(
        self, name: str, numbers: Any, dtype: str, first: Any, stream: int | None, first_name: str = "q"
    ) -> Operand:
        """Where a log-sum-exp or an array lies, which must be of ``dtype``, "float32" or "int32"."""
        self.check_owned(name, numbers, first, first_name)
        operand = self.locate(name, numbers, stream)
        if operand.dtype != dtype:
            short = {"float32": "f32", "int32": "i32"}[dtype]
            message = f"{name} has element type {numbers.dtype}; {short} is needed"
            raise ArgumentTypeError(message, Status.UNKNOWN_DTYPE)
        return operand

    def pairs(self, ranges: Sequence[Any]) -> Any:
        """Key ranges as one tensor of those that are given as two."""
        if len(ranges) != 2 or not all(self.owns(ends) for ends in ranges):
            names = ", ".join(map(type_name, ranges))
            raise ArgumentTypeError(f"key_ranges are ({names}), which is neither a tensor nor a pair of q's kind")
        first, end = (tuple(ends.shape) for ends in ranges)
        if first != end:
            message = f"key_ranges are of the shapes {first} and {end}; they must be of one"
            raise ArgumentError(message, Status.SHAPE_MISMATCH)
        return self.stack(*ranges)

    def lists(self, mask: Any) -> tuple[Any, Any]:
        """The two lists of a block mask, which FlexAttention has twice: partial blocks, and full ones."""
        lists = tuple(mask) if isinstance(mask, (tuple, list)) else ()
        if len(lists) == 4 and lists[2] is None and lists[3] is None:
            lists = lists[:2]
        if len(lists) not in (2, 4):
            raise ArgumentTypeError(
                f"block_mask is a {type_name(mask)}; it must be (kv_num_blocks, kv_indices), which block_lists() makes"
                ", or (kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices)"
            )
        for name, numbers in zip(("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices"), lists):
            if not self.owns(numbers):
                found = type_name(numbers)
                raise ArgumentTypeError(f"{name} of block_mask is a {found}, which is no tensor of q's kind")
        if len(lists) == 2:
            return lists
        counts, indices, full_counts, full_indices = lists
        check_lists("kv_indices", indices.shape, "kv_num_blocks", counts.shape)
        check_lists("full_kv_indices", full_indices.shape, "full_kv_num_blocks", full_counts.shape)
        check_lists("full_kv_indices", full_indices.shape, "kv_num_blocks", counts.shape)
        return self.joined((counts, indices), (full_counts, full_indices))

    def block_lists(self, visible: Any) -> tuple[Any, Any]:
        """What :func:`flashcore.block_lists` does for tensors of this framework."""
        self.check_owned("visible", visible, visible, "visible")
        dtype = str(visible.dtype).removeprefix("torch.")
        if dtype != "bool":
            raise ArgumentTypeError(f"visible has element type {dtype}; bool is needed", Status.UNKNOWN_DTYPE)
        if len(visible.shape) != 4:
            raise ArgumentError(
                f"visible has {len(visible.shape)} dimensions {tuple(visible.shape)}; it must have 4: "
                "(batch, heads_q, blocks of queries, blocks of keys)"
            )
        return self.listed(visible)

    def inputs(
        self, q: Any, k: Any, v: Any, features: Features | None, stream: int | None
    ) -> tuple[dict[str, Operand], dict[str, Operand]]:
        """Where q, k and v lie, and the arrays and the bias that go along."""
        packed_q, packed_kv = packing(features)
        operands = {
            name: self.operand(name, tensor, q, stream, packed=packed)
            for name, tensor, packed in (("q", q, packed_q), ("k", k, packed_kv), ("v", v, packed_kv))
        }
        side = {} if features is None else self.side(features, q, stream)
        for name, operand in (operands | side).items():
            check_place(name, operand, operands["q"])
        return operands, side

    def side(self, features: Features, q: Any, stream: int | None) -> dict[str, Operand]:
        """Where the arrays and the bias that go along lie."""
        side = {}
        for name, array in features.arrays().items():
            side[name] = self.numbers(name, array, ARRAYS[name], q, stream)
            check_array(name, side[name])
        if "alibi_slopes" in side:
            check_slopes(side["alibi_slopes"], q.shape[-2])
        packed_q, _ = packing(features)
        for name, numbers in features.masks().items():
            found = self.numbers(name, numbers, "int32", q, stream)
            if name == "key_ranges" and packed_q:
                check_ranges_and_lists(name, found, ("heads_q", "total_q", "2"))
                found = replace(found, shape=(1, *found.shape), strides=(0, *found.strides))
            check_ranges_and_lists(name, found, MASKS[name])
            side[name] = found
        counts, lists = side.get("kv_num_blocks"), side.get("kv_indices")
        if counts is not None and lists is not None:
            check_lists("kv_indices", lists.shape, "kv_num_blocks", counts.shape)
        elif counts is not None or lists is not None:
            raise ArgumentError("a block mask needs both kv_num_blocks and kv_indices")
        if features.bias is not None:
            side["bias"] = self.bias(features.bias, q, stream)
        return side

    def bias(self, bias: Any, q: Any, stream: int | None) -> Operand:
        """Where a bias lies."""
        self.check_owned("bias", bias, q)
        if len(bias.shape) != 4:
            raise ArgumentError(
                f"bias has {len(bias.shape)} dimensions {tuple(bias.shape)}; it must have 4: "
                "(batch, heads_q, seqlen_q, seqlen_kv)"
            )
        operand = self.locate("bias", bias, stream)
        if operand.dtype not in _library.DTYPES:
            raise unknown_dtype("bias", bias.dtype)
        check_bias(operand, self.end(bias, operand), self.bias_cures)
        return operand

    def attention(
        self,
        q: Any,
        k: Any,
        v: Any,
        causal: bool,
        scale: float | None,
        features: Features | None,
        return_lse: bool,
        out: Any,
        forward: Forward | None = None,
    ) -> Any:
        """What :func:`flashcore.attention` does for tensors of this framework; ``forward`` submits it, if it
        is not ``_library.forward``."""
        forward = forward or _library.forward
        stream = self.stream(q)
        operands, side = self.inputs(q, k, v, features, stream)
        options = pack_options(causal, scale, features, side)
        if out is None:
            out = self.empty_output(q, v)
        else:
            self.check_writable("out", out)
        operands["out"] = self.operand("out", out, q, stream, packed=packing(features)[0])
        check_place("out", operands["out"], operands["q"])
        lse = self.empty_lse(q) if return_lse else None
        lse_address = 0 if lse is None else self.locate("lse", lse, stream).address
        if stream is None:
            _warn_emulated()

            def moved_options(moved: Callable[[int], int]) -> bytes:
                return pack_options(causal, scale, features, side, moved)

            _emulated.forward(operands, side, lse_address, moved_options, forward)
        else:
            device = _library.cuda(operands["q"].ordinal or 0)
            packed = [operand.packed() for operand in operands.values()]
            forward(device.handle, stream, packed, lse_address, options)
            self.submitted(device, stream)
        return out if lse is None else (out, lse)

    def attention_fp8(
        self,
        q: Any,
        k: Any,
        v: Any,
        causal: bool,
        scale: float | None,
        features: Features | None,
        return_lse: bool,
        out: Any,
        narrow: Narrow,
        room: Fp8Room | None,
    ) -> Any:
        """What :func:`flashcore.attention_fp8` does for tensors of this framework."""
        forward = self.narrowing(q, narrow, room)
        return self.attention(q, k, v, causal, scale, features, return_lse, out, forward)

    def narrowing(self, q: Any, narrow: Narrow, room: Fp8Room | None) -> Forward:
        """What submits attention over 8 bits."""
        if room is not None:
            return partial(room.forward, stochastic=narrow.stochastic())
        if self.capturing(q):
            raise ArgumentError(
                "a call that a CUDA graph records needs a room that stays: room=flashcore.fp8_room(q, k, v)"
            )
        return narrow.forward

    def fp8_room(self, q: Any, k: Any, v: Any, narrow: Narrow, sequences: tuple[int, int]) -> Fp8Room:
        """What :func:`flashcore.fp8_room` does for tensors of this framework."""
        stream = self.stream(q)
        operands = [
            self.operand(name, tensor, q, stream, packed=len(getattr(tensor, "shape", ())) == 3)
            for name, tensor in (("q", q), ("k", k), ("v", v))
        ]
        device = _library.emulated() if stream is None else _library.cuda(operands[0].ordinal or 0)
        return Fp8Room(device.handle, [operand.packed() for operand in operands], narrow, sequences)

    def merge(self, o1: Any, lse1: Any, o2: Any, lse2: Any, out: Any, lse: Any) -> Any:
        """What :func:`flashcore.merge_attention_states` does for tensors of this framework."""
        stream = self.stream(o1)
        operands = {"o1": self.operand("o1", o1, o1, stream, "o1"), "o2": self.operand("o2", o2, o1, stream, "o1")}
        for name, given in (("out", out), ("lse", lse)):
            if given is not None:
                self.check_writable(name, given)
        out = self.empty_like(o1) if out is None else out
        lse = self.empty_lse(o1) if lse is None else lse
        operands["out"] = self.operand("out", out, o1, stream, "o1")
        lses = {}
        for name, tensor in (("lse1", lse1), ("lse2", lse2), ("lse", lse)):
            lses[name] = self.numbers(name, tensor, "float32", o1, stream, "o1")
            check_lse(name, lses[name], operands["o1"])
        for name, operand in (operands | lses).items():
            check_place(name, operand, operands["o1"], "o1")
        if stream is None:
            _warn_emulated()
            _emulated.merge(operands, lses)
        else:
            device = _library.cuda(operands["o1"].ordinal or 0)
            packed = [operand.packed() for operand in operands.values()]
            addresses = [operand.address for operand in lses.values()]
            _library.merge(device.handle, stream, packed, addresses)
            self.submitted(device, stream)
        return out, lse

    def dropout_mask(self, mask: Any, dropout: tuple[float, int, int]) -> Any:
        """What :func:`flashcore.dropout_mask` does for tensors of this framework."""
        stream = self.stream(mask)
        self.check_owned("mask", mask, mask, "mask")
        self.check_writable("mask", mask)
        operand = self.locate("mask", mask, stream)
        check_mask(operand, mask.dtype)
        if stream is None:
            _warn_emulated()
            _emulated.dropout_mask(operand, dropout)
        else:
            device = _library.cuda(operand.ordinal or 0)
            _library.dropout_mask(device.handle, stream, dropout, operand.shape, operand.address)
            self.submitted(device, stream)
        return mask

    def plan(
        self, q: Any, k: Any, v: Any, causal: bool, scale: float | None, features: Features | None, out: Any
    ) -> str:
        """What :func:`flashcore.plan` does for tensors of this framework."""
        stream = self.stream(q)
        operands, side = self.inputs(q, k, v, features, stream)
        if out is None:
            batch, seqlen, heads, _ = operands["q"].shape
            head_dim = operands["v"].shape[-1]
            strides = (seqlen * heads * head_dim, heads * head_dim, head_dim, 1)
            shape = (batch, seqlen, heads, head_dim)
            operands["out"] = Operand(0, shape, strides, operands["q"].dtype, None)
        else:
            operands["out"] = self.operand("out", out, q, stream, packed=packing(features)[0])
        device = _library.emulated() if stream is None else _library.cuda(operands["q"].ordinal or 0)
        packed = [operand.packed() for operand in operands.values()]
        return device.plan(packed, pack_options(causal, scale, features, side))


def packing(features: Features | None) -> tuple[bool, bool]:
    """Whether the sequences of q are packed, and those of k and v."""
    if features is None:
        return False, False
    return features.cu_seqlens_q is not None, features.cu_seqlens_kv is not None


#: The framework of each type of tensor that was seen so far.
FRAMEWORKS: dict[type, Framework] = {}


def check_place(name: str, operand: Operand, first: Operand, first_name: str = "q") -> None:
    """Refuses CPU memory beside device memory. Of two CUDA devices the library tells more."""
    if (operand.ordinal is None) != (first.ordinal is None):
        raise ArgumentError(
            f"{name} is {place(operand.ordinal)}, but {first_name} is {place(first.ordinal)}",
            Status.NOT_DEVICE_POINTER,
        )
