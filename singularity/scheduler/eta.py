"""When a job that waits will start: many quick replays of what runs, ends and queues before it.

In each, every job lasts for a time that is drawn from the durations of its like, given how long it
has run: the same job and replay always give the same draw. Devices are counted by cluster; who
comes first, whom nobody passes and what quotas admit is as in decide().
"""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from singularity.primitives.model import ACTIVE, Job, JobId, JobState, Tier

from .durations import Durations, Floats, ran_s
from .placement import feasible, sizes
from .policy import Policy
from .queueing import not_yet, queue
from .quota import Quota
from .snapshot import Ints, Snapshot

_REPLAYS: Final = 40
_QUEUE_MOST: Final = 100  # behind more than that nobody is told a time
_HORIZON_S: Final = 90 * 86400.0


@dataclass(frozen=True, slots=True)
class Eta:
    """Seconds until it starts, so in half of the replays and in nine of ten; None is never. `after`
    is the job whose end lets it start, most often, and `after_s` when that is expected."""

    p50_s: float | None
    p90_s: float | None
    after: JobId | None = None
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One that queues: `need` devices, in areas that it may use, and what it lasts by replay."""

    job: Job
    need: int
    where: tuple[int, ...]
    lasts_s: Floats


def forecast(
    snapshot: Snapshot, known: Durations, policy: Policy, of: JobId | None = None
) -> dict[JobId, Eta]:
    """For each of the first jobs in the queue that may be placed at all; or for one of them."""
    scene = _Scene.of(snapshot, known, policy)
    starts: dict[JobId, list[tuple[float, JobId | None]]] = {w.job.id: [] for w in scene.waiting}
    if of is not None and of not in starts:
        return {}
    for number in range(_REPLAYS):
        for job, found in _Replay(scene, number).run(of).items():
            starts[job].append(found)
    return {job: _eta(found) for job, found in starts.items() if of in (None, job)}


def _eta(found: Sequence[tuple[float, JobId | None]]) -> Eta:
    times = sorted(at_s for at_s, _ in found)
    half, most = _REPLAYS // 2, -(-_REPLAYS * 9 // 10)
    p50_s = times[half - 1] if len(times) >= half else None
    p90_s = times[most - 1] if len(times) >= most else None
    named = Counter(after for _, after in found if after is not None)
    if not named:
        return Eta(p50_s, p90_s)
    after = min(named, key=lambda job: (-named[job], job))
    when = sorted(at_s for at_s, job in found if job == after)
    return Eta(p50_s, p90_s, after, when[len(when) // 2])


@dataclass(frozen=True, slots=True)
class _Scene:
    """What all replays begin with. `free` devices by area, `ends` of those that hold some."""

    waiting: tuple[_Waiting, ...]
    by_area: Mapping[int, Sequence[_Waiting]]
    ends: tuple[tuple[Job, int, Floats], ...]
    free: tuple[int, ...]
    quota: Quota
    leave_s: float

    @classmethod
    def of(cls, snapshot: Snapshot, known: Durations, policy: Policy) -> _Scene:
        kinds = max(1, len(snapshot.device_names))
        areas = snapshot.cluster.astype(np.int64) * kinds + snapshot.device
        room = np.where(snapshot.ready, snapshot.free, 0)
        free = np.bincount(areas, room, minlength=kinds * len(snapshot.cluster_names))
        waiting = tuple(_queue(snapshot, known, areas, policy))
        by_area: dict[int, list[_Waiting]] = {}
        for each in waiting:
            for area in each.where:
                by_area.setdefault(area, []).append(each)
        return cls(
            waiting=waiting,
            by_area=by_area,
            ends=tuple(_ends(snapshot, known, areas)),
            free=tuple(int(n) for n in free),
            quota=Quota(snapshot.projects, snapshot.jobs),
            leave_s=policy.move_cost_s,
        )


def _queue(snapshot: Snapshot, known: Durations, areas: Ints, policy: Policy) -> Iterator[_Waiting]:
    may_try = (job for job in queue(snapshot, policy) if not not_yet(snapshot, job))
    for job in islice(may_try, _QUEUE_MOST):
        may = feasible(snapshot, job) & snapshot.ready
        where = tuple(int(a) for a in np.unique(areas[may]))
        ran = ran_s(job, snapshot.now_s)
        lasts_s = known.lasts(job, ran, draws(job)) - ran
        yield _Waiting(job, min(sizes(job), default=job.devices), where, lasts_s)


def _ends(snapshot: Snapshot, known: Durations, areas: Ints) -> Iterator[tuple[Job, int, Floats]]:
    """Of all that hold devices, in how many seconds they end, by replay."""
    for job in snapshot.jobs:
        if job.state not in ACTIVE or not job.placement or job.spec.aside is not None:
            continue
        ran = ran_s(job, snapshot.now_s)
        leaves = job.state in (JobState.STOPPING, JobState.SUSPENDING) and not job.target
        lasts_s = np.zeros(_REPLAYS) if leaves else known.lasts(job, ran, draws(job)) - ran
        yield job, int(areas[snapshot.row[job.placement[0].node]]), lasts_s


def draws(job: Job) -> Floats:
    """A number from 0 to 1 for each replay, all different, evenly spread, and the job's own."""
    mixed = np.arange(_REPLAYS, dtype=np.uint64) + np.uint64(zlib.crc32(job.id.encode()) << 16)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    ranks = np.empty(_REPLAYS, dtype=np.float64)
    ranks[np.argsort(mixed ^ (mixed >> np.uint64(31)), kind="stable")] = np.arange(_REPLAYS)
    found: Floats = (ranks + 0.5) / _REPLAYS
    return found


