"""Images as they lie in memory: mapped, and compared without a copy."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Final

import numpy as np

_LIBC: Final = ctypes.CDLL(None)
_LIBC.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def mapped(path: Path, size: int) -> mmap.mmap:
    """The first `size` bytes of a file, more than none, to be read. Raises OSError, ValueError."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)


def same(data: memoryview, other: memoryview | None) -> bool:
    """Other threads run meanwhile, as they do not while Python compares."""
    if other is None or len(data) != len(other):
        return False
    equal: bool = _LIBC.memcmp(_address(data), _address(other), len(data)) == 0
    return equal


def _address(data: memoryview) -> int:
    found: int = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    return found
