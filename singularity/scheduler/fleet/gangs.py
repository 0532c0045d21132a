"""The resident fleet: free devices by node, and where a gang of whole devices fits best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from . import reference
from .index import Engine, Index, Plain, build, copy, engine
from .layout import Ints, Layout, Level
from .reference import NONE, Picks, Ranks, Want

Rows = tuple[tuple[int, int], ...]  # row and devices, by row
_FREE_MOST: Final = 0x7FFF  # devices of one node that the index can tell apart


@dataclass(frozen=True, slots=True)
class Gang:
    """`units` of `unit` devices each, and a unit never straddles two nodes.

    All are inside one domain of the level `within`, and of `prefer` where one has room. With
    `spread`, no node or rack holds more than it must. Rows in `apart` hold others that it shall not
    meet; `own` are devices that count as free to it, by row.
    """

    units: int
    unit: int = 1
    within: Level = Level.CLUSTER
    prefer: Level | None = None
    spread: Level | None = None
    apart: tuple[int, ...] = ()
    own: Mapping[int, int] = field(default_factory=dict)


class Fleet:
    """Free devices of N nodes, by row. What is found depends on the free counts and on nothing
    else: one that followed every change finds what one finds that was built just now."""

    def __init__(self, layout: Layout, index: Index, by: Engine) -> None:
        self.layout, self.index, self._by = layout, index, by
        self._most: int | None = None
        self._again: dict[tuple[Want, int], tuple[Ranks, int]] = {}

    @classmethod
    def build(cls, layout: Layout, free: Ints, most: int, by: Engine | None = None) -> Fleet:
        """`free` int64[N] by row, of at most `most` devices a node."""
        assert 0 <= most <= _FREE_MOST and (free >= 0).all() and (free <= most).all(), most
        return cls(layout, build(layout, free[layout.order], most), by or engine(len(free)))

    def of(self, free: Ints) -> Fleet:
        """The same nodes with `free` int64[N] devices; for one question, so nothing is compiled."""
        by_position = free[self.layout.order]
        return Fleet(
            self.layout, build(self.layout, by_position, int(free.max(initial=0))), Plain()
        )

    def copy(self) -> Fleet:
        return Fleet(self.layout, copy(self.index), self._by)

    @property
    def free(self) -> Ints:
        """int64[N] by row."""
        found: Ints = self.index.free[self.layout.position]
        return found

    def room(self, row: int) -> int:
        """Free devices of one."""
        return int(self.index.free[self.layout.position[row]])

    @property
    def most(self) -> int:
        """Free devices of the cluster that has most of them."""
        if self._most is None:
            low, high = self.layout.domains(Level.CLUSTER)
            self._most = int(self.index.room[low:high].max(initial=0))
        return self._most

    def put(self, rows: Ints, free: Ints) -> None:
        """Say that `rows` have `free` devices now."""
        self._most = None
        self._again.clear()
        self._by.put_all(self.index, self.layout.position[rows], free)

    def take(self, placement: Iterable[tuple[int, int]]) -> None:
        """Take devices of rows; fewer than none gives them back."""
        self._most = None
        for row, devices in placement:
            position = self.layout.position[row : row + 1]
            self._by.put_all(self.index, position, self.index.free[position] - devices)
            self._unsettle(int(position[0]), devices)

    def find(self, gang: Gang, allowed: Ranks) -> Rows:
        """Where the gang fits best, () if nowhere. Nothing is taken.

        allowed  uint8[D] by domain: 0 for not at all, else how far away it is; 1 is near.
        """
        if not (changed := self._as_seen(gang)):
            return self._rows(self._find(gang, allowed))
        rows = np.array(sorted(changed), dtype=np.int64)
        before = self.index.free[self.layout.position[rows]]
        self.put(rows, np.array([changed[int(r)] for r in rows], dtype=np.int64))
        try:
            return self._rows(self._find(gang, allowed))
        finally:
            self.put(rows, before)

    def _rows(self, picks: Picks) -> Rows:
        positions, devices = picks
        found = zip(self.layout.order[positions].tolist(), devices.tolist(), strict=True)
        return tuple(sorted(found))

    def _as_seen(self, gang: Gang) -> dict[int, int]:
        """Free devices of the rows that look different to the gang."""
        most = self.index.tally.shape[1] - 1
        seen = {}
        for row, held in gang.own.items():
            seen[row] = min(int(self.index.free[self.layout.position[row]]) + held, most)
        return seen | dict.fromkeys(gang.apart, 0)

    def _find(self, gang: Gang, allowed: Ranks) -> Picks:
        if gang.spread is not None:
            return self._spread(gang, gang.spread, allowed)
        for level in dict.fromkeys((gang.prefer, gang.within)):
            if level is None or level > gang.within:
                continue
            low, high = self.layout.domains(level)
            want = Want(gang.units, gang.unit, level is Level.NODE, low, high)
            if (picks := self._same_again(want, allowed)) is not None:
                return picks
            picks = self._by.find(self.index, allowed, want)
            if len(picks[0]) == 1 and gang.unit == 1:
                self._again[want, id(allowed)] = allowed, int(picks[0][0])
            if len(picks[0]):
                return picks
        return NONE

    # Where the last gang of one node went, the next that is the same goes while it fits: that node
    # was the fullest that held it, in the domain with least left over, and is so all the more now;
    # unless something was given back, or taken from another node that it might use.

    def _same_again(self, want: Want, allowed: Ranks) -> Picks | None:
        known = self._again.get((want, id(allowed)))
        if known is None or known[0] is not allowed or self.index.free[known[1]] < want.units:
            return None
        one, devices = [known[1]], [want.units]
        return np.array(one, dtype=np.int64), np.array(devices, dtype=np.int64)

    def _unsettle(self, position: int, devices: int) -> None:
        """So many were taken there."""
        if devices < 0:
            self._again.clear()
            return
        others = [(key, may) for key, (may, at) in self._again.items() if at != position]
        if others:
            domains = self.index.of[:, position].tolist()
            for key, may in others:
                if any(may[domain] for domain in domains):
                    del self._again[key]

    def _spread(self, gang: Gang, over: Level, allowed: Ranks) -> Picks:
        """As evenly as can be over the nodes or racks of one domain: the nearest, then the most
        even, then the one with least free."""
        best: tuple[tuple[int, int, int, int], Picks] | None = None
        low, high = self.layout.domains(gang.within)
        for domain in range(low, high):
            if not allowed[domain]:
                continue
            start, end = int(self.index.start[domain]), int(self.index.end[domain])
            blocks = self._blocks(start, end, over)
            room = np.add.reduceat(self.index.free[start:end] // gang.unit, blocks[:-1] - start)
            most = self.share_most(room, gang.units)
            key = (int(allowed[domain]), most, int(self.index.room[domain]), domain)
            if most and (best is None or key < best[0]):
                best = key, self._share(blocks, self.shares(room, gang.units, most), gang.unit)
        return best[1] if best else NONE

    def _blocks(self, start: int, end: int, over: Level) -> Ints:
        """Where the nodes or racks between two positions begin, and `end`."""
        if over is Level.NODE:
            return np.arange(start, end + 1)
        of = self.index.of[over, start:end]
        return np.append(np.flatnonzero(np.diff(of, prepend=-1)) + start, end)

    def _share(self, blocks: Ints, shares: Ints, unit: int) -> Picks:
        found = []
        for block in np.flatnonzero(shares):
            start, end = int(blocks[block]), int(blocks[block + 1])
            want = Want(int(shares[block]), unit, False, 0, 0)
            (inside, devices), _ = reference.fit(self.index.free[start:end], want)
            found.append((inside + start, devices))
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

    @staticmethod
    def share_most(room: Ints, units: int) -> int:
        """The least q such that blocks with `room` hold `units` with at most q each; 0 if none."""
        if int(room.sum()) < units:
            return 0
        low, high = 1, units
        while low < high:
            middle = (low + high) // 2
            enough = int(np.minimum(room, middle).sum()) >= units
            low, high = (low, middle) if enough else (middle + 1, high)
        return low

    @staticmethod
    def shares(room: Ints, units: int, most: int) -> Ints:
        """Units of each block, at most `most`; the last of the fullest give way."""
        found = np.minimum(room, most)
        full = np.flatnonzero(found == most)
        found[full[len(full) - (int(found.sum()) - units) :]] -= 1
        return found
