"""Stacks of ranks that hung, as agents keep them: jobs/<job>/stacks/<incarnation>/rank-<n>.txt"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from singularity.primitives.errors import NotFound
from singularity.primitives.model import JobId

_RANK: Final = re.compile(r"rank-([0-9]{1,6})\.txt")
_LIFE: Final = re.compile(r"[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Stack:
    """Where one rank stood at `at_s`, in which life of the job."""

    incarnation: int
    rank: int
    at_s: float
    bytes: int

    def view(self) -> dict[str, Any]:
        return asdict(self)


def stacks(volume: Path, job: JobId) -> list[Stack]:
    """Newest life first, ranks in order; [] when the job never hung."""
    return sorted(_found(volume, job), key=lambda s: (-s.incarnation, s.rank))


def text(volume: Path, job: JobId, incarnation: int | None, rank: int | None) -> Iterator[str]:
    """The stacks of one life, else of the newest that hung; of all its ranks, else of one.

    Raises NotFound before the first piece.
    """
    known = stacks(volume, job)
    lives = sorted({s.incarnation for s in known}, reverse=True)
    life = incarnation if incarnation is not None else next(iter(lives), None)
    wanted = [s for s in known if s.incarnation == life and rank in (None, s.rank)]
    if not wanted:
        raise NotFound("no stack of it is kept; they are of ranks that hung", lives=lives)
    return (_path(volume, job, s.incarnation, s.rank).read_text() + "\n" for s in wanted)


def _found(volume: Path, job: JobId) -> Iterator[Stack]:
    for path in (volume / "jobs" / job / "stacks").glob("*/rank-*.txt"):
        life, rank = _LIFE.fullmatch(path.parent.name), _RANK.fullmatch(path.name)
        if life and rank:
            found = path.stat()
            yield Stack(int(life[0]), int(rank[1]), found.st_mtime, found.st_size)


def _path(volume: Path, job: JobId, incarnation: int, rank: int) -> Path:
    """`job` comes out of the database and the others are numbers."""
    return volume / "jobs" / job / "stacks" / str(incarnation) / f"rank-{rank}.txt"
