"""PyTorch's tensors, on PyTorch's current stream. Ordinary CUDA tensors take a short way, because microseconds
count."""

from typing import Any

import torch

from . import _library
from ._errors import ArgumentError
from ._features import Features, pack_options
from ._fp8 import Fp8Room, Narrow
from ._framework import (
    FRAMEWORKS,
    Forward,
    Framework,
    Operand,
    check_rank,
    check_strides,
    lse_shape,
    packing,
    unknown_dtype,
)

_DTYPES = {torch.float16: _library.F16, torch.bfloat16: _library.BF16}
_NAMES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.int32: "int32",
    torch.uint8: "uint8",
    torch.bool: "bool",
}
#: Types whose memory may be read as it is. Others, such as those of tracers, go through the dispatcher.
_PLAIN = frozenset([torch.Tensor, torch.nn.Parameter])

# Looking these up costs time, too.
_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled
_pack_tensor = _library.pack_tensor
_pack_options = _library.pack_options
_forward = _library.forward
_cuda = _library.cuda


def _stream_of_device(ordinal: int) -> int:
    return int(torch.cuda.current_stream(ordinal).cuda_stream)


#: The current stream of a device. PyTorch's own compiled code gets it by the same function, which is much quicker.
_current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", _stream_of_device)


class Torch(Framework):
    """PyTorch."""

    bias_cures = (
        "take bias.contiguous()",
        "take torch.nn.functional.pad(bias, (0, 1))[..., :-1]",
    )

    def owns(self, tensor: Any) -> bool:
        return isinstance(tensor, torch.Tensor)

    def locate(self, name: str, tensor: Any, stream: int | None) -> Operand:
        if not (tensor.is_cpu or tensor.is_cuda):
            raise ArgumentError(f"{name} is on device {tensor.device}; cuda and cpu are supported")
        ordinal = tensor.get_device() if tensor.is_cuda else None
        return Operand(tensor.data_ptr(), tensor.shape, tensor.stride(), _NAMES.get(tensor.dtype, ""), ordinal)

    def end(self, tensor: Any, operand: Operand) -> int:
        storage = tensor.untyped_storage()
        return int(storage.data_ptr() + storage.nbytes())

    def check_writable(self, name: str, out: Any) -> None:
        pass

    def empty_like(self, q: Any) -> Any:
        return torch.empty_like(q)

    def empty(self, shape: tuple[int, ...], q: Any) -> Any:
        return q.new_empty(shape)

    def empty_lse(self, q: Any) -> Any:
        return q.new_empty(lse_shape(q.shape), dtype=torch.float32)

    def stack(self, one: Any, other: Any) -> Any:
        return torch.stack((one, other), -1)

    def listed(self, visible: Any) -> tuple[Any, Any]:
        place = torch.arange(visible.shape[-1], device=visible.device)
        order = torch.where(visible, place, place + len(place)).argsort(-1)
        return visible.sum(-1, dtype=torch.int32).contiguous(), order.to(torch.int32).contiguous()

    def joined(self, one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
        ends = [numbers.shape[-1] for _, numbers in (one, other)]
        counts = [count.unsqueeze(-1) for count, _ in (one, other)]
        within = [torch.arange(end, device=count.device) < count for end, count in zip(ends, counts)]
        count, order = self.listed(torch.cat(within, -1))
        return count, torch.cat((one[1], other[1]), -1).take_along_dim(order.long(), -1).contiguous()

    def stream(self, q: Any) -> int | None:
        return _current_stream(q.get_device()) if self.owns(q) and q.is_cuda else None

    def capturing(self, q: Any) -> bool:
        return self.owns(q) and q.is_cuda and torch.cuda.is_current_stream_capturing()

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
        if _is_traced(q, k, v, features):
            return self._dispatch(q, k, v, causal, scale, features, return_lse, out)
        return self.compute(q, k, v, causal, scale, features, return_lse, out, forward)

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
        if not _is_traced(q, k, v, features):
            forward = self.narrowing(q, narrow, room)
            return self.compute(q, k, v, causal, scale, features, return_lse, out, forward)
        if room is not None or out is not None:
            raise ArgumentError("out and room cannot be given where calls are traced, or a backward pass is recorded")
        from . import torch as operators

        self._check_all_owned(q, k, v, features)
        others = () if features is None else features.signed()
        result, lse = operators.attention_fp8(q, k, v, *narrow.signed(), causal, scale, *others)
        return (result, lse) if return_lse else result

    def compute(
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
        """Attention over tensors that have memory. Records nothing for a backward pass."""
        ordinal = q.get_device()
        if ordinal < 0:
            return super().attention(q, k, v, causal, scale, features, return_lse, out, forward)
        if out is None:
            out = self.empty_output(q, v)
        else:
            self.check_owned("out", out, q)
        if features is None:
            tensors = _pack("q", q), _pack("k", k), _pack("v", v), _pack("out", out)
            options = _pack_options(causal, scale)
        else:
            packed_q, packed_kv = packing(features)
            tensors = (
                _pack("q", q, packed_q),
                _pack("k", k, packed_kv),
                _pack("v", v, packed_kv),
                _pack("out", out, packed_q),
            )
            options = pack_options(causal, scale, features, self.side(features, q, stream=None))
        lse = self.empty_lse(q) if return_lse else None
        lse_address = 0 if lse is None else lse.data_ptr()
        stream = _current_stream(ordinal)
        (forward or _forward)(_cuda(ordinal).handle, stream, tensors, lse_address, options)
        return out if lse is None else (out, lse)

    def _dispatch(
        self,
        q: Any,
        k: Any,
        v: Any,
        causal: bool,
        scale: float | None,
        features: Features | None,
        return_lse: bool,
        out: Any,
    ) -> Any:
        """By the operators, which tracers and autograd know."""
        from . import torch as operators

        self._check_all_owned(q, k, v, features)
        others = () if features is None else features.signed()
        if out is None:
            operator = operators.attention_with_lse if return_lse else operators.attention
            return operator(q, k, v, causal, scale, *others)
        if _is_grad_enabled() and _needs_gradients(q, k, v, features):
            raise ArgumentError("out cannot be given where a backward pass is recorded")
        lse = operators.attention_out(q, k, v, out, causal, scale, *others)
        return (out, lse) if return_lse else out

    def _check_all_owned(self, q: Any, k: Any, v: Any, features: Features | None) -> None:
        tensors = {"q": q, "k": k, "v": v} | ({} if features is None else features.tensors())
        for name, tensor in tensors.items():
            self.check_owned(name, tensor, q)

    def merge(self, o1: Any, lse1: Any, o2: Any, lse2: Any, out: Any, lse: Any) -> Any:
        inputs = (o1, lse1, o2, lse2)
        recorded = _is_grad_enabled() and any(self.owns(tensor) and tensor.requires_grad for tensor in inputs)
        plain = all(type(tensor) in _PLAIN for tensor in inputs) and not o1.is_meta
        if plain and not recorded and not _is_compiling():
            return self.compute_merge(o1, lse1, o2, lse2, out, lse)
        return self._dispatch_merge(o1, lse1, o2, lse2, out, lse, recorded)

    def compute_merge(self, o1: Any, lse1: Any, o2: Any, lse2: Any, out: Any, lse: Any) -> Any:
        """A merge of tensors that have memory. Records nothing for a backward pass."""
        return super().merge(o1, lse1, o2, lse2, out, lse)

    def _dispatch_merge(self, o1: Any, lse1: Any, o2: Any, lse2: Any, out: Any, lse: Any, recorded: bool) -> Any:
        """By the operators, which tracers and autograd know."""
        from . import torch as operators

        for name, tensor in (("o1", o1), ("lse1", lse1), ("o2", o2), ("lse2", lse2)):
            self.check_owned(name, tensor, o1, "o1")
        if out is None and lse is None:
            return operators.merge_attention_states(o1, lse1, o2, lse2)
        if recorded:
            raise ArgumentError("out and lse cannot be given where a backward pass is recorded")
        out = torch.empty_like(o1) if out is None else out
        lse = self.empty_lse(o1) if lse is None else lse
        operators.merge_attention_states_out(o1, lse1, o2, lse2, out, lse)
        return out, lse


def _is_traced(q: Any, k: Any, v: Any, features: Features | None) -> bool:
    """Whether somebody wants to know of the call: a compiler, a tracer, autograd."""
    return (
        _is_compiling()
        or not (type(k) in _PLAIN and type(v) in _PLAIN and type(q) in _PLAIN)
        or (_is_grad_enabled() and _needs_gradients(q, k, v, features))
        or q.is_meta
    )


def _needs_gradients(q: Any, k: Any, v: Any, features: Features | None) -> bool:
    if q.requires_grad or k.requires_grad or v.requires_grad:
        return True
    others = () if features is None else (features.sinks, features.alibi_slopes, features.bias)
    return any(getattr(tensor, "requires_grad", False) for tensor in others)


def _pack(name: str, tensor: torch.Tensor, packed: bool = False) -> bytes:
    """``fc_tensor``, also of packed sequences."""
    shape: tuple[int, ...] = tensor.shape
    strides = tensor.stride()
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise unknown_dtype(name, tensor.dtype)
    if packed:
        check_rank(name, shape, packed)
        shape, strides = (1, *shape), (0, *strides)
    if len(shape) != 4 or strides[3] != 1:
        check_rank(name, shape)
        check_strides(name, shape, strides)
    return _pack_tensor(tensor.data_ptr(), *shape, *strides[:3], dtype)


TORCH = Torch()
FRAMEWORKS.update(dict.fromkeys(_PLAIN, TORCH))
