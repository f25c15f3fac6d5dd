"""Host memory, computed on the emulated device: copied there, and the outputs back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import _library

if TYPE_CHECKING:
    from ._framework import Forward, Operand

#: Addresses keep their remainder by this, so that the emulated device finds misaligned what a GPU would.
_ALIGNMENT = 256


def _merged(spans: list[range]) -> list[range]:
    """The same addresses as ranges that do not overlap."""
    merged: list[range] = []
    for span in sorted((span for span in spans if span), key=lambda span: span.start):
        if merged and span.start < merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, span.stop))
        else:
            merged.append(span)
    return merged


def forward(
    operands: dict[str, Operand],
    side: dict[str, Operand],
    lse: int,
    options: Callable[[Callable[[int], int]], bytes],
    forward: Forward,
) -> None:
    """Attention over q, k, v and out in host memory, which ``forward`` submits; ``lse`` is an address, or 0 for none.
    ``options`` gets what tells where the arrays and the bias of ``side`` are on the device."""
    spans = {name: operand.span() for name, operand in operands.items()}
    spans |= {name: operand.bias_span() if name == "bias" else operand.span(4) for name, operand in side.items()}
    batch, seqlen, heads, _ = operands["q"].shape
    spans["lse"] = range(lse, lse + 4 * batch * seqlen * heads) if lse else range(0)

    def submit(device: _library.Device, moved: Callable[[int], int]) -> None:
        packed = [operand.at(moved(operand.address)) for operand in operands.values()]
        forward(device.handle, 0, packed, moved(lse), options(moved))

    _compute(spans, submit)


def merge(operands: dict[str, Operand], lses: dict[str, Operand]) -> None:
    """The states o1 and o2, with lse1 and lse2, merged into out and lse, all in host memory."""
    spans = {name: operand.span() for name, operand in operands.items()}
    spans |= {name: operand.span(4) for name, operand in lses.items()}

    def submit(device: _library.Device, moved: Callable[[int], int]) -> None:
        packed = [operand.at(moved(operand.address)) for operand in operands.values()]
        addresses = [moved(operand.address) for operand in lses.values()]
        _library.merge(device.handle, 0, packed, addresses)

    _compute(spans, submit)


def dropout_mask(mask: Operand, dropout: tuple[float, int, int]) -> None:
    """A mask of dropout in host memory."""

    def submit(device: _library.Device, moved: Callable[[int], int]) -> None:
        _library.dropout_mask(device.handle, 0, dropout, mask.shape, moved(mask.address))

    _compute({"out": mask.span(1), "lse": range(0)}, submit)


def _compute(spans: dict[str, range], submit: Callable[[_library.Device, Callable[[int], int]], None]) -> None:
    """Copies these addresses to the device, calls ``submit`` with what tells where they are there, and copies those of
    out and lse back.

    What overlaps in host memory does so on the device, and is refused as a GPU would. Bytes between the elements of
    ``out`` are copied there and back.
    """
    device = _library.emulated()
    allocated: list[int] = []
    moves: list[tuple[range, int]] = []

    def moved(address: int) -> int:
        """Where a host address is on the device; those of empty tensors do not matter."""
        return next((address + offset for span, offset in moves if address in span), address)

    try:
        for span in _merged(list(spans.values())):
            allocated.append(device.alloc(len(span) + _ALIGNMENT))
            start = allocated[-1] + span.start % _ALIGNMENT
            device.upload(start, span.start, len(span))
            moves.append((span, start - span.start))
        submit(device, moved)
        for output in (spans["out"], spans["lse"]):
            device.download(output.start, moved(output.start), len(output))
    finally:
        for address in allocated:
            device.free(address)
