"""Time slices: ranks that share a device compute in turns, by an flock on the slot's file.

The token is handed over where a rank would wait for the others anyway: at the end of a backward
pass, when its last gradient bucket is on its way, and in any other blocking wait. That makes one
switch a rank a mini-batch. A rank that blocks where this module cannot see it (a file it polls,
a lock of its own) would starve its slot; a watchdog takes the token from whoever keeps it too
long. The price is a moment of two ranks on one device, never a wrong result: the token orders
computation, it guards no data.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LOOK_S: Final = 0.25  # how often the watchdog looks
_NO_FILE: Final = -1


class Slots:
    """The slot of this rank and whether it holds the token now."""

    def __init__(self, directory: Path, hold_max_s: float = 3.0) -> None:
        """Token files live in `directory` as `slot-<n>`; none is opened before follow()."""
        self.number = -1  # the slot followed; -1 none
        self.held = False
        self.broken = 0  # times the watchdog had to step in
        self._directory = directory
        self._hold_max_s = hold_max_s
        self._descriptor = _NO_FILE
        self._since_s = 0.0
        self._lock = threading.Lock()  # rank thread against watchdog
        self._watchdog: threading.Thread | None = None

    def follow(self, number: int) -> None:
        """Belong to slot `number` from now on and hold its token; -1 leaves the slots."""
        if number != self.number:
            self.close()
            if number >= 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                path = self._directory / f"slot-{number}"
                self._descriptor = os.open(path, flags, 0o600)
                self.number = number
                self._watch()
        if not self.held:
            self._acquire()

    @contextmanager
    def yielded(self) -> Iterator[None]:
        """Let the slot's other ranks compute while this one waits in the body."""
        if not self.held:
            yield
            return
        self._release()
        try:
            yield
        finally:
            self._acquire()

    def close(self) -> None:
        """Give the token back and keep nothing open, as a parking or exiting rank must."""
        with self._lock:
            self.held = False
            self.number = -1
            if self._descriptor != _NO_FILE:
                os.close(self._descriptor)  # the lock goes with its last descriptor
                self._descriptor = _NO_FILE

    def forget(self) -> None:
        """In a forked child: drop the inherited descriptor, and with it no lock of the parent."""
        self._lock = threading.Lock()  # the parent's watchdog may have held it in the fork
        self._watchdog = None
        self.close()

    def _acquire(self) -> None:
        if self._descriptor == _NO_FILE:
            return
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        with self._lock:
            self._since_s = time.monotonic()
            self.held = True

    def _release(self) -> None:
        with self._lock:
            if self.held:
                self.held = False
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _watch(self) -> None:
        if self._watchdog is None:
            self._watchdog = threading.Thread(
                target=self._take_back, name="singularity-slots", daemon=True
            )
            self._watchdog.start()

    def _take_back(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                if self.held and time.monotonic() - self._since_s > self._hold_max_s:
                    self.held = False
                    self.broken += 1
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
