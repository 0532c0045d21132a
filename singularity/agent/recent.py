"""What a node still has in memory of the last cuts of its jobs.

A rank that goes on here is restored from that, and its next cut is compared with it: both then read
next to nothing from the store. It is never the only copy, and the first thing to go: when it is
old, when memory becomes scarce, when a dump needs the room, and with the agent.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from singularity.primitives.model import JobId
from singularity.store.imagestore import Copies, Copy

from .scratch import Memory, in_memory, memory

_SPARE_SHARE: Final = 0.25  # of the machine's memory must be left to others
_KEPT_S: Final = 3600.0  # since it was made; of a job that was suspended and moved nobody tells us


@dataclass(frozen=True, slots=True)
class Held:
    """Of one job; `at_s` is when it was made."""

    job: JobId
    bytes: int
    at_s: float


def to_drop(
    held: Iterable[Held], now_s: float, now: Memory, wanted_bytes: int = 0
) -> tuple[tuple[JobId, ...], bool]:
    """What has to go, the oldest first, for `wanted_bytes` more to leave others enough memory; and
    whether they then do."""
    left = now.available_bytes - wanted_bytes - _SPARE_SHARE * now.total_bytes
    gone: list[JobId] = []
    for one in sorted(held, key=lambda h: (h.at_s, h.job)):
        if left < 0 or now_s - one.at_s > _KEPT_S:
            gone.append(one.job)
            left += one.bytes
    return tuple(gone), left >= 0


@dataclass(frozen=True, slots=True)
class _Entry:
    held: Held
    directory: Path
    copies: Copies


class Recent:
    """Of one node. Thread-safe. `look` tells how much memory there is."""

    def __init__(self, look: Callable[[], Memory] = memory) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._entries: dict[JobId, _Entry] = {}

    def of(self, job: JobId) -> Copies:
        """Of the ranks of `job` that were here at its last cut, or came back here from it."""
        with self._lock:
            entry = self._entries.get(job)
            return entry.copies if entry else {}

    def keep(self, job: JobId, copies: Copies, directory: Path) -> None:
        """Take over `directory`, in which `copies` lie, in place of what there was of the job. On a
        disk, or where memory is scarce, it is removed instead."""
        size = sum(file.stat().st_blocks * 512 for file in directory.rglob("*"))
        held = Held(job, size, time.monotonic())
        with self._lock:
            before = self._entries.pop(job, None)
        if not in_memory(directory) or not self.room():
            _remove(entry.directory for entry in (before,) if entry)
            _remove([directory])
            return
        home = directory.with_name(f"{directory.name}.kept")
        directory.replace(home)
        moved = {r: Copy(c.key, c.digest, home / c.path.name) for r, c in copies.items()}
        with self._lock:
            self._entries[job] = _Entry(held, home, moved)
        _remove(entry.directory for entry in (before,) if entry)

    def room(self, wanted_bytes: int = 0) -> bool:
        """Drop what has to go; is there room for so much more then?"""
        with self._lock:
            held = [entry.held for entry in self._entries.values()]
            gone, enough = to_drop(held, time.monotonic(), self._look(), wanted_bytes)
            dropped = [self._entries.pop(job).directory for job in gone]
        _remove(dropped)
        return enough


def link(source: Path, target: Path) -> None:
    """What is in `source`, also in `target`; it may be on its way out, and then not all of it is.
    Without a copy where both are on one file system. Raises OSError where there is no room."""
    target.mkdir(parents=True)
    with suppress(FileNotFoundError):
        for file in list(source.iterdir()):
            try:
                os.link(file, target / file.name)
            except FileNotFoundError:
                continue
            except OSError:
                shutil.copyfile(file, target / file.name)


def _remove(directories: Iterable[Path]) -> None:
    """Beside the caller: to free a gigabyte takes a while."""
    for directory in directories:
        threading.Thread(
            target=shutil.rmtree, args=(directory, True), name="remove", daemon=True
        ).start()
