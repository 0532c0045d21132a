"""The rules of placement, from free counts alone. Slow and plain: what is compiled must agree.

A gang takes `units` of `unit` devices each, and a unit lies on one node. Inside a domain it takes
the fewest nodes: the fullest whole, then for the rest the node on which the least is left over.
Of nodes that are alike the first. Among domains it takes the nearest, then where it needs the
fewest nodes, then where the least is left over on its last node, then the one with least free.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .layout import Ints

Ranks = npt.NDArray[np.uint8]  # [D] 0: not allowed; else how far away, 1 is near
Picks = tuple[Ints, Ints]  # positions, and devices taken there
NONE: Final[Picks] = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


class Want(NamedTuple):
    """`units` of `unit` devices, on one node if `single`; in a domain from `low` up to `high`."""

    units: int
    unit: int
    single: bool
    low: int
    high: int


def find(free: Ints, start: Ints, end: Ints, allowed: Ranks, want: Want) -> Picks:
    """The best positions for `want`, by position; none if nothing holds it.

    free        int64[N] by position
    start, end  int64[D] the positions of each domain
    """
    best: tuple[tuple[int, int, int, int, int], Picks] | None = None
    for domain in range(want.low, want.high):
        if not allowed[domain]:
            continue
        at = int(start[domain])
        inside = free[at : int(end[domain])]
        picks, waste = fit(inside, want)
        if len(picks[0]):
            key = (int(allowed[domain]), len(picks[0]), waste, int(inside.sum()), domain)
            if best is None or key < best[0]:
                best = key, (picks[0] + at, picks[1])
    return best[1] if best else NONE


def fit(free: Ints, want: Want) -> tuple[Picks, int]:
    """The gang on some of the nodes with `free` devices each: indices and devices; and what is left
    over on the last node it takes. (NONE, 0) if it does not fit."""
    left, taken = want.units, dict[int, int]()
    rooms = free // want.unit
    if int(rooms.max(initial=0) if want.single else rooms.sum()) < left:
        return NONE, 0
    waste = 0
    for index in np.lexsort((free, -rooms)):  # stable: of those alike the first
        if left == 0 or rooms[index] > left:
            break
        taken[int(index)] = int(rooms[index])
        left -= int(rooms[index])
    if left:
        spare = [i for i in np.flatnonzero(rooms >= left) if int(i) not in taken]
        tail = min(spare, key=lambda i: (int(free[i]), int(i)))
        taken[int(tail)] = left
        waste = int(free[tail]) - left * want.unit
    chosen = np.array(sorted(taken), dtype=np.int64)
    devices = np.array([taken[int(i)] * want.unit for i in chosen], dtype=np.int64)
    return (chosen, devices), waste
