"""NumPy's arrays: f16, and ``ml_dtypes.bfloat16``."""

from typing import Any

import numpy

from ._errors import ArgumentError
from ._framework import Framework, Operand, lse_shape


def strides_in_elements(name: str, tensor: Any) -> list[int]:
    """Strides of an array that counts them in bytes, as NumPy's and CuPy's do."""
    for stride in tensor.strides:
        if stride % tensor.itemsize:
            raise ArgumentError(f"{name} has a stride of {stride} bytes, which is no number of elements")
    return [stride // tensor.itemsize for stride in tensor.strides]


def empty_in_order(library: Any, q: Any) -> Any:
    """A new array of the shape and type of q, with dimensions in memory in the order of q's, and no gaps.

    ``empty_like`` would take the dimension of a broadcast array that has stride 0 for the innermost one.
    """
    last = q.ndim - 1
    order = [*sorted(range(last), key=lambda dim: -q.strides[dim]), last]
    array = library.empty([q.shape[dim] for dim in order], q.dtype)
    return array.transpose([order.index(dim) for dim in range(q.ndim)])


def listed(library: Any, visible: Any) -> tuple[Any, Any]:
    """See :class:`Framework`."""
    place = library.arange(visible.shape[-1])
    order = library.argsort(library.where(visible, place, place + len(place)), axis=-1)
    return visible.sum(axis=-1, dtype=library.int32), order.astype(library.int32)


def joined(library: Any, one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
    """See :class:`Framework`."""
    within = [library.arange(numbers.shape[-1]) < count[..., None] for count, numbers in (one, other)]
    count, order = listed(library, library.concatenate(within, axis=-1))
    numbers = library.concatenate((one[1], other[1]), axis=-1)
    return count, library.take_along_axis(numbers, order, axis=-1)


def bias_cures(library: str) -> tuple[str, str]:
    """See :class:`Framework`."""
    return (
        f"take {library}.ascontiguousarray(bias)",
        f"take {library}.pad(bias, [(0, 0), (0, 0), (0, 0), (0, 1)])[..., :-1]",
    )


class NumPy(Framework):
    """NumPy: always CPU memory."""

    bias_cures = bias_cures("numpy")

    def owns(self, tensor: Any) -> bool:
        return isinstance(tensor, numpy.ndarray)

    def locate(self, name: str, tensor: Any, stream: int | None) -> Operand:
        dtype = tensor.dtype.name if tensor.dtype.isnative else str(tensor.dtype)
        address = int(tensor.__array_interface__["data"][0])
        return Operand(address, tensor.shape, strides_in_elements(name, tensor), dtype, None)

    def end(self, tensor: Any, operand: Operand) -> int:
        while isinstance(tensor.base, numpy.ndarray):
            tensor = tensor.base
        last = sum((size - 1) * max(stride, 0) for size, stride in zip(tensor.shape, tensor.strides))
        return int(tensor.__array_interface__["data"][0] + last + tensor.itemsize)

    def check_writable(self, name: str, out: Any) -> None:
        if self.owns(out) and not out.flags.writeable:
            raise ArgumentError(f"{name} is read-only")

    def empty_like(self, q: Any) -> Any:
        return empty_in_order(numpy, q)

    def empty(self, shape: tuple[int, ...], q: Any) -> Any:
        return numpy.empty(shape, q.dtype)

    def empty_lse(self, q: Any) -> Any:
        return numpy.empty(lse_shape(q.shape), numpy.float32)

    def stack(self, one: Any, other: Any) -> Any:
        return numpy.stack((one, other), axis=-1)

    def listed(self, visible: Any) -> tuple[Any, Any]:
        count, order = listed(numpy, visible)
        return numpy.ascontiguousarray(count), numpy.ascontiguousarray(order)

    def joined(self, one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
        count, numbers = joined(numpy, one, other)
        return numpy.ascontiguousarray(count), numpy.ascontiguousarray(numbers)

    def stream(self, q: Any) -> int | None:
        return None
