"""Where a rank finds the device that it has a share of: two files of its own, which have the same
path on every node.

`device-RANK.page` is the control page of its device, by another name; `device-RANK.seat` holds its
slot there, and how often it was brought back. CRIU opens both by name, so that a rank that comes
back elsewhere finds the page of the device that it is on now.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from .shim.page import SIZE_BYTES

_NOTE: Final = "device.json"  # beside the images of a rank, and in its sandbox
_WORDS: Final = struct.Struct("=II")  # slot, life; shim.h has them in C


@dataclass(frozen=True, slots=True)
class Held:
    """A rank's place: slot `slot` of the device `index`. `life` counts how often it was brought
    back, `was` is the device that it was on before that."""

    index: int
    slot: int
    life: int = 0
    was: int | None = None


@dataclass(frozen=True, slots=True)
class Carried:
    """What is known of a rank that is carried: where it was, and its slot, as hexadecimal."""

    held: Held
    counts: str


_HELD: Final = TypeAdapter(Held)
_CARRIED: Final = TypeAdapter(Carried)


@dataclass(frozen=True, slots=True)
class Seat:
    """The two files of one rank; `page` is one path for all nodes."""

    page: Path
    words: Path

    @classmethod
    def of(cls, rank_page: Path) -> Seat:
        """Beside the rank's own page (`rank-N.page`)."""
        stem = rank_page.stem.replace("rank", "device")
        return cls(rank_page.with_name(f"{stem}.page"), rank_page.with_name(f"{stem}.seat"))

    def take(self, page: Path, held: Held) -> dict[str, str]:
        """Sit down at `page`; what the rank's environment needs. A process that still maps what
        was here before keeps that. CRIU insists on the mode."""
        self.leave()
        self.page.parent.mkdir(parents=True, exist_ok=True)
        os.link(page, self.page)
        self.words.write_bytes(_WORDS.pack(held.slot, held.life).ljust(SIZE_BYTES, b"\0"))
        self.words.chmod(0o600)
        return {"SINGULARITY_SHIM_PAGE": str(self.page), "SINGULARITY_SHIM_SEAT": str(self.words)}

    def leave(self) -> None:
        for path in (self.page, self.words):
            path.unlink(missing_ok=True)

    def at(self, page: Path) -> bool:
        """Is it at this page? Nodes of one machine have the same path for one rank."""
        with suppress(FileNotFoundError):
            return self.page.samefile(page)
        return False


def remember(directory: Path, held: Held) -> None:
    """In the directory of a sandbox, for agents to come and for who brings the rank back."""
    (directory / _NOTE).write_bytes(_HELD.dump_json(held))


def recall(directory: Path) -> Held | None:
    """None of a rank that has no share of a GPU."""
    with suppress(FileNotFoundError, ValueError):
        return _HELD.validate_json((directory / _NOTE).read_bytes())
    return None


def moves(directory: Path) -> Mapping[int, int]:
    """Of the GPUs of the node before, which is followed by another here."""
    held = recall(directory)
    if held is None or held.was is None or held.was == held.index:
        return {}
    return {held.was: held.index}


def note(images: Path, carried: Carried) -> None:
    (images / _NOTE).write_bytes(_CARRIED.dump_json(carried))


def noted(images: Path) -> Carried | None:
    """None of a rank that was carried without a slot. Raises ValueError for a note that is none."""
    with suppress(FileNotFoundError):
        return _CARRIED.validate_json((images / _NOTE).read_bytes())
    return None
