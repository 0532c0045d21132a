"""A replay with services beside the jobs: requests by the second, a queue for each service, and
replicas that the production autoscaler wakes and rests; where nothing is idle training shrinks for
them, as on a real planet.

A round is decided where the number of replicas would change. Looks at a load that change nothing
but what is remembered of it write that memory as a round would, by the same function.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from typing import Final

from singularity.primitives.messages import Command, Cut, Reslot, Start, Stop
from singularity.primitives.model import ACTIVE, Engine, Job, JobId, JobSpec, Kind
from singularity.primitives.nodes import NodeId
from singularity.primitives.replicas import ready
from singularity.primitives.serving import ServiceId, Serving
from singularity.scheduler.autoscale import Scaling, size
from singularity.scheduler.plan import Action, Verb
from singularity.scheduler.policy import Policy
from singularity.scheduler.services import (
    Measure,
    Promise,
    Service,
    Slo,
    Target,
    opened,
)
from singularity.scheduler.traffic import PANIC_S, Load, Router, Traffic

from .ledger import MemoryLedger
from .loads import Queue, Requests, drawn
from .outcomes import Pooled
from .replay import Costs, Replay
from .traces import Machines, Serves, Trace

LOOK_S: Final = 2  # between two looks at a load, which is told every second
_BEGINS: Final = 1.25  # replicas for so much more than what comes at first
_DRAINS_S: Final = 1.0  # a replica that leaves has answered what it had
_FOR_EVER: Final = 1_000_000
_ROUTER: Final = "router"


class _Books(MemoryLedger):
    """Where routers have said what a replay says. It keeps no single notes: what they would come to
    is known."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[ServiceId, Load] = {}
        self.leaving: dict[JobId, float] = {}

    def traffic(self, now_s: float) -> Traffic:
        left = {job: int(now_s - since_s < _DRAINS_S) for job, since_s in self.leaving.items()}
        router = Router(_ROUTER, "", now_s, left)
        return Traffic(tuple(self.services()), self.told, routers=(router,))

    def service(self, id_: ServiceId) -> Service:
        return self._services[id_]

    def remember(self, service: Service) -> None:
        self._services[service.id] = service


@dataclass(slots=True)
class _Pool:
    """A service in the replay. `there` are the devices that its replicas hold."""

    serves: Serves
    id: ServiceId
    requests: Requests
    queue: Queue
    told: Pooled
    answering: set[JobId] = field(default_factory=set)
    there: set[JobId] = field(default_factory=set)
    begun: bool = False  # its first replicas answer, and requests come
    done: list[float] = field(default_factory=lambda: [0.0] * int(PANIC_S))


