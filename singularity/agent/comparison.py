"""Compares what two runs of the same mini-batches have written, as far as both have come."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from singularity.primitives.findings import Finding

_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Output:
    """One file as the job wrote it and as the ranks aside did: equal up to `start`, its size at
    the cut. `marks[i]` is its size aside when i + 1 mini-batches had been done."""

    path: Path
    aside: Path
    start: int
    marks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """`bytes` were written by both. `differs_at` is the mini-batch after which the first byte was
    written that differs, None when none does."""

    path: Path
    bytes: int
    differs_at: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """`parameters`: "identical", "differ", or "" where their hashes are not known."""

    files: tuple[Compared, ...]
    parameters: str

    def differs_at(self, last: int) -> int | None:
        """The first mini-batch after which the runs are seen to differ; `last` was their last."""
        found = [file.differs_at for file in self.files if file.differs_at is not None]
        return min([*found, *([last] if self.parameters == "differ" else [])], default=None)

    def verdict(self, last: int) -> tuple[Finding, str]:
        files = [file for file in self.files if file.bytes]
        total = sum(file.bytes for file in files)
        hashes = {
            "": "",
            "identical": "the parameters are identical",
            "differ": "so do the parameters",
        }
        if (at := self.differs_at(last)) is not None:
            names = [f.path.name for f in files if f.differs_at is not None]
            where = f"in {', '.join(names[:3])}" if names else "in the parameters only"
            more = f"; {hashes[self.parameters]}" if names and self.parameters else ""
            return Finding.DIFFERS, f"differs after mini-batch {at}, {where}{more}"
        if not total and not self.parameters:
            return Finding.INCOMPARABLE, "it wrote nothing, and has no parameters that were hashed"
        what = [f"{total} bytes in {len(files)} files"] if total else []
        what += ["the parameters"] if self.parameters else []
        return Finding.IDENTICAL, f"identical up to mini-batch {last}: {' and '.join(what)}"


def compare(outputs: Sequence[Output], step: int) -> tuple[Compared, ...]:
    """`step` is the mini-batch of the cut: what is written next was computed in it."""
    return tuple(_compare(output, step) for output in outputs)


def _compare(output: Output, step: int) -> Compared:
    """From the size at the cut on; a file that has been cut back since shares nothing."""
    both = min(size_of(output.path), size_of(output.aside)) - output.start
    if both <= 0:
        return Compared(output.path, 0, None)
    with output.path.open("rb") as theirs, output.aside.open("rb") as ours:
        theirs.seek(output.start)
        ours.seek(output.start)
        for at in count(0, _PIECE):
            size = min(_PIECE, both - at)
            if size <= 0:
                break
            a, b = theirs.read(size), ours.read(size)
            if a != b:
                offset = next((i for i in range(min(len(a), len(b))) if a[i] != b[i]), 0)
                position = output.start + at + offset
                done = sum(1 for mark in output.marks if mark <= position)
                return Compared(output.path, both, step + done)
    return Compared(output.path, both, None)


def size_of(path: Path) -> int:
    """0 for a file that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def digest(note: Path) -> str:
    """The hash that a rank noted; "" when it did not."""
    try:
        return str(json.loads(note.read_text())["digest"])
    except (OSError, ValueError, KeyError):
        return ""
