"""Shapes and memory layouts, for all frameworks."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st


@dataclass(frozen=True)
class Case:
    """A problem, and how q, k, v and out lie in memory."""

    batch: int
    seqlen_q: int
    seqlen_kv: int
    heads_kv: int
    gqa_ratio: int
    head_dim: int
    causal: bool
    scale: float | None
    layouts: tuple[str, str, str, str]
    seed: int

    @property
    def shapes(self):
        """Of q, k, v and out."""
        q = (self.batch, self.seqlen_q, self.heads_kv * self.gqa_ratio, self.head_dim)
        kv = (self.batch, self.seqlen_kv, self.heads_kv, self.head_dim)
        return q, kv, kv, q

    def arrays(self, dtype):
        """q, k and v with random numbers, out with NaN, as views of NumPy's memory."""
        generator = np.random.default_rng(self.seed)
        arrays = []
        for shape, layout in zip(self.shapes, self.layouts):
            array = LAYOUTS[layout](shape, dtype)
            array[...] = generator.standard_normal(shape).astype(dtype) if len(arrays) < 3 else np.nan
            arrays.append(array)
        return arrays


def _padded(shape, dtype):
    batch, seqlen, heads, head_dim = shape
    return np.empty((batch, seqlen + 1, heads + 1, head_dim + 8), dtype)[:, :seqlen, 1:, :head_dim]


def _bhsd(shape, dtype):
    batch, seqlen, heads, head_dim = shape
    return np.empty((batch, heads, seqlen, head_dim), dtype).transpose(0, 2, 1, 3)


def _sbhd(shape, dtype):
    batch, seqlen, heads, head_dim = shape
    return np.empty((seqlen, batch, heads, head_dim), dtype).transpose(1, 0, 2, 3)


#: How a (batch, seqlen, heads, head_dim) view may lie in memory.
LAYOUTS = {"bshd": np.empty, "bhsd": _bhsd, "sbhd": _sbhd, "padded": _padded}

#: Small enough for the emulator; rows without keys and empty tensors are among them.
CASES = st.builds(
    Case,
    batch=st.integers(1, 2),
    seqlen_q=st.one_of(st.integers(0, 3), st.integers(4, 140)),
    seqlen_kv=st.one_of(st.integers(0, 3), st.integers(4, 200)),
    heads_kv=st.integers(1, 2),
    gqa_ratio=st.integers(1, 3),
    head_dim=st.sampled_from([8, 40, 64, 96, 128, 192, 256, 512]),
    causal=st.booleans(),
    scale=st.sampled_from([None, 0.01, 0.5]),
    layouts=st.tuples(*[st.sampled_from(sorted(LAYOUTS))] * 4),
    seed=st.integers(0, 2**32 - 1),
)
