"""What ranks print, kept within a size: the first lines and the last, and a word where some are
missing.

A rank writes its log itself, wherever it is resumed, and checkpoints name how long it was. So it
neither becomes shorter nor is replaced: the disk gets back what lies in its middle, and the hole
stays. Readers leave it out (`api/logs.py`).
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # of fallocate(2)
_STEP_BYTES: Final = 64 * 1024  # whole blocks of any file system
_LOOK_EVERY_S: Final = 1.0
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def keep_within(path: Path, most_bytes: int) -> int:
    """Free the middle of a log that takes more than `most_bytes` of disk, all but its first quarter
    and its last half. How many bytes are missing now; 0 where it need not be. Raises OSError."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        found = os.fstat(file)
        start, end = _whole(most_bytes // 4), _whole(found.st_size - most_bytes // 2)
        if found.st_blocks * 512 <= most_bytes or end <= start:
            return 0
        if _LIBC.fallocate(file, _KEEP_SIZE | _PUNCH_HOLE, start, end - start):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
        word = f"\n[singularity: {end - start} bytes that were printed here are not kept]\n"
        os.pwrite(file, word.encode(), start - len(word))
        return end - start
    finally:
        os.close(file)


def _whole(size: int) -> int:
    return size // _STEP_BYTES * _STEP_BYTES


class LogKeeper:
    """Looks at `logs` in a thread of its own, for the volume may be slow, and nothing else waits
    for it."""

    def __init__(self, logs: Callable[[], Iterable[Path]], most_bytes: int) -> None:
        self._logs, self._most_bytes = logs, most_bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        with suppress(RuntimeError):  # it was never started
            self._thread.join(_LOOK_EVERY_S)

    def _run(self) -> None:
        complained = False
        while not self._stop.wait(_LOOK_EVERY_S):
            for path in self._logs():
                try:
                    if missing := keep_within(path, self._most_bytes):
                        log.warning("output.dropped", extra={"log": str(path), "bytes": missing})
                except OSError as error:
                    if not complained:  # once: it will be so for every log, and in every second
                        log.error("output is not bounded", extra={"reason": str(error)})
                    complained = True
