"""flashcore as operators of PyTorch, which ``torch.compile``, ``torch.export``, CUDA graphs and autograd know, and as
an implementation of ``torch.nn.functional.scaled_dot_product_attention``.

:func:`flashcore.attention` calls these operators where they are needed, as under ``torch.compile``. There is no
backward pass yet: asking for gradients raises :class:`flashcore.UnsupportedError`.

    >>> import torch, flashcore.torch
    >>> compiled = torch.compile(flashcore.torch.attention, fullgraph=True)

    >>> from torch.nn.attention import SDPBackend, activate_flash_attention_impl, sdpa_kernel
    >>> flashcore.torch.register()
    >>> activate_flash_attention_impl("flashcore")
    >>> with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
    ...     torch.nn.functional.scaled_dot_product_attention(q, k, v)  # (batch, heads, seqlen, head_dim)
"""

from typing import Any, Optional

import torch

from ._errors import UnsupportedError
from ._features import Features
from ._fp8 import Narrow
from ._framework import check_rank, packing
from ._torch import TORCH

__all__ = [
    "attention",
    "attention_fp8",
    "attention_out",
    "attention_with_lse",
    "merge_attention_states",
    "merge_attention_states_out",
    "register",
]

#: The name by which ``activate_flash_attention_impl`` knows this library.
NAME = "flashcore"


#: Arguments that the operators of attention share: :func:`flashcore.attention`'s, with the window as two numbers.
_OPTIONS = (
    "bool causal=False, float? scale=None, SymInt? window_left=None, SymInt? window_right=None, "
    'str align="bottom-right", SymInt? chunk=None, float? softcap=None, Tensor? sinks=None, Tensor? prefix=None, '
    "Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_kv=None, Tensor? seqused_q=None, Tensor? seqused_kv=None, "
    "Tensor? alibi_slopes=None, Tensor? bias=None, float dropout_p=0.0, SymInt dropout_seed=0, "
    "SymInt dropout_offset=0, Tensor? key_ranges=None, Tensor? kv_num_blocks=None, Tensor? kv_indices=None, "
    "bool approximate_softcap=False"
)


@torch.library.custom_op(
    "flashcore::attention", mutates_args=(), schema=f"(Tensor q, Tensor k, Tensor v, {_OPTIONS}) -> Tensor"
)
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: Optional[float] = None,
    *features: Any,
) -> torch.Tensor:
    """The operator ``flashcore::attention``: :func:`flashcore.attention` without ``out`` and log-sum-exp.

    q and the result are (batch, seqlen_q, heads_q, head_dim), k and v (batch, seqlen_kv, heads_kv, head_dim), in f16 or
    bf16. What follows the scale are, by these names: window_left, window_right, align, chunk, softcap, sinks, prefix,
    cu_seqlens_q, cu_seqlens_kv, seqused_q, seqused_kv, alibi_slopes, bias, dropout_p, dropout_seed, dropout_offset,
    key_ranges, as one tensor, kv_num_blocks and kv_indices, the two lists of a block mask, and approximate_softcap.
    """
    result: torch.Tensor = TORCH.compute(q, k, v, causal, scale, _features(features), False, None)
    return result


