"""CuPy's arrays, on CuPy's current stream."""

from typing import Any

import cupy

from ._framework import Framework, Operand, unknown_dtype, wrong_number_dtype
from ._numpy import DTYPES, empty_in_order, strides_in_elements


class CuPy(Framework):
    """CuPy: always device memory."""

    def owns(self, tensor: Any) -> bool:
        return isinstance(tensor, cupy.ndarray)

    def locate(self, name: str, tensor: Any, stream: int | None) -> Operand:
        dtype = DTYPES.get(tensor.dtype.name)
        if dtype is None:
            raise unknown_dtype(name, tensor.dtype)
        strides = strides_in_elements(name, tensor)
        return Operand(tensor.data.ptr, tensor.shape, strides, dtype, tensor.device.id)

    def locate_numbers(self, name: str, numbers: Any, dtype: str, stream: int | None) -> Operand:
        if numbers.dtype.name != dtype:
            raise wrong_number_dtype(name, numbers.dtype, dtype)
        strides = strides_in_elements(name, numbers)
        return Operand(numbers.data.ptr, numbers.shape, strides, 0, numbers.device.id)

    def check_writable(self, name: str, out: Any) -> None:
        pass

    def empty_like(self, q: Any) -> Any:
        with q.device:
            return empty_in_order(cupy, q)

    def empty_lse(self, q: Any) -> Any:
        *batch, seqlen, heads, _ = q.shape
        with q.device:
            return cupy.empty((*batch, heads, seqlen), cupy.float32)

    def stream(self, q: Any) -> int | None:
        if not self.owns(q):
            return 0
        with q.device:
            return int(cupy.cuda.get_current_stream().ptr)
