"""Who gets how many devices: the sizes, and types of device where a job allows several, that make
the sum of weight · goodput^0.5 largest. Pure.

The square root makes the tenth device of one job worth less than the first of another. Capacity is
divided by prices: at a price for a device of each type every job takes what gains it most, and
prices move until what is taken is what there is. That is the Lagrangian dual: its value bounds from
above what any allotment could reach, so the distance from the best is known without finding it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from singularity.primitives.model import Job
from singularity.primitives.service import Pace

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PRIOR: Final = 0.9  # the exponent of speed by devices for a job of which no two sizes were seen
_BY_LEVEL: Final = 0.84  # of the weight of a job
_SAMPLE: Final = 4000  # of more jobs, a part finds the first prices
_COLD, _AGAIN, _WARM = 60, 6, 3  # corrections of prices
_STEP, _SMALL, _COOLS = 0.5, 0.06, 0.93  # of prices: how far at first, and how much less each time


@dataclass(frozen=True, slots=True)
class Allotment:
    """kind, size  int64[J]: the type of device and how many; -1 and 0 for nothing
    value       what it is worth; `bound` is what no allotment can exceed
    prices      float64[T]: of one device of each type; a good start for the next time
    """

    kind: Ints
    size: Ints
    value: float
    bound: float
    prices: Floats


def exponent(paces: Sequence[Pace]) -> float:
    """How speed grows with devices, as a power: what was seen from one size to the next, together
    with the prior as if that had been seen once."""
    known = sorted(paces, key=lambda pace: pace.devices)
    seen = [
        math.log(more.steps_s / less.steps_s) / math.log(more.devices / less.devices)
        for less, more in pairwise(known)
    ]
    return sum((PRIOR, *(min(1.0, max(0.0, power)) for power in seen))) / (1 + len(seen))


def worth(job: Job, devices: int, level: int) -> float:
    """weight · goodput^0.5 on so many devices, next to one. The weight falls with each level of
    its tier, so that who had least is given more: of jobs that gain alike, a quarter more for each
    level less."""
    return _BY_LEVEL**level * math.sqrt(devices ** exponent(job.paces))


def allot(utility: Floats, sizes: Ints, capacity: Ints, prices: Floats | None = None) -> Allotment:
    """Sizes for J jobs under the capacity of T types.

    utility   float64[T, K, J]: what `sizes[k]` devices of type t are worth; <= 0 for not allowed
    sizes     int64[K], ascending, >= 1
    capacity  int64[T]
    prices    float64[T] of an earlier, similar time
    Jobs that are worth the same for everything are told apart by their order only.
    """
    types, counts, jobs = utility.shape
    rows = utility.reshape(types * counts, jobs)
    times, step = (_AGAIN, _SMALL) if jobs > _SAMPLE else (_COLD, _STEP)
    if prices is None:
        prices = _sampled(rows, sizes, capacity)
    else:
        times, step = _WARM, _SMALL
    prices, bound = _balanced(rows, sizes, (capacity, prices), times, step)
    gain, pick = _best(rows, sizes, prices)
    pick = _taken(pick, gain, sizes, capacity)
    left = _left(pick, sizes, capacity)
    more = True
    while more:
        pick, left, more = _filled(rows, sizes, pick, left)
    held = np.flatnonzero(pick >= 0)
    value = float(rows[pick[held], held].sum())
    kind = np.where(pick >= 0, pick // counts, -1)
    size = np.where(pick >= 0, sizes[pick % counts], 0)
    return Allotment(kind, size, value, max(bound, value), prices)


# -- prices ----------------------------------------------------------------------------------------


def _best(rows: Floats, sizes: Ints, prices: Floats) -> tuple[Floats, Ints]:
    """What each job gains most by at these prices, float64[J], and by which row; -1 for nothing."""
    jobs = rows.shape[1]
    gain, pick = np.zeros(jobs), np.full(jobs, -1, dtype=np.int64)
    for row, cost in enumerate(np.outer(prices, sizes).ravel()):
        more = rows[row] - cost
        better = more > gain
        np.copyto(gain, more, where=better)
        np.copyto(pick, row, where=better)
    return gain, pick


def _used(pick: Ints, sizes: Ints, types: int) -> Ints:
    counts = np.bincount(pick[pick >= 0], minlength=types * len(sizes))
    found: Ints = counts.reshape(types, len(sizes)) @ sizes
    return found


def _left(pick: Ints, sizes: Ints, capacity: Ints) -> Ints:
    found: Ints = capacity - _used(pick, sizes, len(capacity))
    return found


def _sampled(rows: Floats, sizes: Ints, capacity: Ints) -> Floats:
    """Prices that balance a part of the jobs with the same part of the capacity; of few jobs, any
    that are about right. The sample is spread evenly over what jobs are worth."""
    jobs, types = rows.shape[1], len(capacity)
    mean = float(np.maximum(rows, 0.0).max(axis=0, initial=0.0).mean()) if jobs else 1.0
    begin = np.full(types, max(1e-6, mean * jobs / max(1.0, float(capacity.sum()))))
    if jobs <= _SAMPLE:
        return begin
    order = np.argsort(rows.sum(axis=0), kind="stable")
    chosen = order[:: max(1, jobs // (_SAMPLE // 2))]
    part = rows[:, chosen]
    return _balanced(part, sizes, (capacity * len(chosen) / jobs, begin), _COLD, _STEP)[0]


def _balanced(
    rows: Floats, sizes: Ints, market: tuple[Ints | Floats, Floats], times: int, step: float
) -> tuple[Floats, float]:
    """Prices for a `market` of capacity and first prices after so many corrections, the best of
    them by the dual bound, and that bound."""
    capacity, prices = market
    room = np.maximum(capacity, 1e-9)
    best, bound = prices, math.inf
    for _ in range(times):
        gain, pick = _best(rows, sizes, prices)
        dual = float(gain.sum() + (prices * capacity).sum())
        if dual < bound:
            best, bound = prices, dual
        excess = np.clip(_used(pick, sizes, len(capacity)) / room - 1.0, -1.0, 1.0)
        prices = np.maximum(1e-9, prices * np.exp(step * excess))
        step *= _COOLS
    return best, bound


# -- devices ---------------------------------------------------------------------------------------


def _taken(pick: Ints, gain: Floats, sizes: Ints, capacity: Ints) -> Ints:
    """What fits of what was picked, those first that gain most by a device."""
    counts, found = len(sizes), np.full_like(pick, -1)
    wants = np.where(pick >= 0, sizes[pick % counts], 0)
    order = np.argsort(-gain / np.maximum(wants, 1), kind="stable")
    for kind, room in enumerate(capacity.tolist()):
        queue = order[(pick[order] >= 0) & (pick[order] // counts == kind)]
        upto = int(np.searchsorted(np.cumsum(wants[queue]), room, side="right"))
        found[queue[:upto]] = pick[queue[:upto]]
    return found


def _filled(rows: Floats, sizes: Ints, pick: Ints, left: Ints) -> tuple[Ints, Ints, bool]:
    """Give what is left to whoever gains most by a device of it. More was given?"""
    counts, pick, left, more = len(sizes), pick.copy(), left.copy(), False
    for kind in np.flatnonzero(left > 0).tolist():
        mine = np.flatnonzero((pick < 0) | (pick // counts == kind))
        now = pick[mine]
        held = np.where(now >= 0, sizes[now % counts], 0)
        worth_now = np.where(now >= 0, rows[now, mine], 0.0)
        best, to = np.zeros(len(mine)), np.full(len(mine), -1, dtype=np.int64)
        for k, size in enumerate(sizes.tolist()):
            extra = size - held
            gains = (rows[kind * counts + k, mine] - worth_now) / np.maximum(extra, 1)
            better = (extra > 0) & (extra <= left[kind]) & (gains > best)
            np.copyto(best, gains, where=better)
            np.copyto(to, kind * counts + k, where=better)
        for at in np.argsort(-best, kind="stable")[: 4 * int(left[kind]) + 16].tolist():
            if best[at] <= 0.0 or left[kind] <= 0:
                break
            extra_one = int(sizes[to[at] % counts] - held[at])
            if extra_one <= left[kind]:
                pick[mine[at]], more = to[at], True
                left[kind] -= extra_one
    return pick, left, more
