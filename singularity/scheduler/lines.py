"""Jobs that wait and are alike, in lines: whoever looks for what can start looks at the first of
each, for what holds of that holds of all behind it. Lines are kept as jobs come and go.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from singularity.primitives.model import Intent, Job, JobId, JobState


@dataclass(frozen=True, slots=True)
class Line:
    """Jobs that are alike, the longest waiting first, and their ids."""

    jobs: tuple[Job, ...]
    ids: tuple[JobId, ...]


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
    """The lines of exactly these jobs, and the `loose` ones among them, by id: those that do not
    stand with others. Whoever changes a snapshot need not think of either."""

    jobs: tuple[Job, ...]
    lines: tuple[Line, ...]
    loose: tuple[Job, ...]


def lines_of(jobs: tuple[Job, ...], known: Lined | None) -> tuple[Line, ...]:
    """Of all that queue; as they are known, if they are of these."""
    return known.lines if known is not None and known.jobs is jobs else Lines(jobs).all()


def loose_of(jobs: tuple[Job, ...], known: Lined | None) -> tuple[Job, ...]:
    """Those of `jobs` that hold or held something, or of which more is asked than to wait; where
    nobody knows which they are, all."""
    return known.loose if known is not None and known.jobs is jobs else jobs


@dataclass(slots=True)
class _Order:
    """A line that changes: places, jobs and ids side by side."""

    places: list[tuple[float, JobId]] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    ids: list[JobId] = field(default_factory=list)


class ById:
    """Jobs in the order of their ids, as they come and go."""

    def __init__(self) -> None:
        self.jobs, self._ids = list[Job](), list[JobId]()  # side by side

    def count(self, job: Job, sign: int) -> None:
        """It is there now (1), or not any more (-1)."""
        at = bisect_left(self._ids, job.id)
        if sign > 0:
            self.jobs.insert(at, job)
            self._ids.insert(at, job.id)
        else:
            del self.jobs[at], self._ids[at]


class Lines:
    """Of all jobs that queue; told of each as it comes and goes. One that may not stand with others
    is a line by itself."""

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        self._order: dict[Hashable, _Order] = {}
        self._known: dict[Hashable, Line] = {}
        self._loose = ById()
        for job in jobs:
            self.count(job, 1)

    def count(self, job: Job, sign: int) -> None:
        """It is there now (1), or as it was not any more (-1)."""
        stood = stands(job)
        if not stood:
            self._loose.count(job, sign)
            if not queues(job):
                return
        kind, place = _kind(job) if stood else job.id, (job.submitted_at_s, job.id)
        order = self._order.setdefault(kind, _Order())
        self._known.pop(kind, None)
        at = bisect_left(order.places, place)
        if sign > 0:
            order.places.insert(at, place)
            order.jobs.insert(at, job)
            order.ids.insert(at, job.id)
            return
        del order.places[at], order.jobs[at], order.ids[at]
        if not order.jobs:
            del self._order[kind]

    def all(self) -> tuple[Line, ...]:
        """By the id of their first; each that has not changed is the same as it was."""
        for kind, order in self._order.items():
            if kind not in self._known:
                self._known[kind] = Line(tuple(order.jobs), tuple(order.ids))
        return tuple(sorted(self._known.values(), key=lambda line: line.ids[0]))

    def of(self, jobs: tuple[Job, ...]) -> Lined:
        """Of the jobs that were counted, which are these."""
        return Lined(jobs, self.all(), tuple(self._loose.jobs))


def _kind(job: Job) -> Hashable:
    spec = job.spec
    size = job.devices, spec.devices_min, spec.ranks
    return (spec.project, spec.tier, *size, alike(job))
