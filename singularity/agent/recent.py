"""What a node still has in memory of the last cuts of its jobs, beside the store.

The images: a rank that goes on here is restored from them, and its next cut is compared with them.
And the ranks themselves, if they were released here: parked as they were dumped, and stopped, they
have only to be woken. It is never the only copy, and the first thing to go: when it is old, when
memory becomes scarce, when a dump needs the room, and with the agent.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from singularity.primitives.model import JobId
from singularity.store.imagestore import Copies, Copy
from singularity.store.manifest import ImageKey

from .runtime.sandbox import Sandbox
from .scratch import Memory, in_memory, memory

_SPARE_SHARE: Final = 0.25  # of the machine's memory must be left to others
_NEAR_MOST: Final = 4  # jobs; each costs the reading of a manifest
_KEPT_S: Final = 1800.0  # since it was made: nobody tells us of a job that goes on elsewhere


@dataclass(frozen=True, slots=True)
class Held:
    """Of one job; `at_s` is when it was made."""

    job: JobId
    bytes: int
    at_s: float


def to_drop(
    held: Iterable[Held],
    now_s: float,
    now: Memory,
    wanted_bytes: int = 0,
    kept_s: float = _KEPT_S,
) -> tuple[tuple[JobId, ...], bool]:
    """What has to go, the oldest first, for `wanted_bytes` more to leave others enough memory; and
    whether they then do."""
    left = now.available_bytes - wanted_bytes - _SPARE_SHARE * now.total_bytes
    gone: list[JobId] = []
    for one in sorted(held, key=lambda h: (h.at_s, h.job)):
        if left < 0 or now_s - one.at_s > kept_s:
            gone.append(one.job)
            left += one.bytes
    return tuple(gone), left >= 0


@dataclass(frozen=True, slots=True)
class Standing:
    """A rank that waits, and its control page under a name that no other life of it takes."""

    sandbox: Sandbox
    page: Path

    def end(self) -> None:
        self.sandbox.remove()
        self.page.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Entry:
    held: Held
    directory: Path
    project: str
    copies: Copies
    standing: Mapping[int, Standing] = field(default_factory=dict)


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

    def near(self, job: JobId, project: str) -> tuple[Copies, ...]:
        """Of `job`, and of others of its project, those first that were kept last: much of their
        memory is alike."""
        with self._lock:
            found = [entry for entry in self._entries.values() if entry.project == project]
        found.sort(key=lambda entry: (entry.held.job != job, -entry.held.at_s))
        return tuple(entry.copies for entry in found[:_NEAR_MOST])

    def keep(self, job: JobId, project: str, copies: Copies, directory: Path) -> None:
        """Take over `directory`, in which `copies` lie, in place of what there was of the job. On a
        disk, or where memory is scarce, it is removed instead."""
        size = sum(file.stat().st_blocks * 512 for file in directory.rglob("*"))
        held = Held(job, size, time.monotonic())
        with self._lock:
            before = self._entries.pop(job, None)
        if not in_memory(directory) or not self.room():
            _remove(before, _Entry(held, directory, project, {}))
            return
        home = directory.with_name(f"recent.{directory.name}")
        directory.replace(home)
        moved = {r: Copy(c.key, c.digest, home / c.path.name) for r, c in copies.items()}
        with self._lock:
            self._entries[job] = _Entry(held, home, project, moved)
        _remove(before)

    def stand(self, job: JobId, cut: int, ranks: Mapping[int, Standing]) -> bool:
        """Take over `ranks`, parked, of which `cut` is what was kept; False: they are not wanted.
        From here on they do nothing at all."""
        with self._lock:
            entry = self._entries.get(job)
            if entry is None or any(
                rank not in entry.copies or entry.copies[rank].key.cut != cut for rank in ranks
            ):
                return False
        for rank in ranks.values():
            rank.sandbox.freeze()
        with self._lock:
            if self._entries.get(job) is not entry:  # it has just gone
                return False
            held = replace(entry.held, bytes=2 * entry.held.bytes)  # once more, as they are
            self._entries[job] = replace(entry, held=held, standing=ranks)
        self.room()
        with self._lock:
            return job in self._entries

    def wake(self, job: JobId, wanted: Mapping[int, tuple[ImageKey, str]]) -> dict[int, Standing]:
        """Those that stand here of what `wanted` names, by key and digest, still stopped; others
        have no use any more, for the job goes on from something else."""
        with self._lock:
            entry = self._entries.get(job)
            if entry is None:
                return {}
            self._entries[job] = replace(entry, standing={})
        known = {rank: (copy.key, copy.digest) for rank, copy in entry.copies.items()}
        woken = {}
        for rank, standing in entry.standing.items():
            if wanted.get(rank) == known[rank] and standing.sandbox.alive():
                woken[rank] = standing
            else:
                standing.end()
        return woken

    def room(self, wanted_bytes: int = 0) -> bool:
        """Drop what has to go; is there room for so much more then?"""
        with self._lock:
            held = [entry.held for entry in self._entries.values()]
            gone, enough = to_drop(held, time.monotonic(), self._look(), wanted_bytes)
            dropped = [self._entries.pop(job) for job in gone]
        _remove(*dropped)
        return enough

    def clear(self) -> None:
        """Nothing is left of it on return."""
        with self._lock:
            dropped = list(self._entries.values())
            self._entries.clear()
        for entry in dropped:
            _remove_now(entry)


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


def end_all(ranks: Mapping[int, Standing]) -> None:
    for standing in ranks.values():
        standing.end()


def _remove(*entries: _Entry | None) -> None:
    """Beside the caller: to free a gigabyte takes a while."""
    for entry in entries:
        if entry is not None:
            threading.Thread(target=_remove_now, args=(entry,), name="remove", daemon=True).start()


def _remove_now(entry: _Entry) -> None:
    end_all(entry.standing)
    shutil.rmtree(entry.directory, ignore_errors=True)
