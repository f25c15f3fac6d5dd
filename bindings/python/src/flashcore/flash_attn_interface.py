"""A drop-in for FlashAttention-3's module of this name: the same functions with the same arguments.

    >>> from flashcore.flash_attn_interface import flash_attn_func

What exists: f16 and bf16, MHA, GQA and MQA, head_dim up to 512 (256 with a softcap), causal masks, windows, chunks,
softcap, variable lengths, caches without pages, the log-sum-exp. Everything else raises
:class:`flashcore.UnsupportedError`, a NotImplementedError, and says what is missing; so does the backward pass.
``num_splits``, ``pack_gqa``, ``sm_margin``, ``deterministic``, ``scheduler_metadata`` and the longest lengths are about
how FlashAttention-3 computes, and are ignored: flashcore chooses by itself, and always computes the same bits.

In all functions, negative sizes of a window and a chunk or softcap of 0 ask for none, and queries stand at keys aligned
bottom-right: ``causal``, ``window_size``, ``attention_chunk`` and ``softcap`` are those of :func:`flashcore.attention`,
the last with ``approximate_softcap``, as in FlashAttention-3.
"""

from typing import Any, NoReturn

import torch

from ._attention import attention
from ._errors import UnsupportedError

__all__ = [
    "flash_attn_combine",
    "flash_attn_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "get_scheduler_metadata",
]


def _missing(what: str) -> UnsupportedError:
    return UnsupportedError(f"flashcore has no {what} yet")


def _refuse(arguments: dict[str, Any]) -> None:
    """Raises if one of these, which the keys tell, is given."""
    for what, value in arguments.items():
        if value is not None:
            raise _missing(what)


def _with_neighbours(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of a head side by side: FlashAttention-3 copies tensors that lie otherwise, so this does."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _window(
    causal: bool, window_size: Any, seqlen_q: int | None, seqlen_k: int | None
) -> tuple[bool, tuple[int | None, int | None]]:
    """Whether a mask is causal, and the window beside it. One that hides nothing from so many queries and keys, if
    that is known, is none: kernels without windows are quicker."""
    left, right = (int(size) for size in window_size)
    causal = causal or right == 0
    seen_left = left < 0 or (seqlen_k is not None and left >= seqlen_k - 1)
    seen_right = causal or right < 0 or (seqlen_q is not None and right >= seqlen_q - 1)
    return causal, (None if seen_left else left, None if seen_right else right)


