"""CuPy's arrays, on CuPy's current stream."""

from typing import Any

import cupy

from ._framework import Framework, Operand, lse_shape
from ._numpy import bias_cures, empty_in_order, joined, listed, strides_in_elements


class CuPy(Framework):
    """CuPy: always device memory."""

    bias_cures = bias_cures("cupy")

    def owns(self, tensor: Any) -> bool:
        return isinstance(tensor, cupy.ndarray)

    def locate(self, name: str, tensor: Any, stream: int | None) -> Operand:
        strides = strides_in_elements(name, tensor)
        return Operand(tensor.data.ptr, tensor.shape, strides, tensor.dtype.name, tensor.device.id)

    def end(self, tensor: Any, operand: Operand) -> int:
        memory = tensor.data.mem
        return int(memory.ptr + memory.size)

    def check_writable(self, name: str, out: Any) -> None:
        pass

    def empty_like(self, q: Any) -> Any:
        with q.device:
            return empty_in_order(cupy, q)

    def empty(self, shape: tuple[int, ...], q: Any) -> Any:
        with q.device:
            return cupy.empty(shape, q.dtype)

    def empty_lse(self, q: Any) -> Any:
        with q.device:
            return cupy.empty(lse_shape(q.shape), cupy.float32)

    def stack(self, one: Any, other: Any) -> Any:
        with one.device:
            return cupy.stack((one, other), axis=-1)

    def listed(self, visible: Any) -> tuple[Any, Any]:
        with visible.device:
            count, order = listed(cupy, visible)
            return cupy.ascontiguousarray(count), cupy.ascontiguousarray(order)

    def joined(self, one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
        with one[0].device:
            count, numbers = joined(cupy, one, other)
            return cupy.ascontiguousarray(count), cupy.ascontiguousarray(numbers)

    def capturing(self, q: Any) -> bool:
        return bool(cupy.cuda.runtime.streamIsCapturing(self.stream(q)))

    def stream(self, q: Any) -> int | None:
        if not self.owns(q):
            return 0
        with q.device:
            return int(cupy.cuda.get_current_stream().ptr)
