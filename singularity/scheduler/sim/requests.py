"""Requests in a storm: a load for each service that is made up, one router a region that tells of
it, and owners who change their minds. What services are held to is asserted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from singularity.primitives.lending import Repaid
from singularity.primitives.model import (
    ACTIVE,
    TERMINAL,
    Engine,
    Intent,
    Job,
    JobId,
    JobSpec,
    Kind,
    Tier,
)
from singularity.primitives.replicas import ready
from singularity.primitives.routing import BUCKETS, LoadNote, Loads, bucket
from singularity.primitives.serving import ServiceId, Serving
from singularity.scheduler.decide import decide
from singularity.scheduler.lines import queues
from singularity.scheduler.placement import allowed
from singularity.scheduler.plan import Verb
from singularity.scheduler.services import (
    Amended,
    Canary,
    Measure,
    Promise,
    Service,
    Slo,
    Target,
    ended,
    opened,
    rescaled,
    updated,
)

from .physics import Program

if TYPE_CHECKING:
    from .world import World

SPAN_S: Final = 5.0  # between two posts of a router; a real one posts each second
_SERVICE_S: Final = 0.5  # that a replica is busy with one request
_QUIET_S: Final = 1_200.0  # after the last fault, until a service must have what it always has
_AT_ONCE: Final = 2
_NO_DEVICES_LACK: Final = frozenset({"quota", "reclaim", "order"})  # of who is told no more
_SERVER: Final = Program(steps=1_000_000_000, step_s=60.0, free=True)
_REGIONS: Final = ("eu", "us")


class Requests:
    """Everything about services in one world, already in its future."""

    def __init__(
        self, world: World, rng: np.random.Generator, services: int, calm_s: float
    ) -> None:
        self._world, self._rng, self._made = world, rng, 0
        self._queued: dict[tuple[str, ServiceId], int] = {}
        self._there: dict[ServiceId, int] = {}
        for number in range(services):
            name = ServiceId(f"s{number}")
            at_s = float(rng.uniform(0.0, 1_000.0))
            world.at(at_s, partial(self._open, name, Tier(int(rng.integers(3)))))
            for change in ("rescale", "roll", "try"):
                when_s = float(rng.uniform(1_000.0, calm_s))
                world.at(when_s, partial(self._change, name, change))
            world.at(calm_s + _QUIET_S, partial(self._has_its_least, name))
            world.at(calm_s + _QUIET_S + 60.0, partial(self._change, name, "end"))
        for region in _REGIONS if services else ():
            world.every(SPAN_S, partial(self._post, region))
        if services:
            world.every(SPAN_S, self._laws)

    # -- owners ----------------------------------------------------------------------------------

    def _open(self, name: ServiceId, tier: Tier) -> None:
        most = int(self._rng.integers(4, 20))
        least = int(self._rng.integers(1, 3))
        spec = JobSpec(
            name=str(name),
            run=_SERVER.line(),
            device="sim",
            devices=1,
            kind=Kind.SERVE,
            tier=tier,
            checkpoint_every_s=0.0,
            retry_infra=1_000_000,
            retry_user=1_000_000,
            engines=(Engine.RESTART,),
            serving=Serving(name, 1, grace_s=30.0, concurrency=_AT_ONCE),
        )
        service = Service(
            *(name, str(name), "default", spec, min(least, most), most),
            Target(Measure.CONCURRENCY, float(_AT_ONCE)),
            idle_after_s=120.0 if self._rng.random() < 0.3 else None,
            slo=Slo(Promise.WAIT, 10.0, 0.5),
        )
        now_s = self._world.now_s
        self._world.open_service(*opened(service, self._ids, now_s))

    def _ids(self, count: int) -> Sequence[JobId]:
        self._made += count
        return [JobId(f"r{n:04}") for n in range(self._made - count, self._made)]

    def _change(self, name: ServiceId, what: str) -> None:
        if name not in {s.id for s in self._world.ledger.services()}:
            return
        now_s, least = self._world.now_s, int(self._rng.integers(1, 4))
        most = least + int(self._rng.integers(1, 12))
        crashes = bool(self._rng.random() < 0.5)

        def change(now: Service) -> Amended:
            if what == "end":
                return ended(now)
            if what == "rescale":
                return rescaled(now, least, most, now.target, self._ids, now_s)
            program = replace(_SERVER, steps=_SERVER.steps + now.latest)
            if what == "try" and crashes:
                program = replace(_SERVER, steps=3, code=1)
            wanted = replace(now, spec=replace(now.spec, run=program.line()))
            canary = Canary(0.3, 50, 600.0) if what == "try" else None
            return updated(now, wanted, canary, self._ids, now_s)

        self._laws()  # by what was allowed until now
        self._world.change_service(name, what, change)

    # -- routers ---------------------------------------------------------------------------------

    def _post(self, region: str) -> None:
        """What came to this region's router in the last span, and what became of it."""
        ledger, now_s = self._world.ledger, self._world.now_s
        jobs = [j for j in ledger.jobs().values() if j.spec.serving is not None]
        notes = [n for s in ledger.services() for n in self._notes(region, s, jobs, now_s)]
        leaving = {j.id: 0 for j in jobs if j.leaving_at_s is not None}
        loads = Loads(router=region, notes=tuple(notes), leaving=leaving)
        if not self._world.chance(self._world.costs.drop):
            ledger.hear_router(region, loads, now_s)

    def _notes(
        self, region: str, service: Service, jobs: Sequence[Job], now_s: float
    ) -> list[LoadNote]:
        """Requests queue for half of the replicas, as there are two regions. Those that wait, and
        those that there are, are said of the revision in force."""
        revisions = [
            j.spec.serving.revision
            for j in jobs
            if j.spec.serving and j.spec.serving.service == service.id and ready(j)
        ]
        came = 0 if service.ending else int(self._rng.poisson(_rate(service.id, now_s) * SPAN_S))
        could = len(revisions) * _AT_ONCE / _SERVICE_S * SPAN_S / len(_REGIONS)
        todo = self._queued.get((region, service.id), 0) + came
        done = int(min(todo, could))
        left = min(todo - done, service.queue_most)
        self._queued[region, service.id] = left
        trial = service.trial.revision if service.trial else 0
        tried = done * revisions.count(trial) // max(1, len(revisions))
        wait = bucket(left / could * SPAN_S if could else 1_000.0)

        def note(revision: int, done: int, **more: float) -> LoadNote:
            found = {"service": service.id, "revision": revision, "span_s": SPAN_S, "done": done}
            times = tuple(done * (n == wait) for n in range(BUCKETS))
            told = {"arrivals": done, "waits": times, "latencies": times}
            return LoadNote.model_validate({**found, **told, **more})

        busy = left + done * _SERVICE_S / SPAN_S
        mine = {"arrivals": max(0, came - tried), "shed": todo - done - left, "queued": left}
        first = note(service.revision, done - tried, busy=busy, **mine)
        return [first, note(trial, tried)] if trial else [first]

    # -- the laws --------------------------------------------------------------------------------

    def _laws(self) -> None:
        """At all times: no more than its most, or fewer than before where its owner has said so;
        and what jobs lend is never more than they have asked for."""
        jobs = self._world.ledger.jobs().values()
        for service in self._world.ledger.services():
            mine = [j for j in jobs if j.spec.serving and j.spec.serving.service == service.id]
            lives = [j for j in mine if j.state not in TERMINAL]
            there = sum(j.state in ACTIVE or j.intent is Intent.RUN for j in lives)
            most = max(service.ceiling, self._there.get(service.id, 0))
            assert there <= most, (
                f"{service.id} has {there} replicas, and may have {service.ceiling}"
            )
            self._there[service.id] = there
        for job in jobs:
            lent = sum(loan.devices for loan in job.loans)
            assert lent <= job.devices, f"{job.id} lends {lent} of {job.devices}"
            assert not (lent and job.state in TERMINAL), f"{job.id} has ended and lends"

    def _has_its_least(self, name: ServiceId) -> None:
        """Nothing went wrong for a while, so it has what it always has, unless others as urgent
        hold all that it could use, somebody more urgent lacks some of the same, and not only a
        quota, or its program fails, and is tried again now and then. What has just come free is
        given by the next round."""
        world = self._world
        service = next((s for s in world.ledger.services() if s.id == name), None)
        if service is None or service.idle_after_s is not None:
            return
        snapshot = world.ledger.snapshot(world.now_s)
        mine = [j for j in snapshot.jobs if j.spec.serving and j.spec.serving.service == name]
        may_use = allowed(snapshot, service.spec) & snapshot.ready
        free = int((snapshot.free * may_use).sum())
        plan = decide(snapshot, world.policy)
        begun = {a.job for a in plan.actions if a.verb is Verb.RESUME}
        have = sum(ready(j) or j.id in begun for j in mine)
        fails = any(j.retry_at_s > world.now_s for j in mine)
        urgent = (j for j in snapshot.jobs if j.tier < service.spec.tier and queues(j))
        ahead = any(
            bool((allowed(snapshot, j.spec) & may_use).any())
            for j in urgent
            if {reason.kind for reason in plan.pending.get(j.id, ())} - _NO_DEVICES_LACK
        )
        assert have >= service.least or free == 0 or ahead or fails, (
            f"{name} has {have} of {service.least} replicas, and {free} devices are free"
        )


def balanced(jobs: Sequence[Job], over: Sequence[tuple[JobId, Repaid]]) -> None:
    """When all is over no loan is open, and each that was lasted and cost something."""
    assert not [j.id for j in jobs if j.loans]
    assert all(r.device_s >= 0.0 and r.loan.price >= 0.0 and r.loan.devices > 0 for _, r in over)


def _rate(name: ServiceId, now_s: float) -> float:
    """Requests a second at one router: waves, and nothing for a while."""
    phase = (int(name[1:]) * 211.0 + now_s) % 1_500.0
    if phase > 1_100.0:
        return 0.0
    return float(30.0 * max(0.05, np.sin(phase / 1_100.0 * np.pi)) ** 2)