class _Replay:
    """One course of things, from now until all that queue have started or nothing ends any more.
    An area is a cluster's devices of one kind."""

    def __init__(self, scene: _Scene, number: int) -> None:
        self._scene, self._number = scene, number
        self._quota = scene.quota.copy()
        self._free = list(scene.free)
        self._queues = {area: list(waiting) for area, waiting in scene.by_area.items()}
        self._heap: list[tuple[float, JobId]] = []
        self._held: dict[JobId, tuple[Job, int, int]] = {}
        self._inside: dict[int, dict[JobId, Job]] = {}
        self._by_tier: Counter[tuple[int, Tier]] = Counter()
        self._started: dict[JobId, tuple[float, JobId | None]] = {}
        for job, area, lasts_s in scene.ends:
            self._hold(job, area, job.held, float(lasts_s[number]))

    def run(self, of: JobId | None) -> dict[JobId, tuple[float, JobId | None]]:
        """Who starts, when, and whose end lets him; None where nobody has to end. Not further than
        the start of `of`."""
        self._begin()
        while self._heap and len(self._started) < len(self._scene.waiting):
            now_s, ended = heapq.heappop(self._heap)
            if ended not in self._held or now_s > _HORIZON_S:
                continue
            self._start(self._release(ended), now_s, ended)
            if of in self._started:
                break
        return self._started

    def _begin(self) -> None:
        """Whoever can start at once, or take what it needs from others, in the order of the queue;
        nobody less urgent passes one that cannot in an area of his."""
        behind: dict[int, Tier] = {}
        for each in self._scene.waiting:
            if self._quota.refuses(each.job, each.need):
                continue
            areas = [a for a in each.where if behind.get(a, each.job.tier) >= each.job.tier]
            there = next((a for a in areas if self._free[a] >= each.need), None)
            if there is not None:
                self._place(each, there, 0.0, None)
                continue
            rooms = ((area, self._make_room(each, area)) for area in areas)
            found = next(((area, leave_s) for area, leave_s in rooms if leave_s is not None), None)
            if found is not None:
                self._place(each, *found, None)
            else:
                behind |= {a: min(behind.get(a, each.job.tier), each.job.tier) for a in each.where}

    def _start(self, area: int, now_s: float, ended: JobId) -> None:
        """What has room in `area` now; nobody passes a more urgent one that has not."""
        left, first = list[_Waiting](), None
        queue = self._queues.get(area, [])
        for at, each in enumerate(queue):
            if first is not None and (each.job.tier > first or not self._free[area]):
                left += queue[at:]
                break
            if each.job.id in self._started:
                continue
            fits = self._free[area] >= each.need
            if fits and not self._quota.refuses(each.job, each.need):
                self._place(each, area, now_s, ended)
                continue
            left.append(each)
            first = each.job.tier if first is None and not fits else first
        self._queues[area] = left

    def _place(self, each: _Waiting, area: int, now_s: float, ended: JobId | None) -> None:
        self._free[area] -= each.need
        self._quota.take(each.job, each.need)
        self._hold(each.job, area, each.need, now_s + float(each.lasts_s[self._number]))
        self._started[each.job.id] = (now_s, ended)

    def _make_room(self, asker: _Waiting, area: int) -> float | None:
        """Take what is short from those who must give way to it, the least urgent first; how long
        they need to leave, and None where that would not be enough."""
        short, mine = asker.need - self._free[area], asker.job.tier
        governs = self._quota.governs
        if short > sum(self._by_tier[area, t] for t in Tier if governs or t > mine):
            return None
        givers = [
            (-job.tier, name)
            for name, job in self._inside.get(area, {}).items()
            if self._quota.may_take(asker.job, asker.need, job)
        ]
        if sum(self._held[name][2] for _, name in givers) < short:
            return None
        leave_s = 0.0
        for _, name in sorted(givers):
            if short > 0:
                job, _, devices = self._held[name]
                leave_s = max(leave_s, job.pause_s or self._scene.leave_s)
                self._release(name)
                short -= devices
        return leave_s

    def _hold(self, job: Job, area: int, devices: int, ends_s: float) -> None:
        self._held[job.id] = (job, area, devices)
        self._inside.setdefault(area, {})[job.id] = job
        self._by_tier[area, job.tier] += devices
        heapq.heappush(self._heap, (ends_s, job.id))

    def _release(self, name: JobId) -> int:
        """It gives back what it holds; the area where that is."""
        job, area, devices = self._held.pop(name)
        del self._inside[area][name]
        self._by_tier[area, job.tier] -= devices
        self._free[area] += devices
        self._quota.take(job, -devices)
        return area