class Inference(Replay):
    """Ends with the load of its services, however many jobs are left then."""

    def __init__(
        self,
        trace: Trace,
        fleet: Iterable[Machines] = (),
        policy: Policy | None = None,
        costs: Costs | None = None,
        name: str = "singularity",
    ) -> None:
        fleet = tuple(fleet) or trace.fleet
        self._until_s = float(max((s.rates.seconds for s in trace.services), default=0))
        self._pools: dict[ServiceId, _Pool] = {}
        self._warm: dict[JobId, NodeId] = {}  # where processes of replicas wait
        self._books = _Books()
        super().__init__(trace, fleet, policy, costs or Costs(), name)
        for service in self._trace.services:
            self._open(service, _room(service, fleet))
        self._at(0.0, partial(self._second, 0))

    # -- what is different -----------------------------------------------------------------------

    def _make_books(self) -> MemoryLedger:
        return self._books

    def _unfinished(self) -> bool:
        return self._now_s < self._until_s

    def _follow(self, id_: JobId) -> None:
        job = self._ledger.job(id_)
        if job.spec.serving is None:
            super()._follow(id_)
        else:
            self._serve(job, self._pools[job.spec.serving.service])

    def _count(self, action: Action) -> None:
        if self._ledger.job(action.job).spec.serving is None:
            super()._count(action)
        else:
            self._note_action(action)

    def _takes_s(self, command: Command) -> float:
        if not isinstance(command, Start) or command.serving is None:
            return super()._takes_s(command)
        waits = self._warm.get(command.job) == command.node
        return self._costs.wake_s if waits else self._costs.ready_s

    def _obey(self, command: Command) -> None:
        job = self._ledger.job(command.job)
        if job.spec.serving is None:
            super()._obey(command)
        elif command.incarnation == job.incarnation:
            assert not isinstance(command, Cut | Reslot), command
            if isinstance(command, Start):
                woken = self._warm.pop(job.id, None) == command.node
                pool = self._pools[job.spec.serving.service]
                pool.told.woken += woken
                pool.told.begun += not woken
                where = {"endpoint": f"{job.id}:80"}
                self._report(job.id, command.node, "running", **where)
                return
            warm = isinstance(command, Stop) and command.warm
            if warm:
                self._warm[job.id] = command.node
            self._report(job.id, command.node, "stopped", warm=warm)

    # -- services --------------------------------------------------------------------------------

    def _open(self, serves: Serves, most: int) -> None:
        id_ = ServiceId(serves.name)
        spec = JobSpec(
            serves.name,
            ("serve",),
            device=serves.device,
            kind=Kind.SERVE,
            tier=serves.tier,
            project=serves.project,
            regions=(serves.region,) if serves.region else (),
            same_node=True,
            checkpoint_every_s=0.0,
            retry_infra=_FOR_EVER,
            retry_user=_FOR_EVER,
            engines=(Engine.RESTART,),
            serving=Serving(id_, 1),
        )
        slo = Slo(Promise.WAIT, serves.wait_s, serves.kept)
        target = Target(Measure.RPS, serves.per_replica)
        service = Service(
            *(id_, serves.name, serves.project, spec, serves.least, most, target), slo=slo
        )
        requests = drawn(serves.rates, serves.seed)
        queue, told = Queue(int(serves.wait_s)), Pooled(serves.name)
        self._pools[id_] = _Pool(serves, id_, requests, queue, told)
        self.run_.pools.append(told)

        def ids(count: int) -> Sequence[JobId]:
            return [JobId(f"~{serves.name}-{n:04}") for n in range(count)]

        found, replicas = opened(service, ids, 0.0)
        begins = ceil(_BEGINS * serves.rates.rates[0] / serves.per_replica)
        begins = min(max(begins, found.least), most)
        self._books.open_service(replace(found, scaling=Scaling(begins)), replicas)
        self._demand.more(serves.device, serves.tier, begins)
        self._changed = True

    def _second(self, number: int) -> None:
        """What came in this second, and what became of it; and now and then a look."""
        for pool in self._pools.values():
            wanted = self._books.service(pool.id).scaling.replicas
            pool.begun = pool.begun or len(pool.answering) >= wanted
            if pool.begun and number < len(pool.requests.arrivals):
                came = float(pool.requests.arrivals[number])
                could = len(pool.answering) * pool.serves.per_replica
                served = pool.queue.second(came, could)
                pool.done[number % len(pool.done)] = served
                pool.told.requests += came
                pool.told.late = pool.queue.broken
                if number % LOOK_S == 0:
                    self._look(pool, number)
            pool.told.held_s += len(pool.there)
            pool.told.asked_s += wanted
        if number + 1 <= self._until_s:
            self._at(number + 1.0, partial(self._second, number + 1))

    def _look(self, pool: _Pool, number: int) -> None:
        rps = float(pool.requests.stable[number])
        load = Load(
            rps=rps,
            rps_panic=float(pool.requests.panic[number]),
            queued=int(pool.queue.fresh),
            done=sum(pool.done) / len(pool.done),
            varies=rps * float(pool.requests.spread[number]),
        )
        self._books.told[pool.id] = load
        service = self._books.service(pool.id)
        demand = load.demand(service.target.measure)
        scaling, _ = size(service.scaling, demand, service.bounds, self._now_s, self._policy)
        if scaling.replicas == service.scaling.replicas:
            self._books.remember(service.changed(service.message, scaling=scaling))
        else:  # a round will find the same
            more = scaling.replicas - service.scaling.replicas
            self._demand.more(pool.serves.device, pool.serves.tier, more)
            pool.told.changes += 1
            self._changed = True

    def _serve(self, job: Job, pool: _Pool) -> None:
        """A replica does what its row says."""
        (pool.answering.add if ready(job) else pool.answering.discard)(job.id)
        holds = job.state in ACTIVE
        if not holds and job.id in pool.there:
            self._changed = True  # its device is free
        (pool.there.add if holds else pool.there.discard)(job.id)
        if job.leaving_at_s is None or not holds:
            self._books.leaving.pop(job.id, None)
        elif job.id not in self._books.leaving:
            self._books.leaving[job.id] = job.leaving_at_s
            self._at(self._now_s + _DRAINS_S, self._look_again)

    def _look_again(self) -> None:
        self._changed = True

    def _note_action(self, action: Action) -> None:
        where = tuple((s.node, s.devices) for s in action.placement)
        self._digest.update(f"{self._now_s:.6f} {action.verb} {action.job} {where}\n".encode())
        if action.verb is Verb.WAKE:
            self._changed = True


def _room(service: Serves, fleet: Iterable[Machines]) -> int:
    """Replicas that it may have."""
    there = [m for m in fleet if m.device == service.device and service.region in ("", m.region)]
    return service.most or sum(m.nodes * m.devices for m in there)