def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax_scale: float | None,
    causal: bool,
    window_size: Any,
    attention_chunk: int,
    softcap: float,
    return_lse: bool,
    **lengths: Any,
) -> Any:
    """Attention; ``lengths`` are arguments of :func:`flashcore.attention` by which sequences begin and end."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise _missing(f"attention in {q.dtype}")
    limit, case = (256, " with a softcap") if softcap else (512, "")
    for columns in (q.shape[-1], v.shape[-1]):
        if columns % 8 or columns > limit:
            raise _missing(f"head_dim {columns}{case}: it must be a multiple of 8 up to {limit}")
    dense = all(length is None for length in lengths.values())
    causal, window = _window(causal, window_size, *((q.shape[1], k.shape[1]) if dense else (None, None)))
    q, k, v = _with_neighbours(q), _with_neighbours(k), _with_neighbours(v)
    return attention(
        q,
        k,
        v,
        causal=causal,
        scale=softmax_scale,
        return_lse=return_lse,
        window=window,
        chunk=int(attention_chunk) or None,
        softcap=float(softcap) or None,
        approximate_softcap=True,
        **lengths,
    )


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    qv: torch.Tensor | None = None,
    q_descale: torch.Tensor | None = None,
    k_descale: torch.Tensor | None = None,
    v_descale: torch.Tensor | None = None,
    window_size: Any = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    num_splits: int = 1,
    pack_gqa: bool | None = None,
    deterministic: bool = False,
    sm_margin: int = 0,
    return_attn_probs: bool = False,
) -> Any:
    """Attention over q, (batch, seqlen_q, heads_q, head_dim), and k and v, (batch, seqlen_k, heads_k, head_dim).

    Returns the output, of the shape of q; with ``return_attn_probs``, as FlashAttention-3 does, a pair of it and the
    log-sum-exp, f32 (batch, heads_q, seqlen_q).
    """
    _refuse({"qv": qv, "q_descale": q_descale, "k_descale": k_descale, "v_descale": v_descale})
    return _forward(q, k, v, softmax_scale, causal, window_size, attention_chunk, softcap, return_attn_probs)


def flash_attn_qkvpacked_func(
    qkv: torch.Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    q_descale: torch.Tensor | None = None,
    k_descale: torch.Tensor | None = None,
    v_descale: torch.Tensor | None = None,
    window_size: Any = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    deterministic: bool = False,
    num_heads_q: int | None = None,
    sm_margin: int = 0,
    return_attn_probs: bool = False,
) -> Any:
    """Attention over views of one tensor: (batch, seqlen, 3, heads, head_dim), or (batch, seqlen, heads_q + 2 *
    heads_k, head_dim) with ``num_heads_q``. Returns what :func:`flash_attn_func` does; nothing is copied."""
    _refuse({"q_descale": q_descale, "k_descale": k_descale, "v_descale": v_descale})
    if qkv.dim() == 5:
        q, k, v = qkv.unbind(dim=2)
    elif num_heads_q is None:
        raise ValueError("qkv has 4 dimensions, so num_heads_q must say which heads are those of q")
    else:
        num_heads_k = (qkv.shape[2] - num_heads_q) // 2
        q, k, v = qkv.split([num_heads_q, num_heads_k, num_heads_k], dim=2)
    return _forward(q, k, v, softmax_scale, causal, window_size, attention_chunk, softcap, return_attn_probs)


def flash_attn_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor | None = None,
    v: torch.Tensor | None = None,
    qv: torch.Tensor | None = None,
    rotary_cos: torch.Tensor | None = None,
    rotary_sin: torch.Tensor | None = None,
    cache_seqlens: int | torch.Tensor | None = None,
    cache_batch_idx: torch.Tensor | None = None,
    cache_leftpad: torch.Tensor | None = None,
    page_table: torch.Tensor | None = None,
    cu_seqlens_q: torch.Tensor | None = None,
    cu_seqlens_k_new: torch.Tensor | None = None,
    max_seqlen_q: int | None = None,
    rotary_seqlens: torch.Tensor | None = None,
    q_descale: torch.Tensor | None = None,
    k_descale: torch.Tensor | None = None,
    v_descale: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Any = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    scheduler_metadata: torch.Tensor | None = None,
    num_splits: int = 0,
    pack_gqa: bool | None = None,
    sm_margin: int = 0,
    return_softmax_lse: bool = False,
) -> Any:
    """Attention over a cache, (batch, seqlen_cache, heads_k, head_dim): all of it, or its first ``cache_seqlens``
    positions, which is a number for all sequences or an int32 tensor, (batch,). q is (batch, seqlen_q, heads_q,
    head_dim), or, with ``cu_seqlens_q``, (total_q, heads_q, head_dim).

    Returns the output; with ``return_softmax_lse``, as FlashAttention-3 does, also the log-sum-exp and two empty
    tensors in place of what it has split.
    """
    _refuse(
        {
            "appending to a cache (k)": k,
            "appending to a cache (v)": v,
            "rotary embedding (rotary_cos)": rotary_cos,
            "rotary embedding (rotary_sin)": rotary_sin,
            "cache_batch_idx": cache_batch_idx,
            "cache_leftpad": cache_leftpad,
            "paged KV (page_table)": page_table,
            "appending to a cache (cu_seqlens_k_new)": cu_seqlens_k_new,
            "qv": qv,
            "q_descale": q_descale,
            "k_descale": k_descale,
            "v_descale": v_descale,
        }
    )
    seqused_k = None
    if isinstance(cache_seqlens, int):
        k_cache, v_cache = k_cache[:, :cache_seqlens], v_cache[:, :cache_seqlens]
    else:
        seqused_k = cache_seqlens
    result = _forward(
        q,
        k_cache,
        v_cache,
        softmax_scale,
        causal,
        window_size,
        attention_chunk,
        softcap,
        return_softmax_lse,
        cu_seqlens_q=cu_seqlens_q,
        seqused_kv=seqused_k,
    )
    if not return_softmax_lse:
        return result
    return (*result, q.new_empty(0, dtype=torch.float32), q.new_empty(0, dtype=torch.float32))


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor | None,
    cu_seqlens_k: torch.Tensor | None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    seqused_q: torch.Tensor | None = None,
    seqused_k: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    qv: torch.Tensor | None = None,
    q_descale: torch.Tensor | None = None,
    k_descale: torch.Tensor | None = None,
    v_descale: torch.Tensor | None = None,
    window_size: Any = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    num_splits: int = 1,
    pack_gqa: bool | None = None,
    deterministic: bool = False,
    sm_margin: int = 0,
    return_attn_probs: bool = False,
) -> Any:
    """Attention over sequences that lie one behind the other: q is (total_q, heads_q, head_dim), k and v are (total_k,
    heads_k, head_dim). Sequence b has the rows from ``cu_seqlens_q[b]`` to ``cu_seqlens_q[b + 1]`` of q, and likewise
    of k and v; of these, if given, only the first ``seqused_q[b]`` and ``seqused_k[b]`` count. All are int32 tensors.
    Rows of the output that do not count are not written.

    Returns the output, of the shape of q; with ``return_attn_probs``, as FlashAttention-3 does, a pair of it and the
    log-sum-exp, f32 (heads_q, total_q).
    """
    _refuse({"qv": qv, "q_descale": q_descale, "k_descale": k_descale, "v_descale": v_descale})
    return _forward(
        q,
        k,
        v,
        softmax_scale,
        causal,
        window_size,
        attention_chunk,
        softcap,
        return_attn_probs,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_kv=cu_seqlens_k,
        seqused_q=seqused_q,
        seqused_kv=seqused_k,
    )


def flash_attn_combine(*args: Any, **kwargs: Any) -> NoReturn:
    """Does not exist yet."""
    raise _missing("split keys to combine (flash_attn_combine)")


def get_scheduler_metadata(*args: Any, **kwargs: Any) -> None:
    """None, which :func:`flash_attn_with_kvcache` takes: flashcore has nothing to prepare."""
