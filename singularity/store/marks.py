"""Saves and sweeps say that they are under way.

A sweep that has moved a chunk away waits for the end of every save that may have seen it where it
was, and lets another sweep's trash be while that one lives. The mark of one that died counts for
`LEASE_S` after its last renewal; whoever finds its own mark too old gives up before it does harm.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Final

from .blobs import Blobs

LEASE_S: Final = 900.0
_RENEW_S: Final = LEASE_S / 10
_TRUST_S: Final = LEASE_S / 2  # the rest is for the one call between `check` and its end


class Kind(StrEnum):
    SAVE = "saves"
    SWEEP = "sweeps"


class Mark:
    """Safe to share between threads."""

    def __init__(self, blobs: Blobs, kind: Kind) -> None:
        self._blobs, self.id = blobs, uuid.uuid4().hex
        self._name = f"{kind}/{self.id}"
        self._lock = threading.Lock()
        self._renewed_s = 0.0
        self._write()

    def renew(self) -> None:
        """Cheap; called with every chunk. Raises TimeoutError as `check` does: a mark that may
        have been found dead must not come to life again."""
        with self._lock:
            if _now_s() - self._renewed_s > _RENEW_S:
                self.check()
                self._write()

    def check(self) -> None:
        """Raises TimeoutError when others may take its owner for dead."""
        if _now_s() - self._renewed_s > _TRUST_S or not self._blobs.has(self._name):
            raise TimeoutError(f"{self._name} was silent for too long; it has to begin again")

    def end(self) -> None:
        with suppress(OSError):  # then its lease has to run out
            self._blobs.delete(self._name)

    def _write(self) -> None:
        began_s = _now_s()
        self._blobs.put(self._name, b"", durable=False)  # who makes it dies with the machine
        self._renewed_s = began_s


def _now_s() -> float:
    """Goes on while the machine sleeps, for sweeps elsewhere do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@contextmanager
def marked(blobs: Blobs, kind: Kind = Kind.SAVE) -> Iterator[Mark]:
    mark = Mark(blobs, kind)
    try:
        yield mark
    finally:
        mark.end()


def under_way(blobs: Blobs, kind: Kind) -> frozenset[str]:
    """Ids of those that may still be at work; marks of dead ones are removed."""
    now_s = blobs.now_s()
    found = list(blobs.list(kind))
    for dead in (mark for mark in found if mark.at_s <= now_s - LEASE_S):
        blobs.delete(dead.name)
    living = (mark.name for mark in found if mark.at_s > now_s - LEASE_S)
    return frozenset(name.rpartition("/")[2] for name in living)