@torch.library.custom_op(
    "flashcore::attention_with_lse",
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, {_OPTIONS}) -> (Tensor, Tensor)",
)
def attention_with_lse(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    scale: Optional[float] = None,
    *features: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The operator ``flashcore::attention_with_lse``: the output, and the log-sum-exp, f32 (batch, heads_q,
    seqlen_q), or (heads_q, total_q) of packed sequences."""
    out, lse = TORCH.compute(q, k, v, causal, scale, _features(features), True, None)
    return out, lse


@torch.library.custom_op(
    "flashcore::attention_out",
    mutates_args=("out",),
    schema=f"(Tensor q, Tensor k, Tensor v, Tensor(a!) out, {_OPTIONS}) -> Tensor",
)
def attention_out(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    causal: bool = False,
    scale: Optional[float] = None,
    *features: Any,
) -> torch.Tensor:
    """The operator ``flashcore::attention_out``: writes to ``out``, and returns the log-sum-exp."""
    lse: torch.Tensor = TORCH.compute(q, k, v, causal, scale, _features(features), True, out)[1]
    return lse


@torch.library.custom_op(
    "flashcore::attention_fp8",
    mutates_args=(),
    schema=(
        "(Tensor q, Tensor k, Tensor v, str format, bool rotated, bool per_tensor, int? rounding_seed, "
        f"int rounding_offset, {_OPTIONS}) -> (Tensor, Tensor)"
    ),
)
def attention_fp8(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    format: str,
    rotated: bool,
    per_tensor: bool,
    rounding_seed: Optional[int],
    rounding_offset: int,
    causal: bool = False,
    scale: Optional[float] = None,
    *features: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The operator ``flashcore::attention_fp8``: :func:`flashcore.attention_fp8`, output and log-sum-exp, in a room
    that is kept: CUDA graphs cannot record it, nor can ``mode="reduce-overhead"`` of ``torch.compile``."""
    if rounding_seed is not None:
        rounding_seed %= 2**64  # integers of operators are signed
    narrow = Narrow(format, rotated, per_tensor, rounding_seed, rounding_offset)
    forward = TORCH.narrowing(q, narrow, None)
    out, lse = TORCH.compute(q, k, v, causal, scale, _features(features), True, None, forward)
    return out, lse


def _features(features: tuple[Any, ...]) -> Optional[Features]:
    """Those of an operator's arguments; PyTorch leaves out the last ones if they have their defaults."""
    return Features(*features) if features else None


@torch.library.custom_op("flashcore::merge_attention_states", mutates_args=())
def merge_attention_states(
    o1: torch.Tensor, lse1: torch.Tensor, o2: torch.Tensor, lse2: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The operator ``flashcore::merge_attention_states``: :func:`flashcore.merge_attention_states` into new tensors."""
    out, lse = TORCH.compute_merge(o1, lse1, o2, lse2, None, None)
    return out, lse


@torch.library.custom_op("flashcore::merge_attention_states_out", mutates_args=("out", "lse"))
def merge_attention_states_out(
    o1: torch.Tensor,
    lse1: torch.Tensor,
    o2: torch.Tensor,
    lse2: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
) -> None:
    """The operator ``flashcore::merge_attention_states_out``: writes to ``out`` and ``lse``, which may be o1 or o2 and
    lse1 or lse2."""
    TORCH.compute_merge(o1, lse1, o2, lse2, out, lse)


def _check_rank(q: torch.Tensor, features: tuple[Any, ...]) -> None:
    check_rank("q", q.shape, packing(_features(features))[0])


@attention.register_fake
def _(q: Any, k: Any, v: Any, causal: bool = False, scale: Any = None, *features: Any) -> Any:
    _check_rank(q, features)
    return TORCH.empty_output(q, v)


@attention_with_lse.register_fake
def _(q: Any, k: Any, v: Any, causal: bool = False, scale: Any = None, *features: Any) -> Any:
    _check_rank(q, features)
    return TORCH.empty_output(q, v), TORCH.empty_lse(q)


@attention_fp8.register_fake
def _(
    q: Any,
    k: Any,
    v: Any,
    format: str,
    rotated: bool,
    per_tensor: bool,
    rounding_seed: Optional[int],
    rounding_offset: int,
    causal: bool = False,
    scale: Any = None,
    *features: Any,
) -> Any:
    _check_rank(q, features)
    return TORCH.empty_output(q, v), TORCH.empty_lse(q)


@attention_out.register_fake
def _(q: Any, k: Any, v: Any, out: Any, causal: bool = False, scale: Any = None, *features: Any) -> Any:
    _check_rank(q, features)
    return TORCH.empty_lse(q)


@merge_attention_states.register_fake
def _(o1: Any, lse1: Any, o2: Any, lse2: Any) -> Any:
    check_rank("o1", o1.shape)
    return TORCH.empty_like(o1), TORCH.empty_lse(o1)


@merge_attention_states_out.register_fake
def _(o1: Any, lse1: Any, o2: Any, lse2: Any, out: Any, lse: Any) -> None:
    check_rank("o1", o1.shape)


def _backward(context: Any, *gradients: torch.Tensor) -> None:
    raise UnsupportedError("flashcore has no backward pass yet: call it under torch.no_grad()")


attention.register_autograd(_backward)
attention_with_lse.register_autograd(_backward)
attention_fp8.register_autograd(_backward)
merge_attention_states.register_autograd(_backward)


class _Registration:
    """Keeps the operators of PyTorch replaced until it is removed."""

    def __init__(self) -> None:
        self.library: Optional[torch.library.Library] = torch.library.Library("aten", "IMPL", "CUDA")
        name = "_scaled_dot_product_flash_attention"
        self.original = torch.library.get_kernel(f"aten::{name}", "CUDA")
        self.library.impl(name, self.forward, "CUDA", with_keyset=True, allow_override=True)

    def remove(self) -> None:
        """Gives PyTorch its own implementation back."""
        if self.library is not None:
            self.library._destroy()
            self.library = None

    def forward(
        self,
        keys: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        return_debug_mask: bool = False,
        *,
        scale: Optional[float] = None,
    ) -> Any:
        """What ``scaled_dot_product_attention`` calls: tensors are (batch, heads, seqlen, head_dim)."""
        if dropout_p != 0.0 or return_debug_mask or query.dtype not in (torch.float16, torch.bfloat16):
            return self.original.call_boxed(
                keys, query, key, value, dropout_p, is_causal, return_debug_mask, scale=scale
            )
        out = torch.empty_like(query)
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
        _, lse = TORCH.compute(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal, scale, None, True, out.transpose(1, 2)
        )
        # Without dropout nobody reads the state of the random numbers.
        seed = torch.empty(2, dtype=torch.uint64, device=query.device)
        offset = torch.empty((), dtype=torch.uint64, device=query.device)
        return out, lse, None, None, query.size(2), key.size(2), seed, offset, query.new_empty(0)


def register() -> None:
    """Makes ``torch.nn.attention.activate_flash_attention_impl("flashcore")`` known to PyTorch (2.11 or later).

    Once activated, ``scaled_dot_product_attention`` computes with flashcore wherever PyTorch chooses its flash back end
    on CUDA tensors. PyTorch's own kernels still compute what flashcore has not, the backward pass and nested tensors,
    dropout, which is of their random numbers, and what PyTorch never gives to its flash back end: ``attn_mask``.

    Raises:
        UnsupportedError: This PyTorch has no such registry.
    """
    try:
        from torch.nn.attention import register_flash_attention_impl
    except ImportError:
        raise UnsupportedError(
            f"PyTorch {torch.__version__} cannot exchange its flash attention; version 2.11 can"
        ) from None
    register_flash_attention_impl(NAME, register_fn=_Registration)
