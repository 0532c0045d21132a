"""Jobs that wait and are alike, in lines: whoever looks for what can start looks at the first of
each, for what holds of that holds of all behind it. Lines are kept as jobs come and go.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from singularity.primitives.model import Intent, Job, JobId, JobState

Line = tuple[Job, ...]  # the longest waiting first


def alike(job: Job) -> Hashable:
    """Jobs of which this is equal may go to the same nodes."""
    spec = job.spec
    policy = (spec.device, spec.regions, spec.avoid, spec.same_node, spec.topology)
    return (*policy, spec.share, job.confine, job.unfit)


def queues(job: Job) -> bool:
    """Does it want devices and have none? Those that verify others do not queue."""
    waits = job.state is JobState.PENDING or job.state is JobState.SUSPENDED
    return waits and job.intent is Intent.RUN and job.spec.aside is None


def stands(job: Job) -> bool:
    """Has it never had a device, and waits for nothing but devices? Then nothing but its age tells
    it from others that ask for the same, whatever the time is."""
    spec = job.spec
    return (
        job.state is JobState.PENDING
        and job.incarnation == 0
        and queues(job)
        and not (spec.after or spec.serving or spec.topology.apart or job.retry_at_s)
        and (job.account is None or job.account.given_s == 0.0)
    )


@dataclass(frozen=True, slots=True)
class Lined:
    """The lines of exactly these jobs: whoever changes a snapshot need not think of them."""

    jobs: tuple[Job, ...]
    lines: tuple[Line, ...]


def lines_of(jobs: tuple[Job, ...], known: Lined | None) -> tuple[Line, ...]:
    """Of all that queue; as they are known, if they are of these."""
    return known.lines if known is not None and known.jobs is jobs else Lines(jobs).all()


class Lines:
    """Of all jobs that queue; told of each as it comes and goes. One that may not stand with others
    is a line by itself."""

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        self._order: dict[Hashable, list[tuple[float, JobId]]] = {}
        self._jobs: dict[JobId, Job] = {}
        self._known: dict[Hashable, Line] = {}
        for job in jobs:
            self.count(job, 1)

    def count(self, job: Job, sign: int) -> None:
        """It is there now (1), or as it was not any more (-1)."""
        if not queues(job):
            return
        kind, place = _kind(job) if stands(job) else job.id, (job.submitted_at_s, job.id)
        order = self._order.setdefault(kind, [])
        self._known.pop(kind, None)
        if sign > 0:
            insort(order, place)
            self._jobs[job.id] = job
            return
        del order[bisect_left(order, place)], self._jobs[job.id]
        if not order:
            del self._order[kind]

    def all(self) -> tuple[Line, ...]:
        """By the id of their first; each that has not changed is the same as it was."""
        for kind, order in self._order.items():
            if kind not in self._known:
                self._known[kind] = tuple([self._jobs[job] for _, job in order])
        return tuple(sorted(self._known.values(), key=lambda line: line[0].id))


def _kind(job: Job) -> Hashable:
    spec = job.spec
    size = job.devices, spec.devices_min, spec.ranks
    return (spec.project, spec.tier, *size, alike(job))
