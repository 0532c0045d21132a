"""Kueue's generator configs as submits at given times, and how long they take at the very least.
Pure. Cohorts become projects with a region of their own, queues the projects that they consist of.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

TIERS: Final = ("premium", "standard", "basic")  # for the highest priority, the next, all others
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Queue:
    """A ClusterQueue: `nominal` devices are its own, and it may borrow so many of its cohort's."""

    name: str
    cohort: str
    nominal: int
    borrow: int


@dataclass(frozen=True, slots=True)
class Work:
    """One workload: created `at_s` after the beginning, running for so long once admitted."""

    name: str
    kind: str
    queue: Queue
    at_s: float
    runtime_s: float
    priority: int
    devices: int


@dataclass(frozen=True, slots=True)
class Load:
    """`works` by time of creation."""

    queues: tuple[Queue, ...]
    works: tuple[Work, ...]

    @property
    def cohorts(self) -> Mapping[str, int]:
        """And the devices of each."""
        found = Counter[str]()
        for queue in self.queues:
            found[queue.cohort] += queue.nominal
        return found

    @property
    def tiers(self) -> Mapping[int, str]:
        """What stands for each priority."""
        ranked = sorted({w.priority for w in self.works}, reverse=True)
        return {p: TIERS[min(i, len(TIERS) - 1)] for i, p in enumerate(ranked)}


def load(config: Json, scale: float = 1.0) -> Load:
    """`scale` is of the number of workloads of each set, which is 1 at least."""
    queues = tuple(queue for queue, _ in _queues(config))
    works = [w for queue, sets in _queues(config) for w in _works(queue, sets, scale)]
    return Load(queues, tuple(sorted(works, key=lambda w: (w.at_s, w.name))))


def _queues(config: Json) -> Iterator[tuple[Queue, list[Json]]]:
    for cohorts in config["cohorts"]:
        for c in range(cohorts["count"]):
            cohort = f"{cohorts['className']}-{c}"
            for number, said in enumerate(cohorts["queuesSets"]):
                for q in range(said["count"]):
                    name = f"{said['className']}-{number}-{q}-{cohort}"
                    limits = int(said["nominalQuota"]), int(said["borrowingLimit"])
                    yield Queue(name, cohort, *limits), said["workloadsSets"]


def _works(queue: Queue, sets: Sequence[Json], scale: float) -> Iterator[Work]:
    """As its generator does, one after each interval."""
    for number, said in enumerate(sets):
        at_s = 0.0
        for i in range(max(1, round(said["count"] * scale))):
            for j, each in enumerate(said["workloads"]):
                at_s += said["creationIntervalMs"] / 1e3
                name = f"{each['className']}-{number}-{i}-{j}-{queue.name}"
                numbers = each["runtimeMs"] / 1e3, int(each["priority"]), int(each["request"])
                yield Work(name, each["className"], queue, at_s, *numbers)


def document(work: Work, tiers: Mapping[int, str]) -> Json:
    """The job that stands for it. Its cohort has a region of its own; what runs is what a simulated
    agent understands."""
    return {
        "name": work.name,
        "run": ["simulated", f"{work.runtime_s:g}"],
        "kind": "batch",
        "project": work.queue.name,
        "tier": tiers[work.priority],
        "devices": f"cpu:{work.devices}",
        "ranks": 1,
        "place": {"regions": [work.queue.cohort]},
        "checkpoint": {"every": "never"},
    }


def ideal_s(found: Load) -> float:
    """When the last workload ends if every decision is made, known and carried out at once: by
    priority, then by age; who does not fit lets others pass, and nobody is preempted."""
    ends = 0.0
    for cohort, devices in found.cohorts.items():
        works = [w for w in found.works if w.queue.cohort == cohort]
        ends = max(ends, _ideal_of_cohort(works, devices))
    return ends


def _ideal_of_cohort(works: Sequence[Work], free: int) -> float:
    lines: dict[int, deque[Work]] = {}
    held, running = Counter[str](), list[tuple[float, int, Work]]()
    coming, now_s, number = deque(sorted(works, key=lambda w: w.at_s)), 0.0, 0
    while coming or running:
        now_s = min(
            *([coming[0].at_s] if coming else []), *([running[0][0]] if running else []), math.inf
        )
        while running and running[0][0] <= now_s:
            _, _, over = heapq.heappop(running)
            free += over.devices
            held[over.queue.name] -= over.devices
        while coming and coming[0].at_s <= now_s:
            lines.setdefault(-coming[0].priority, deque()).append(coming.popleft())
        for priority in sorted(lines):
            for work in _starting(lines[priority], free, held):
                free -= work.devices
                number += 1
                heapq.heappush(running, (now_s + work.runtime_s, number, work))
    return now_s


def _starting(line: deque[Work], free: int, held: Counter[str]) -> list[Work]:
    """Those of one priority that start now, taken out of the line."""
    started, kept = list[Work](), list[Work]()
    while line and line[0].devices <= free:
        work = line.popleft()
        queue = work.queue
        if held[queue.name] + work.devices <= queue.nominal + queue.borrow:
            started.append(work)
            free -= work.devices
            held[queue.name] += work.devices
        else:
            kept.append(work)
    line.extendleft(reversed(kept))
    return started
