"""Fused attention for NVIDIA Hopper GPUs (H100, H200, GH200), with kernels written in Rust.

    >>> import flashcore
    >>> out = flashcore.attention(q, k, v, causal=True)  # (batch, seqlen, heads, head_dim), f16 or bf16

Tensors are PyTorch's, JAX's, CuPy's or NumPy's, and nothing is copied. ``flashcore.torch`` has operators for
``torch.compile``, ``flashcore.flash_attn_interface`` is a drop-in for FlashAttention-3, and ``python -m flashcore``
tells what runs here.
"""

import sys

from ._attention import (
    attention,
    attention_fp8,
    block_lists,
    dropout_mask,
    fp8_room,
    merge_attention_states,
    plan,
    preload,
)
from ._errors import (
    ArgumentError,
    ArgumentTypeError,
    DeviceError,
    EmulatedWarning,
    Error,
    InternalError,
    OutOfMemoryError,
    Status,
    UnsupportedError,
)
from ._fp8 import Fp8Room
from ._library import VERSION as __version__

if hasattr(getattr(sys.modules.get("torch"), "library", None), "custom_op"):
    # The first call may be one that torch.compile traces, which could not trace this import.
    from . import torch as torch

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "DeviceError",
    "EmulatedWarning",
    "Error",
    "Fp8Room",
    "InternalError",
    "OutOfMemoryError",
    "Status",
    "UnsupportedError",
    "__version__",
    "attention",
    "attention_fp8",
    "block_lists",
    "dropout_mask",
    "fp8_room",
    "merge_attention_states",
    "plan",
    "preload",
]
