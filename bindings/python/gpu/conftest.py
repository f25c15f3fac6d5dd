"""What tests of several frameworks share."""

import struct

import pytest

from flashcore import _library


@pytest.fixture
def addresses(monkeypatch):
    """Where the library was told that q, k, v, out and lse lie, for each call."""
    calls = []
    forward = _library.forward

    def spy(handle, stream, tensors, lse, options):
        calls.append([*(struct.unpack_from("@Q", tensor)[0] for tensor in tensors), lse])
        forward(handle, stream, tensors, lse, options)

    monkeypatch.setattr(_library, "forward", spy)
    return calls
