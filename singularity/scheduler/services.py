"""Services as they are kept: what their owners want, and what is on trial.

A service has as many jobs of kind serve a revision as it may have replicas; what it wants of them
is said by their intents (serve.py). Frozen, pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from singularity.primitives.errors import Conflict, InvalidSpec
from singularity.primitives.model import Intent, Job, JobId, JobSpec, Tier
from singularity.primitives.routing import NONE, LoadNote, within
from singularity.primitives.serving import ServiceId

from .autoscale import Bounds, Scaling

PROMISED: Final = 0.99  # of the requests, where no SLO says more


class Measure(StrEnum):
    """What one replica shall have of: requests at a time, or requests a second."""

    CONCURRENCY = "concurrency"
    RPS = "rps"


class Promise(StrEnum):
    """What is promised about requests: until a replica takes them, or until they are answered."""

    WAIT = "wait"
    LATENCY = "latency"


@dataclass(frozen=True, slots=True)
class Target:
    """What one replica is meant to carry."""

    measure: Measure
    value: float


@dataclass(frozen=True, slots=True)
class Slo:
    """A `share` of the requests is within `most_s`; those that fail or are shed are not."""

    promise: Promise
    most_s: float
    share: float = PROMISED


@dataclass(frozen=True, slots=True)
class Served:
    """Requests counted over some time."""

    arrivals: int = 0
    done: int = 0
    failed: int = 0
    shed: int = 0
    waits: tuple[int, ...] = NONE
    latencies: tuple[int, ...] = NONE

    @property
    def total(self) -> int:
        return self.done + self.failed + self.shed

    def plus(self, other: Served) -> Served:
        return Served(
            self.arrivals + other.arrivals,
            self.done + other.done,
            self.failed + other.failed,
            self.shed + other.shed,
            tuple(a + b for a, b in zip(self.waits, other.waits, strict=True)),
            tuple(a + b for a, b in zip(self.latencies, other.latencies, strict=True)),
        )

    @classmethod
    def of(cls, note: LoadNote) -> Served:
        counts = (note.arrivals, note.done, note.failed, note.shed)
        return cls(*counts, note.waits, note.latencies)

    def good(self, slo: Slo | None) -> float:
        """How many were as promised; without an SLO those that were answered."""
        if slo is None:
            return float(self.done)
        if slo.promise is Promise.LATENCY:
            return within(self.latencies, slo.most_s)
        return min(float(self.done), within(self.waits, slo.most_s))

    def attained(self, slo: Slo | None) -> float | None:
        """The share that was as promised; None of none."""
        return self.good(slo) / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Trial:
    """A newer revision that gets a `share` of the requests. When it has served `requests` of them
    as promised it takes over; it goes when it breaks the promise, or is not done by `until_s`."""

    spec: JobSpec
    share: float
    requests: int
    until_s: float
    made: int = 0

    @property
    def revision(self) -> int:
        assert self.spec.serving is not None
        return self.spec.serving.revision


@dataclass(frozen=True, slots=True)
class Service:
    """`spec` is what replicas of the revision in force run, and `made` how many jobs it has for
    them; `latest` is the number of the last revision.

    idle_after_s  without load, after which even the last replica rests; None: `least` stay
    queue_most    requests that may wait for a replica, each `timeout_s` at most
    ending        its owner ended it; it has ended when its last replica has
    """

    id: ServiceId
    name: str
    project: str
    spec: JobSpec
    least: int
    most: int
    target: Target
    queue_most: int = 100
    timeout_s: float = 60.0
    idle_after_s: float | None = None
    slo: Slo | None = None
    trial: Trial | None = None
    latest: int = 1
    made: int = 0
    scaling: Scaling = Scaling(0)
    message: str = ""
    created_at_s: float = 0.0
    ending: bool = False
    ended_at_s: float | None = None
    version: int = 0

    @property
    def revision(self) -> int:
        assert self.spec.serving is not None
        return self.spec.serving.revision

    @property
    def tier(self) -> Tier:
        return self.spec.tier

    @property
    def bounds(self) -> Bounds:
        """Where nothing is promised, nobody shall wait for so long that the router gives up."""
        wait_s, share = self.timeout_s, PROMISED
        if self.slo is not None:
            wait_s, share = self.slo.most_s, self.slo.share
        carries, idle_s = self.target.value, self.idle_after_s
        return Bounds(self.least, self.most, carries, wait_s, 1.0 - share, idle_s)

    @property
    def floor(self) -> int:
        """Replicas that it never goes below, however little it has to do."""
        return 0 if self.idle_after_s is not None else self.least

    @property
    def ceiling(self) -> int:
        """How many there may be: `most`, and one more for a trial where that is one."""
        return self.most if self.trial is None else max(self.most, 2)

    def wanted(self) -> tuple[int, int]:
        """Replicas of the revision in force and of the one on trial, `ceiling` in all."""
        count = min(max(self.scaling.replicas, self.floor), self.most)
        if self.trial is None or count == 0:
            return count, 0
        tried = min(max(1, round(count * self.trial.share)), self.ceiling - 1)
        return max(1, count - tried), tried

    def changed(self, message: str, **changes: object) -> Service:
        """The next version of it, which remembers why."""
        return replace(self, message=message, version=self.version + 1, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Change:
    """A service as it shall be, and what is told of it. Written if nobody else was first."""

    service: Service
    event: str
    reason: str


# -- what owners do --------------------------------------------------------------------------------


Amended = tuple[Service, list[Job]]  # as it shall be, and the replicas that are new
NewIds = Callable[[int], Sequence[JobId]]


def must_live(service: Service) -> Service:
    """Raises Conflict for one that is ending or has ended."""
    if service.ending:
        raise Conflict(f"{service.name} was ended; make it anew", service=service.id)
    return service


def opened(service: Service, ids: NewIds, now_s: float) -> Amended:
    """A new service, its replicas at rest. It starts with one at least, so that somebody sees
    whether it answers."""
    first = Scaling(replicas=max(1, service.least), busy_at_s=now_s)
    return _staffed(replace(service, created_at_s=now_s, scaling=first), ids, now_s)


def rescaled(
    service: Service, least: int, most: int, target: Target, ids: NewIds, now_s: float
) -> Amended:
    """Other bounds or another target, from the next round on. Raises Conflict."""
    must_live(service)
    told = f"its owner wants {least} to {most} replicas, {target.value:g} {target.measure} each"
    after = service.changed(told, least=least, most=most, target=target)
    return _staffed(after, ids, now_s)


@dataclass(frozen=True, slots=True)
class Canary:
    """How a new revision is tried before it takes over."""

    share: float = 0.1
    requests: int = 100
    within_s: float = 1800.0


def updated(
    service: Service, wanted: Service, canary: Canary | None, ids: NewIds, now_s: float
) -> Amended:
    """As `wanted`, made anew for the same name. What replicas run is a new revision, where it
    differs; all else is in force at once. A revision on trial is taken back for it. Raises
    InvalidSpec, Conflict."""
    must_live(service)
    if (wanted.name, wanted.project) != (service.name, service.project):
        raise InvalidSpec(f"the update is of {wanted.project}/{wanted.name}, not {service.name}")
    fields = ("least", "most", "target", "queue_most", "timeout_s", "idle_after_s", "slo")
    changes: dict[str, object] = {name: getattr(wanted, name) for name in fields}
    number = service.latest + 1
    spec = _numbered(wanted.spec, number)
    if spec == _numbered(service.spec, number):
        return _staffed(service.changed("its owner changed it", **changes), ids, now_s)
    changes |= {"latest": number, "trial": None}
    if canary is None:
        told = f"revision {number} takes over at once"
        changes |= {"spec": spec, "made": 0}
    else:
        told = f"revision {number} is on trial with {canary.share:.0%} of the requests"
        until_s = now_s + canary.within_s
        changes["trial"] = Trial(spec, canary.share, canary.requests, until_s)
    return _staffed(service.changed(told, **changes), ids, now_s)


def ended(service: Service) -> Amended:
    """Its replicas leave and stop. Once more does nothing."""
    if service.ending:
        return service, []
    return service.changed("its owner ended it", ending=True, trial=None), []


def _numbered(spec: JobSpec, revision: int) -> JobSpec:
    assert spec.serving is not None
    return replace(spec, serving=replace(spec.serving, revision=revision))


def _staffed(service: Service, ids: NewIds, now_s: float) -> Amended:
    """With as many replicas of each revision as there may be; those there are stay."""
    most, trial = service.most, service.trial
    jobs = _replicas(service.spec, range(service.made, most), ids, now_s)
    if trial is not None:
        jobs += _replicas(trial.spec, range(trial.made, most), ids, now_s)
        trial = replace(trial, made=max(trial.made, most))
    return replace(service, made=max(service.made, most), trial=trial), jobs


def _replicas(spec: JobSpec, numbers: range, ids: NewIds, now_s: float) -> list[Job]:
    assert spec.serving is not None
    return [
        Job(
            id=id_,
            spec=replace(spec, name=f"{spec.name}-{spec.serving.revision}-{number}"),
            devices=spec.devices,
            submitted_at_s=now_s,
            since_s=now_s,
            intent=Intent.HOLD,
        )
        for number, id_ in zip(numbers, ids(len(numbers)), strict=True)
    ]
