"""JAX's arrays.

JAX has no current stream that others may use, so a call takes CUDA's default stream. By the DLPack protocol each
input's ``__dlpack__(stream=...)`` makes that stream wait for what still computes the input, on the device and not on
the host. The output is an array that JAX allocated and that nobody else has seen; the call waits for the default stream
before it hands it out, so that whatever JAX does next finds it complete.
"""

from typing import Any

import jax
import jax.numpy

from . import _dlpack, _library
from ._errors import ArgumentError, UnsupportedError
from ._framework import Framework, Operand, lse_shape
from ._numpy import joined, listed

#: CUDA's default stream, as the driver numbers it and as DLPack does.
_DEFAULT_STREAM = 0
_DLPACK_DEFAULT_STREAM = 1


class Jax(Framework):
    """JAX, outside of its transformations."""

    #: Views do not exist, so that a row cannot have room.
    bias_cures = ("take jax.numpy.array(bias)", "append a key to k, v and bias, with a bias of -inf")

    def owns(self, tensor: Any) -> bool:
        return isinstance(tensor, jax.Array)

    def locate(self, name: str, tensor: Any, stream: int | None) -> Operand:
        found = _describe(name, tensor, stream)
        ordinal = None if found.device_type == _dlpack.CPU else found.device_id
        return Operand(found.address, found.shape, found.strides, tensor.dtype.name, ordinal)

    def check_writable(self, name: str, out: Any) -> None:
        raise ArgumentError(f"{name} cannot be given: JAX's arrays are immutable")

    def empty_like(self, q: Any) -> Any:
        return jax.numpy.empty(q.shape, q.dtype, device=q.sharding)

    def empty(self, shape: tuple[int, ...], q: Any) -> Any:
        return jax.numpy.empty(shape, q.dtype, device=q.sharding)

    def empty_lse(self, q: Any) -> Any:
        return jax.numpy.empty(lse_shape(q.shape), jax.numpy.float32, device=q.sharding)

    def stack(self, one: Any, other: Any) -> Any:
        return jax.numpy.stack((one, other), axis=-1)

    def listed(self, visible: Any) -> tuple[Any, Any]:
        return listed(jax.numpy, visible)

    def joined(self, one: tuple[Any, Any], other: tuple[Any, Any]) -> tuple[Any, Any]:
        return joined(jax.numpy, one, other)

    def stream(self, q: Any) -> int | None:
        if self.owns(q):
            _check_alone("q", q)
        return None if not self.owns(q) or q.device.platform == "cpu" else _DEFAULT_STREAM

    def submitted(self, device: _library.Device, stream: int) -> None:
        device.synchronize(stream)


def _check_alone(name: str, tensor: Any) -> None:
    """Refuses what has no memory, or memory on several devices."""
    if isinstance(tensor, jax.core.Tracer):
        raise UnsupportedError("flashcore cannot be traced by jax.jit, jax.grad or jax.vmap yet")
    if len(tensor.devices()) != 1:
        raise UnsupportedError(f"{name} is spread over {len(tensor.devices())} devices; one is supported")


def _describe(name: str, tensor: Any, stream: int | None) -> _dlpack.Described:
    _check_alone(name, tensor)
    if stream is None:
        tensor.block_until_ready()
        return _dlpack.describe(tensor.__dlpack__())
    # The capsule may go at once: the caller holds the array, and the call waits until it has been read.
    return _dlpack.describe(tensor.__dlpack__(stream=_DLPACK_DEFAULT_STREAM))
