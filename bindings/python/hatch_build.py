"""Puts the C library into the wheel. ``cargo xtask wheel`` builds it, and names it in FLASHCORE_LIBRARY."""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "FLASHCORE_LIBRARY"


class LibraryHook(BuildHookInterface):  # type: ignore[type-arg]
    """The wheel is for one platform, but for every Python: ctypes needs no ABI of theirs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        library = Path(os.environ.get(VARIABLE, ""))
        if not library.is_file():
            raise FileNotFoundError(f"{VARIABLE} names no file; wheels are built by `cargo xtask wheel`")
        build_data["force_include"][str(library)] = "flashcore/libflashcore_c.so"
        build_data["pure_python"] = False
        # auditwheel replaces it by the oldest glibc that the library runs with.
        build_data["tag"] = "py3-none-linux_x86_64"
