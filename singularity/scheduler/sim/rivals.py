"""Other policies, for comparison: one pool of devices with no nodes, whole gangs, no letters.

Each is what the literature compares with, in its plainest form; two of them know how long every
job will take. They are pure functions of a picture of the living jobs; the pool goes from event to
event. A job that is taken off its devices pays `restart_s` when it is back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .outcomes import Outcome, Run
from .traces import Trace

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
_NEVER: Final = np.inf
_LEAVES: Final = 0.25  # an elastic job keeps what it has until it would get so much more or less


@dataclass(frozen=True, slots=True)
class Living:
    """The jobs that are there, in the order in which they came; one entry each.

    came_s, work_s, left_s  when it came, how long it takes at full size, how much of it is left
    wants, holds            devices
    served_s, began_s       device-seconds it held so far; when it first ran, or came
    tier                    0 is the most urgent
    """

    capacity: int
    came_s: Floats
    work_s: Floats
    left_s: Floats
    wants: Floats
    holds: Floats
    served_s: Floats
    began_s: Floats
    tier: Floats


@dataclass(frozen=True, slots=True)
class Rival:
    """`allot` says how many devices each of the living holds from now on. It is asked at every
    event, and every `tick_s` if that is finite."""

    name: str
    allot: Callable[[Living], Floats]
    tick_s: float = _NEVER
    free_restart: bool = False


def fifo(living: Living) -> Floats:
    """First come, first served; smaller ones fill what the first cannot use. Nobody is stopped."""
    return _fill(living, living.came_s)


def sjf(living: Living) -> Floats:
    """The shortest next, by an oracle. Nobody is stopped."""
    return _fill(living, living.work_s)


def srtf(living: Living) -> Floats:
    """Those with the least left, by an oracle."""
    return _first(living, living.left_s)


def two_queue_las(living: Living) -> Floats:
    """Tiresias: first those that were served less than 16 device-hours; in the order of their first
    start."""
    behind = np.where(living.served_s < 16 * 3600.0, 0.0, 1e12)
    return _first(living, behind + living.began_s)


def tiers_and_levels(living: Living) -> Floats:
    """Our own queue in its plainest form: by tier, then by levels of what a job had."""
    had_h = np.maximum(living.served_s / 3600.0, 1e-9)
    level = np.maximum(0.0, 1.0 + np.floor(np.log(had_h) / np.log(4.0)))
    return _first(living, 1e14 * living.tier + 1e11 * level + living.came_s)


def max_min(living: Living) -> Floats:
    """All the same number of devices, parts of one too, and nobody more than it wants."""
    if living.wants.sum() <= living.capacity:
        return living.wants
    share = np.minimum(living.wants, _level(living.wants, living.capacity))
    near = np.abs(share - living.holds) < _LEAVES * living.holds
    keeps = (living.holds > 0) & near & (share >= living.holds)
    return np.where(keeps, living.holds, share)


RIVALS: Final[Mapping[str, Rival]] = {
    "fifo": Rival("FIFO + backfill", fifo),
    "sjf": Rival("SJF, oracle", sjf),
    "srtf": Rival("SRTF, oracle", srtf),
    "las": Rival("two-queue LAS", two_queue_las, tick_s=300.0),
    "levels": Rival("tiers and levels", tiers_and_levels, tick_s=300.0),
    "maxmin": Rival("elastic max-min", max_min, free_restart=True),
}


def compete(rival: Rival, trace: Trace, devices: int, restart_s: float = 60.0) -> Run:
    """The trace under `rival` on a pool of `devices`."""
    return _Pool(rival, trace, devices, restart_s).run()


def _fill(living: Living, order: Floats) -> Floats:
    """Those that run go on; the others start by `order` where they fit."""
    found = living.holds.copy()
    waiting = np.flatnonzero(living.holds == 0)
    free = living.capacity - found.sum()
    _take(found, living.wants, waiting[np.argsort(order[waiting], kind="stable")], free)
    return found


def _first(living: Living, order: Floats) -> Floats:
    """Only the first by `order` run; whoever fits behind them too."""
    found = np.zeros_like(living.holds)
    _take(found, living.wants, np.argsort(order, kind="stable"), living.capacity)
    return found


def _take(found: Floats, wants: Floats, queue: Rows, free: float) -> None:
    """Give devices along the queue, past whoever does not fit."""
    while len(queue) and free > 0:
        queue = queue[wants[queue] <= free]
        upto = int(np.searchsorted(np.cumsum(wants[queue]), free, side="right"))
        chosen, queue = queue[:upto], queue[upto:]
        found[chosen] = wants[chosen]
        free -= float(wants[chosen].sum())


def _level(wants: Floats, capacity: float) -> float:
    """The share s at which min(wants, s) sum up to `capacity`, which is less than all want."""
    ordered = np.sort(wants)
    below = np.concatenate([[0.0], np.cumsum(ordered)[:-1]])
    shares = (capacity - below) / np.arange(len(ordered), 0, -1)
    return float(shares[np.argmax(shares <= ordered)])


class _Pool:
    def __init__(self, rival: Rival, trace: Trace, devices: int, restart_s: float) -> None:
        self._rival, self._restart_s = rival, 0.0 if rival.free_restart else restart_s
        jobs = trace.jobs
        self._run = Run(rival.name, devices, [Outcome(job) for job in jobs])
        self._came_s = np.array([float(job.at_s) for job in jobs])
        self._work_s = np.array([float(job.work_s) for job in jobs])
        self._wants = np.array([float(job.devices) for job in jobs])
        self._curved = np.array([bool(job.curve) for job in jobs])
        self._tier = np.array([float(job.tier) for job in jobs])
        self._left_s, self._holds = self._work_s.copy(), np.zeros(len(jobs))
        self._served_s, self._owes_s = np.zeros(len(jobs)), np.zeros(len(jobs))
        self._began_s, self._ended_s = np.full(len(jobs), np.nan), np.full(len(jobs), np.nan)
        self._preempted = np.zeros(len(jobs), dtype=np.int64)

    def run(self) -> Run:
        here, came, now_s = np.empty(0, dtype=np.int64), 0, 0.0
        while came < len(self._came_s) or len(here):
            next_s = self._came_s[came] if came < len(self._came_s) else _NEVER
            here, now_s = self._pass(here, now_s, next_s)
            upto = int(np.searchsorted(self._came_s, now_s, side="right"))
            here = np.concatenate([here, np.arange(came, upto)])
            came = upto
            self._allot(here, now_s)
        return self._told()

    def _pass(self, here: Rows, now_s: float, next_s: float) -> tuple[Rows, float]:
        """To the next event: an end, `next_s` or a tick. Those that have not ended, and when."""
        runs = here[self._holds[here] > 0]
        speed = self._speed(runs)
        ends_s = now_s + self._owes_s[runs] + self._left_s[runs] / speed
        until_s = min(next_s, float(ends_s.min(initial=_NEVER)))
        if len(here):
            until_s = min(until_s, now_s + self._rival.tick_s)
        seconds = until_s - now_s
        paid_s = np.minimum(self._owes_s[runs], seconds)
        self._owes_s[runs] -= paid_s
        self._left_s[runs] -= (seconds - paid_s) * speed
        self._served_s[runs] += seconds * self._holds[runs]
        over = runs[(self._left_s[runs] <= 1e-6) & (self._owes_s[runs] <= 1e-9)]
        self._holds[over], self._ended_s[over] = 0.0, until_s
        return here[np.isnan(self._ended_s[here])], until_s

    def _speed(self, rows: Rows) -> Floats:
        """Of their full ones; on a part of a device as much less."""
        found: Floats = self._holds[rows] / self._wants[rows]
        for at in np.flatnonzero(self._curved[rows]).tolist():
            job, held = self._run.outcomes[rows[at]].job, float(self._holds[rows[at]])
            found[at] = job.speed(max(1.0, held)) * min(1.0, held)
        return found

    def _allot(self, here: Rows, now_s: float) -> None:
        holds, began_s = self._holds[here], self._began_s[here]
        living = Living(
            capacity=self._run.devices,
            came_s=self._came_s[here],
            work_s=self._work_s[here],
            left_s=self._left_s[here],
            wants=self._wants[here],
            holds=holds,
            served_s=self._served_s[here],
            began_s=np.where(np.isnan(began_s), self._came_s[here], began_s),
            tier=self._tier[here],
        )
        given = self._rival.allot(living)
        starts = (holds == 0) & (given > 0)
        again = starts & ~np.isnan(began_s)
        self._owes_s[here[again]] = self._restart_s
        self._began_s[here[starts & np.isnan(began_s)]] = now_s
        self._preempted[here[given < holds]] += 1
        self._holds[here] = given
        self._run.rounds += 1
        self._run.noted(now_s, float(given.sum()), float(living.wants.sum()))

    def _told(self) -> Run:
        for row, outcome in enumerate(self._run.outcomes):
            outcome.began_s, outcome.ended_s = float(self._began_s[row]), float(self._ended_s[row])
            outcome.preemptions = int(self._preempted[row])
        self._run.digest = hashlib.sha256(np.round(self._ended_s, 6).tobytes()).hexdigest()[:16]
        return self._run
