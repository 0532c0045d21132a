"""Parts of devices: what one rank asks for, and how much of a device is given out.

A share is a promise. Its memory is a limit. Of real-time shares the compute is a limit too, and
their work goes first; best-effort ranks divide what is left in the ratio of theirs, so that each
has at least its own. Nothing of a device is promised twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

WHOLE_MILLI: Final = 1000
GIB: Final = 1 << 30


class Precedence(StrEnum):
    REAL_TIME = "rt"  # goes before all others of its device
    BEST_EFFORT = "be"


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """What one rank has of one device. `compute_milli` of 1000 are the whole of it."""

    compute_milli: int
    memory_bytes: int
    precedence: Precedence = Precedence.BEST_EFFORT

    @property
    def fraction(self) -> float:
        """Of a device, for accounts: they count compute."""
        return self.compute_milli / WHOLE_MILLI

    def __str__(self) -> str:
        return f"{self.compute_milli / 10:g} % and {self.memory_bytes / GIB:.3g} GiB"


def short_s(share: DeviceShare, wall_s: float, wanted_s: float, got_s: float) -> float:
    """Device-seconds that are missing of what the share promises, in `wall_s` in which its rank had
    work for `wanted_s` of the device and was given `got_s`. Who wants less is promised no more."""
    return max(0.0, min(share.fraction * wall_s, wanted_s) - got_s)


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """A device of a node that is given out in shares, by its number there, and what is taken."""

    index: int
    compute_milli: int
    memory_bytes: int


def changed(
    parts: tuple[Part, ...], indices: frozenset[int], share: DeviceShare, sign: int
) -> tuple[Part, ...]:
    """`parts` with one share more (`sign` 1) or less (-1) on each of `indices`. A device of which
    nothing is taken any more is none of them."""
    found = {p.index: p for p in parts}
    for index in indices:
        old = found.get(index, Part(index, 0, 0))
        compute = old.compute_milli + sign * share.compute_milli
        memory = old.memory_bytes + sign * share.memory_bytes
        found[index] = Part(index, compute, memory)
    return tuple(found[i] for i in sorted(found) if found[i].compute_milli)
