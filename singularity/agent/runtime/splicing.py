"""Replica splicing: pages of equal content are one page, among all ranks on a node.

Ranks of one data-parallel group hold the same parameters and optimizer state; while those do not
change, one copy does for all that share a device. The kernel's own same-page merging does it: it
hashes pages that have stayed the same between two looks, compares candidates byte by byte, and
copies on the next write, so that nothing depends on what the program does. What is written in
every step, as most of a full training, is never merged.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_SET_MEMORY_MERGE: Final = 67  # linux/prctl.h
_KSM: Final = Path("/sys/kernel/mm/ksm")
_FIELD: Final = "ksm_merging_pages"


def begin() -> str:
    """Offer the memory of this process, and of all that it starts or restores from now on; "" on
    success, else why not and what would help.

    Turns the kernel's merging on where it is off and we may; how eagerly it looks is the machine's
    own setting.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_MEMORY_MERGE, 1, 0, 0, 0) != 0:
        return f"the kernel merges no pages for us: {os.strerror(ctypes.get_errno())}"
    try:
        if (_KSM / "run").read_text().strip() != "1":
            (_KSM / "run").write_text("1")
    except OSError as error:
        return f"merging is off ({error.strerror}); as root: echo 1 > {_KSM / 'run'}"
    return ""


def merged_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes that they share with others by merging. Gone ones count nothing."""
    pages = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/ksm_stat").read_text().split()
        except OSError:
            continue
        pages += int(fields[fields.index(_FIELD) + 1]) if _FIELD in fields else 0
    return pages * os.sysconf("SC_PAGE_SIZE")
