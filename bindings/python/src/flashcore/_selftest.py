"""Attention compared with a reference in float64. Needs nothing but Python, so that it runs wherever the package
does."""

import math
import random
import struct
from array import array
from dataclasses import dataclass

from . import _library


@dataclass(frozen=True)
class Case:
    """What is computed. One sequence; two query heads share each K/V head."""

    name: str
    dtype: int
    causal: bool
    seqlen_q: int
    seqlen_kv: int
    head_dim: int
    heads_q: int = 2


CASES = [
    Case("f16", _library.F16, causal=False, seqlen_q=70, seqlen_kv=90, head_dim=64),
    Case("bf16", _library.BF16, causal=True, seqlen_q=40, seqlen_kv=33, head_dim=128),
]


@dataclass(frozen=True)
class Result:
    """How far off a result is."""

    error: float
    limit: float
    lse_error: float
    lse_limit: float

    @property
    def right(self) -> bool:
        """Whether both errors are within their limits; NaN is not."""
        return self.error <= self.limit and self.lse_error <= self.lse_limit

    def __str__(self) -> str:
        verdict = "right" if self.right else "WRONG"
        return (
            f"{verdict}: largest error {self.error:.1e} (limit {self.limit:.1e}), "
            f"of the log-sum-exp {self.lse_error:.1e} (limit {self.lse_limit:.1e})"
        )


def _encode(values: list[float], dtype: int) -> array:  # type: ignore[type-arg]
    """Elements of f16 or bf16, as their bits."""
    if dtype == _library.F16:
        return array("H", struct.pack(f"={len(values)}e", *values))
    # Adding half a unit of the last place that stays rounds to nearest; ties are not worth a word here.
    bits = array("I", struct.pack(f"={len(values)}f", *values))
    return array("H", [(word + 0x8000) >> 16 for word in bits])


def _decode(bits: array, dtype: int) -> list[float]:  # type: ignore[type-arg]
    """What such bits mean."""
    if dtype == _library.F16:
        return list(struct.unpack(f"={len(bits)}e", bits.tobytes()))
    words = array("I", [half << 16 for half in bits])
    return list(struct.unpack(f"={len(words)}f", words.tobytes()))


def _reference(case: Case, q: list[float], k: list[float], v: list[float]) -> tuple[list[float], list[float]]:
    """Output and log-sum-exp by the definition, row by row."""
    out, lses = [0.0] * len(q), [-math.inf] * (case.seqlen_q * case.heads_q)
    heads_kv, size = case.heads_q // 2, case.head_dim
    for head in range(case.heads_q):
        for row in range(case.seqlen_q):
            start = (row * case.heads_q + head) * size
            query = q[start : start + size]
            visible = max(0, row + 1 + case.seqlen_kv - case.seqlen_q) if case.causal else case.seqlen_kv
            keys = [(key * heads_kv + head // 2) * size for key in range(visible)]
            scores = [sum(a * b for a, b in zip(query, k[at : at + size])) / math.sqrt(size) for at in keys]
            if not scores:
                continue
            largest = max(scores)
            weights = [math.exp(score - largest) for score in scores]
            total = math.fsum(weights)
            lses[head * case.seqlen_q + row] = largest + math.log(total)
            for at, weight in zip(keys, weights):
                for column in range(size):
                    out[start + column] += weight / total * v[at + column]
    return out, lses


def run(device: _library.Device, case: Case) -> Result:
    """Computes a case on a device, and compares."""
    generator = random.Random(1)
    heads_kv, size = case.heads_q // 2, case.head_dim

    def normal(seqlen: int, heads: int) -> array:  # type: ignore[type-arg]
        return _encode([generator.gauss(0.0, 1.0) for _ in range(seqlen * heads * size)], case.dtype)

    def tensor(address: int, seqlen: int, heads: int) -> bytes:
        strides = (seqlen * heads * size, heads * size, size)
        return _library.pack_tensor(address, 1, seqlen, heads, size, *strides, case.dtype)

    inputs = [normal(case.seqlen_q, case.heads_q), *(normal(case.seqlen_kv, heads_kv) for _ in "kv")]
    # Outputs start as NaN.
    out = array("H", [0xFFFF]) * len(inputs[0])
    lse = array("f", [math.nan]) * (case.seqlen_q * case.heads_q)
    addresses: list[int] = []
    try:
        for values in [*inputs, out, lse]:
            address, length = values.buffer_info()
            addresses.append(device.alloc(length * values.itemsize))
            device.upload(addresses[-1], address, length * values.itemsize)
        q, k, v, out_address, lse_address = addresses
        queries = [tensor(address, case.seqlen_q, case.heads_q) for address in (q, out_address)]
        keys = [tensor(address, case.seqlen_kv, heads_kv) for address in (k, v)]
        options = _library.pack_options(case.causal, None)
        _library.forward(device.handle, 0, [queries[0], *keys, queries[1]], lse_address, options)
        for values, address in ((out, out_address), (lse, lse_address)):
            to, length = values.buffer_info()
            device.download(to, address, length * values.itemsize)
    finally:
        for address in addresses:
            device.free(address)

    expected, expected_lse = _reference(case, *(_decode(bits, case.dtype) for bits in inputs))
    largest = max(abs(value) for value in expected)
    # Two roundings to the element type, of P and of the output.
    unit = 2.0**-11 if case.dtype == _library.F16 else 2.0**-8
    lse_limit = 1e-5 * max(1.0, *(abs(value) for value in expected_lse if value != -math.inf))
    return Result(
        _largest_difference(_decode(out, case.dtype), expected),
        4 * unit * largest,
        _largest_difference(list(lse), expected_lse),
        lse_limit,
    )


def _largest_difference(found: list[float], expected: list[float]) -> float:
    """NaN, if there is one. Infinities that are equal do not differ."""
    differences = [0.0 if a == b else abs(a - b) for a, b in zip(found, expected, strict=True)]
    return math.nan if any(map(math.isnan, differences)) else max(differences)
