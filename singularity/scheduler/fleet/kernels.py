"""reference.py on the index, compiled by numba. Imported only by index.engine().

O(domains) for a decision, O(1) for a change: which nodes are at a level is a bitmap over positions,
with a second bitmap of its words that are not empty, so that the first one in a range is found in
a few steps, and is the same one whatever was done before.

All integers are int64 or uint64; numba makes a float of a mixture.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from .index import Index
from .layout import Ints
from .reference import NONE, Picks, Ranks, Want

Words = npt.NDArray[np.uint64]
Key = tuple[int, int, int, int]

_ONE, _ALL = np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
_MAGIC, _HIGH = np.uint64(0x03F79D71B4CB0A89), np.uint64(58)
_LOWEST = np.zeros(64, dtype=np.int64)  # de Bruijn: which bit is the only one set
for _bit in range(64):
    _LOWEST[((int(_MAGIC) << _bit) & int(_ALL)) >> 58] = _bit
_NEVER = (1 << 62, 1 << 62, 1 << 62, 1 << 62)


@njit(cache=True)
def _lowest(word: np.uint64) -> int:
    """The number of the lowest bit that is set; `word` is not 0."""
    alone = word & (~word + _ONE)
    return int(_LOWEST[np.int64((alone * _MAGIC) >> _HIGH)])


@njit(cache=True)
def _first(words: Words, tops: Words, level: int, at: int) -> int:
    """The first position from `at` on whose bit of `level` is set; there is one."""
    word = at >> 6
    found = words[level, word] & (_ALL << np.uint64(at & 63))
    if found != 0:
        return (word << 6) + _lowest(found)
    word += 1
    top = word >> 6
    found = tops[level, top] & (_ALL << np.uint64(word & 63))
    while found == 0:
        top += 1
        found = tops[level, top]
    word = (top << 6) + _lowest(found)
    return (word << 6) + _lowest(words[level, word])


@njit(cache=True)
def put(index: Index, position: int, free: int) -> None:
    """Say that the node at `position` has `free` devices."""
    was = index.free[position]
    if was == free:
        return
    word, bit = position >> 6, np.uint64(position & 63)
    top, mark = word >> 6, np.uint64(word & 63)
    index.words[was, word] &= ~(_ONE << bit)
    if index.words[was, word] == 0:
        index.tops[was, top] &= ~(_ONE << mark)
    index.words[free, word] |= _ONE << bit
    index.tops[free, top] |= _ONE << mark
    index.free[position] = free
    for level in range(3):
        domain = index.of[level, position]
        index.tally[domain, was] -= 1
        index.tally[domain, free] += 1
        index.room[domain] += free - was


@njit(cache=True)
def put_all(index: Index, positions: Ints, free: Ints) -> None:
    for i in range(len(positions)):
        put(index, positions[i], free[i])


@njit(cache=True)
def _measure(tally: Ints, domain: int, units: int, unit: int, single: bool) -> tuple[int, int]:
    """Nodes that the gang needs in a domain with `tally[domain, f]` nodes of f free devices, and
    what is left over on the last; (-1, 0) if it does not fit. As reference.fit."""
    nodes, left, levels = 0, units, tally.shape[1]
    for rooms in range((levels - 1) // unit, 0, -1):
        if single and rooms < units:
            return -1, 0
        low, have = rooms * unit, 0
        for level in range(low, min(low + unit, levels)):
            have += tally[domain, level]
        if have == 0:
            continue
        whole = min(have, left // rooms)
        nodes += whole
        left -= whole * rooms
        if left == 0:
            return nodes, 0
        if whole < have:
            return nodes + 1, _left_over(tally, domain, left * unit, low, whole)
    return -1, 0


@njit(cache=True)
def _left_over(tally: Ints, domain: int, least: int, low: int, whole: int) -> int:
    """What is left over on the best node for `least` more, when `whole` nodes of the levels from
    `low` on are taken already and one there is not."""
    for level in range(least, low):
        if tally[domain, level] > 0:
            return level - least
    level = low
    while whole >= tally[domain, level]:
        whole -= tally[domain, level]
        level += 1
    return level - least


@njit(cache=True)
def _key(tally: Ints, room: Ints, rank: int, domain: int, want: Want) -> Key:
    """What makes a domain better: the lesser key. _NEVER if it does not hold the gang."""
    if rank == 0 or room[domain] < want.units * want.unit:
        return _NEVER
    nodes, waste = _measure(tally, domain, want.units, want.unit, want.single)
    if nodes < 0:
        return _NEVER
    return rank, nodes, waste, int(room[domain])


@njit(cache=True)
def _choose(tally: Ints, room: Ints, allowed: Ranks, want: Want) -> tuple[int, Key]:
    """The best domain, or -1; and a key that no other domain is better than.

    Most domains need no look at their nodes: their key cannot be less than the fewest nodes that a
    gang of this size could do with, nothing left over, and the room they have.
    """
    most = (tally.shape[1] - 1) // want.unit
    fewest = -(-want.units // most) if most > 0 else 1
    best, key, after = -1, _NEVER, _NEVER
    for domain in range(want.low, want.high):
        rank = int(allowed[domain])
        if rank == 0 or room[domain] < want.units * want.unit:
            continue
        found = rank, fewest, 0, int(room[domain])
        if found < key:
            found = _key(tally, room, rank, domain, want)
        if found < key:
            best, key, after = domain, found, key
        elif found < after:
            after = found
    return best, after


@njit(cache=True)
def _collect(index: Index, domain: int, want: Want, out: Picks, at: int) -> int:
    """Write the picks inside `domain`, which holds the gang, from `at` on, in the order in which
    they are taken; where they end. Nothing is changed."""
    start, unit, left = index.start[domain], want.unit, want.units
    levels = index.tally.shape[1]
    for rooms in range((levels - 1) // unit, 0, -1):
        for level in range(rooms * unit, min(rooms * unit + unit, levels)):
            have, after = index.tally[domain, level], start
            while have > 0:
                if rooms > left:
                    out[0][at] = _last(index, domain, (left * unit, rooms * unit), (level, after))
                    out[1][at] = left * unit
                    return at + 1
                position = _first(index.words, index.tops, level, after)
                out[0][at], out[1][at] = position, rooms * unit
                at, left, after, have = at + 1, left - rooms, position + 1, have - 1
                if left == 0:
                    return at
    return -1


@njit(cache=True)
def _last(index: Index, domain: int, levels: tuple[int, int], beyond: tuple[int, int]) -> int:
    """Where the last devices of a gang go: on the first node of the lowest of `levels`, from and up
    to, none of which was touched; else the node `beyond`: of this level, from this position on."""
    for level in range(levels[0], levels[1]):
        if index.tally[domain, level] > 0:
            return int(_first(index.words, index.tops, level, index.start[domain]))
    return int(_first(index.words, index.tops, beyond[0], beyond[1]))


@njit(cache=True)
def _find(index: Index, allowed: Ranks, want: Want, out: Picks) -> int:
    domain, _ = _choose(index.tally, index.room, allowed, want)
    if domain < 0:
        return 0
    return int(_collect(index, domain, want, out, 0))


@njit(cache=True)
def _place_all(
    index: Index, allowed: Ranks, units: Ints, within: tuple[bool, int, int], out: Picks
) -> Ints:
    """While gangs of one size follow each other, a domain stays the best until its key is no longer
    less than that of the next best, for only its own has changed."""
    ends, at = np.zeros(len(units) + 1, dtype=np.int64), 0
    domain, after, size = -1, _NEVER, -1
    for gang in range(len(units)):
        want = Want(units[gang], 1, within[0], within[1], within[2])
        if units[gang] != size or domain < 0:
            keep = units[gang] == size  # it fitted nowhere, and nothing has changed since
        else:
            rank = int(allowed[domain])
            keep = _key(index.tally, index.room, rank, domain, want) < after
        if not keep:
            domain, after = _choose(index.tally, index.room, allowed, want)
            size = units[gang]
        if domain >= 0:
            end = _collect(index, domain, want, out, at)
            for pick in range(at, end):
                put(index, out[0][pick], index.free[out[0][pick]] - out[1][pick])
            at = end
        ends[gang + 1] = at
    return ends


def place_all(index: Index, allowed: Ranks, units: Ints, want: Want) -> tuple[Ints, Picks]:
    """As Engine.place_all."""
    most = int(min(units.sum(), index.free.sum()))
    out = np.empty(most + 1, dtype=np.int64), np.empty(most + 1, dtype=np.int64)
    ends = _place_all(index, allowed, units, want[2:], out)
    return ends, (out[0][: ends[-1]], out[1][: ends[-1]])


@njit(cache=True)
def churn(index: Index, allowed: Ranks, want: Want, held: Picks, out: Picks) -> int:
    """Give back what one gang holds and place another: what a change costs at least. How many
    picks; they are taken."""
    for i in range(len(held[0])):
        put(index, held[0][i], index.free[held[0][i]] + held[1][i])
    domain, _ = _choose(index.tally, index.room, allowed, want)
    if domain < 0:
        return 0
    picked = _collect(index, domain, want, out, 0)
    for i in range(picked):
        put(index, out[0][i], index.free[out[0][i]] - out[1][i])
    return int(picked)


def find(index: Index, allowed: Ranks, want: Want) -> Picks:
    """reference.find on the index."""
    most = min(want.units, len(index.free))
    out, took = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    picked = _find(index, allowed, want, (out, took))
    if picked == 0:
        return NONE
    order = np.argsort(out[:picked])
    return out[:picked][order], took[:picked][order]
