"""Who holds how much of which GPU, and where one more may go. Pure.

A unit is what the node's `aliyun.com/gpu-mem` counts: a GiB or a MiB. A share lies on one device:
the one where least is left that is enough (or most, for who asks to be spread), first of equals.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Packing(StrEnum):
    BINPACK = "binpack"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a pod that is bound to a node holds of it: `units` of the device `index`."""

    uid: str
    namespace: str
    name: str
    node: str
    index: int
    units: int
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What a pod asks for. It may take the place of those of less `priority`."""

    uid: str
    namespace: str
    name: str
    units: int
    priority: int = 0
    packing: Packing = Packing.BINPACK


@dataclass(frozen=True, slots=True)
class GpuNode:
    """A node whose GPUs are shared: the units that it says it has, and those of each device."""

    name: str
    total: int
    sizes: tuple[int, ...]
    sick: frozenset[int] = frozenset()

    def free(self, claims: Iterable[Claim]) -> list[int]:
        """Units of each device; of one that is sick or over-committed none."""
        left = list(self.sizes)
        for claim in claims:
            if claim.index < len(left):
                left[claim.index] -= claim.units
        return [0 if i in self.sick else max(0, units) for i, units in enumerate(left)]


def choose(node: GpuNode, claims: Iterable[Claim], request: Request) -> int | None:
    """The device for it; None where it fits on none."""
    free = node.free(claims)
    sign = -1 if request.packing is Packing.SPREAD else 1
    fits = [(sign * left, i) for i, left in enumerate(free) if left >= request.units]
    return min(fits)[1] if fits else None


def score(node: GpuNode, claims: Collection[Claim], request: Request) -> int:
    """0 to 10, how well it would lie there: the fuller its device would be the better; for who asks
    to be spread, the emptier."""
    index = choose(node, claims, request) if request.units else None
    if index is None or not node.sizes[index]:
        return 0
    left = (node.free(claims)[index] - request.units) / node.sizes[index]
    return round(10 * (left if request.packing is Packing.SPREAD else 1 - left))


def victims(
    node: GpuNode, claims: Collection[Claim], request: Request, chosen: Collection[str]
) -> list[str] | None:
    """Who must leave so that the request fits: those that the scheduler has `chosen`, by UID, and
    as few more as do, the least urgent first, all on one device. None where that is not enough, so
    that nobody is ended for nothing."""
    stay = [claim for claim in claims if claim.uid not in chosen]
    if choose(node, stay, request) is not None:
        return list(chosen)
    ways = [_clearing(node, stay, request, index) for index in range(len(node.sizes))]
    open_ = [way for way in ways if way is not None]
    if not open_:
        return None
    best = min(open_, key=lambda way: (max(c.priority for c in way), len(way)))
    return [*chosen, *(claim.uid for claim in best)]


def _clearing(
    node: GpuNode, claims: Collection[Claim], request: Request, index: int
) -> list[Claim] | None:
    """Whom to take from one device; None where no taking helps."""
    if index in node.sick:
        return None
    there = [claim for claim in claims if claim.index == index]
    lacks = request.units - (node.sizes[index] - sum(claim.units for claim in there))
    weaker = [claim for claim in there if claim.units and claim.priority < request.priority]
    taken = list[Claim]()
    for claim in sorted(weaker, key=lambda c: (c.priority, -c.units, c.uid)):
        if lacks <= 0:
            break
        taken.append(claim)
        lacks -= claim.units
    if lacks > 0:
        return None
    for claim in sorted(
        taken, key=lambda c: (-c.priority, -c.units)
    ):  # whoever need not leave stays
        if lacks + claim.units <= 0:
            taken.remove(claim)
            lacks += claim.units
    return taken
