"""Free devices per domain, and which nodes have how many, kept up to date one change at a time."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from . import reference
from .layout import Codes, Ints, Layout
from .reference import Picks, Ranks, Want

Words = npt.NDArray[np.uint64]
Tally = tuple[list[int], list[int]]  # how many free devices nodes have, rising; and how many nodes

_NONE: Final = np.iinfo(np.int64).max  # more than any node has free
COMPILED_FROM: Final = 4096  # nodes; with fewer, NumPy is done before numba is imported


class Index(NamedTuple):
    """A function of Layout and `free` alone, whatever the order in which changes came.

    free         int64[N]     devices by position
    of           int32[3, N]  as in Layout, and so are start and end
    tally        int64[D, L]  nodes of the domain with so many free devices
    room         int64[D]     free devices of the domain
    words        uint64[L, W] a bit per position: does the node have so many free devices?
    tops         uint64[L, T] a bit per word: is one set in it?
    """

    free: Ints
    of: Codes
    start: Ints
    end: Ints
    tally: Ints
    room: Ints
    words: Words
    tops: Words


class Engine(Protocol):
    """What looks at the index and changes it. Two of them, and they agree."""

    def find(self, index: Index, allowed: Ranks, want: Want) -> Picks: ...

    def put_all(self, index: Index, positions: Ints, free: Ints) -> None: ...

    def place_all(
        self, index: Index, allowed: Ranks, units: Ints, want: Want
    ) -> tuple[Ints, Picks]: ...


class Plain:
    """NumPy only. Looks at every domain, and at the nodes of the one that it takes; keeps the index
    all the same."""

    def find(self, index: Index, allowed: Ranks, want: Want) -> Picks:
        best: tuple[int, int, int, int, int] | None = None
        ranks, rooms = allowed[want.low : want.high], index.room[want.low : want.high]
        may = np.flatnonzero((ranks > 0) & (rooms >= want.units * want.unit))
        tallies = _tallies(index.tally[want.low + may])
        kept = zip(may.tolist(), ranks[may].tolist(), rooms[may].tolist(), tallies, strict=True)
        for at, rank, room, tally in kept:
            if best is not None and rank > best[0]:
                continue
            nodes, waste = measure(tally, want)
            key = (rank, nodes, waste, room, want.low + at)
            if nodes and (best is None or key < best):
                best = key
        if best is None:
            return reference.NONE
        start, end = int(index.start[best[-1]]), int(index.end[best[-1]])
        inside = index.free[start:end]
        if best[1] == want.unit == 1:  # most: on the fullest node that holds it
            at = start + int(np.where(inside >= want.units, inside, _NONE).argmin())
            return np.array([at], dtype=np.int64), np.array([want.units], dtype=np.int64)
        picks, _ = reference.fit(inside, want)
        return picks[0] + start, picks[1]

    def put_all(self, index: Index, positions: Ints, free: Ints) -> None:
        for position, now in zip(positions.tolist(), free.tolist(), strict=True):
            was, word, bit = int(index.free[position]), position >> 6, 1 << (position & 63)
            index.free[position] = now
            _write(index, was, word, int(index.words[was, word]) & ~bit)
            _write(index, now, word, int(index.words[now, word]) | bit)
            for domain in index.of[:, position].tolist():  # three: too few to do at once
                index.tally[domain, was] -= 1
                index.tally[domain, now] += 1
                index.room[domain] += now - was

    def place_all(
        self, index: Index, allowed: Ranks, units: Ints, want: Want
    ) -> tuple[Ints, Picks]:
        """Place and take gangs of `units` int64[J] single devices, in this order; of `want` only
        the domains count. Returns int64[J + 1] where the picks of each end, and all picks."""
        ends, found = [0], [reference.NONE]
        for size in units.tolist():
            positions, devices = self.find(index, allowed, want._replace(units=size, unit=1))
            self.put_all(index, positions, index.free[positions] - devices)
            found.append((positions, devices))
            ends.append(ends[-1] + len(positions))
        picks = np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])
        return np.array(ends, dtype=np.int64), picks


def _tallies(tally: Ints) -> list[Tally]:
    """Of int64[K, L], each row."""
    rows, levels = tally.nonzero()
    ends = rows.searchsorted(np.arange(len(tally) + 1)).tolist()
    pairs = levels.tolist(), tally[rows, levels].tolist()
    return [(pairs[0][start:end], pairs[1][start:end]) for start, end in pairwise(ends)]


def measure(tally: Tally, want: Want) -> tuple[int, int]:
    """Nodes that the gang takes in a domain, and what is left over on the last of them; (0, 0) if
    it does not fit. As reference.fit."""
    levels, counts = tally
    nodes, left, unit, at = 0, want.units, want.unit, len(levels)
    while at > 0 and (rooms := levels[at - 1] // unit) > 0:
        if want.single and rooms < left:
            return 0, 0
        have = 0
        while at > 0 and levels[at - 1] // unit == rooms:
            at -= 1
            have += counts[at]
        whole = min(have, left // rooms)
        nodes, left = nodes + whole, left - whole * rooms
        if left == 0:
            return nodes, 0
        if whole < have:  # the rest goes where least is left over, whole nodes apart
            tight = bisect_left(levels, left * unit, 0, at)
            if tight == at:
                while whole >= counts[tight]:
                    whole, tight = whole - counts[tight], tight + 1
            return nodes + 1, levels[tight] - left * unit
    return 0, 0


def _write(index: Index, level: int, word: int, bits: int) -> None:
    top, mark = word >> 6, 1 << (word & 63)
    index.words[level, word] = bits
    tops = int(index.tops[level, top])
    index.tops[level, top] = tops | mark if bits else tops & ~mark


def build(layout: Layout, free: Ints, most: int) -> Index:
    """The index of `free` int64[N] devices by position, each from 0 to `most`."""
    domains, levels, nodes = len(layout.start), most + 1, len(free)
    flat = np.zeros(domains * levels, dtype=np.int64)
    for of in layout.of:
        flat += np.bincount(of * levels + free, minlength=domains * levels)
    tally = flat.reshape(domains, levels)
    at_level = free[None, :] == np.arange(levels)[:, None]
    words = _bits(at_level, nodes)
    return Index(
        free=free.astype(np.int64),
        of=layout.of,
        start=layout.start,
        end=layout.end,
        tally=tally,
        room=tally @ np.arange(levels, dtype=np.int64),
        words=words,
        tops=_bits(words != 0, words.shape[1]),
    )


def _bits(flags: npt.NDArray[np.bool_], size: int) -> Words:
    """bool[L, size] as uint64[L, ceil(size / 64)], the lowest bit first."""
    width = max(1, -(-size // 64))
    padded = np.zeros((flags.shape[0], width * 64), dtype=np.bool_)
    padded[:, :size] = flags
    found: Words = np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64)
    return found


def copy(index: Index) -> Index:
    """One that can be changed apart."""
    parts = ("free", "tally", "room", "words", "tops")
    return index._replace(**{name: getattr(index, name).copy() for name in parts})


def engine(nodes: int) -> Engine:
    """Compiled for many nodes, if numba is there; else NumPy."""
    return (compiled() or Plain()) if nodes >= COMPILED_FROM else Plain()


@cache
def compiled() -> Engine | None:
    """The kernels; None where numba is not installed, or finds no place to keep what it compiles.
    The import takes a second."""
    try:
        found: object = import_module("singularity.scheduler.fleet.kernels")
    except (ModuleNotFoundError, RuntimeError):
        return None
    return found  # type: ignore[return-value]
