"""A small planet with services, driven by the calls that the control plane makes: nodes answer what
they are told, and one router says how much there is to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from singularity.primitives.messages import Register, Report
from singularity.primitives.model import (
    TERMINAL,
    Engine,
    Intent,
    Job,
    JobId,
    JobSpec,
    JobState,
    Kind,
    Tier,
)
from singularity.primitives.nodes import NodeId
from singularity.primitives.replicas import ready
from singularity.primitives.routing import NONE, LoadNote, Loads
from singularity.primitives.serving import ServiceId, Serving
from singularity.scheduler.decide import decide
from singularity.scheduler.plan import Plan
from singularity.scheduler.policy import Policy
from singularity.scheduler.services import (
    Amended,
    Canary,
    Measure,
    Service,
    Target,
    ended,
    opened,
    rescaled,
    updated,
)
from singularity.scheduler.sim.ledger import MemoryLedger
from singularity.scheduler.standing import check

CNN = ServiceId("cnn")
# As many as the load needs now, and fewer a minute later: what is remembered, autoscale's own tests
# are about.
POLICY = Policy(
    scale_memory_s=1.0,
    scale_smooth_s=0.01,
    scale_up_step=0.0,
    scale_down_step=0.0,
    scale_down_after_s=60.0,
)


def service(name: str = "cnn", least: int = 1, most: int = 4, **changes: Any) -> Service:
    """One request at a time for each replica, on one device."""
    spec = JobSpec(
        name,
        ("serve",),
        device="h200",
        kind=Kind.SERVE,
        tier=changes.pop("tier", Tier.PREMIUM),
        engines=(Engine.RESTART,),
        checkpoint_every_s=0.0,
        retry_infra=1_000_000,
        retry_user=1_000_000,
        serving=Serving(ServiceId(name), 1, grace_s=changes.pop("grace_s", 30.0)),
    )
    target = Target(Measure.CONCURRENCY, 1.0)
    return replace(Service(ServiceId(name), name, "default", spec, least, most, target), **changes)


class ServiceScene:
    def __init__(self, nodes: int = 2, devices: int = 4) -> None:
        self.ledger, self.now_s, self.plans = MemoryLedger(), 1_000.0, list[Plan]()
        self.answers = True  # replicas that run are ready
        self.keeps = False  # replicas that were stopped wait where they were
        self._made = 0
        self._there = dict[ServiceId, int]()
        for n in range(nodes):
            self.join(f"n{n}", devices)

    def join(self, name: str, devices: int) -> None:
        register = Register(
            node=NodeId(name),
            region="eu",
            cluster="eu-1",
            device="h200",
            devices=devices,
            address="",
            memory_bytes=16 << 30,
            preempts=True,
        )
        self.ledger.register(register, self.now_s)

    # -- owners ----------------------------------------------------------------------------------

    def ids(self, count: int) -> Sequence[JobId]:
        self._made += count
        return [JobId(f"r{n:03}") for n in range(self._made - count, self._made)]

    def serve(self, wanted: Service) -> None:
        self.ledger.open_service(*opened(wanted, self.ids, self.now_s))

    def train(self, name: str, devices: int, least: int | None = None, **changes: Any) -> None:
        low = devices if least is None else least
        spec = JobSpec(
            name,
            ("train",),
            ranks=devices,
            device="h200",
            devices=devices,
            devices_min=low,
            devices_max=devices,
            **changes,
        )
        self.ledger.submit(Job(JobId(name), spec, devices, submitted_at_s=self.now_s))

    def rescale(self, least: int, most: int, which: ServiceId = CNN) -> None:
        def change(now: Service) -> Amended:
            return rescaled(now, least, most, now.target, self.ids, self.now_s)

        self.ledger.change_service(which, "asked", change, self.now_s)

    def update(self, line: str, canary: Canary | None, which: ServiceId = CNN) -> None:
        def change(now: Service) -> Amended:
            wanted = replace(now, spec=replace(now.spec, run=(line,)))
            return updated(now, wanted, canary, self.ids, self.now_s)

        self.ledger.change_service(which, "asked", change, self.now_s)

    def end(self, which: ServiceId = CNN) -> None:
        self.ledger.change_service(which, "asked", ended, self.now_s)

    # -- routers ---------------------------------------------------------------------------------

    def load(
        self, busy: float = 0.0, which: ServiceId = CNN, revision: int = 1, **counts: Any
    ) -> None:
        """What the router saw in the last second; nothing is left with those that leave."""
        note = LoadNote(service=which, revision=revision, span_s=1.0, busy=busy, **counts)
        leaving = {j.id: 0 for j in self.replicas(which) if j.leaving_at_s is not None}
        self.ledger.hear_router("eu", Loads(router="r", notes=(note,), leaving=leaving), self.now_s)

    # -- time ------------------------------------------------------------------------------------

    def tick(self, seconds: float = 1.0) -> Plan:
        self.now_s += seconds
        snapshot = self.ledger.snapshot(self.now_s)
        plan = decide(snapshot, POLICY)
        assert check(snapshot, plan) == []
        assert self.ledger.commit(plan, self.now_s) == {}
        for job in list(self.ledger.jobs().values()):
            self._answer(job)
        self._laws()
        self.plans.append(plan)
        return plan

    def go(self, seconds: int, busy: float = 0.0, which: ServiceId = CNN, **counts: Any) -> None:
        for _ in range(seconds):
            self.load(busy, which, **counts)
            self.tick()

    def _answer(self, job: Job) -> None:
        phase = {JobState.STARTING: "running", JobState.STOPPING: "stopped"}.get(job.state)
        if job.state is JobState.RUNNING and (job.resizing or self._may_be_ready(job)):
            phase = "running"
        for node in sorted(job.nodes) if phase else ():
            devices = next((s.devices for s in job.target or job.placement if s.node == node), 0)
            port = f"{node}:80" if job.spec.serving and self.answers else ""
            found = {"job": job.id, "node": node, "incarnation": job.incarnation, "phase": phase}
            told = {"resize": job.resize, "devices": devices, "endpoint": port}
            told["warm"] = self.keeps and phase == "stopped"
            self.ledger.record(Report.model_validate({**found, **told}), self.now_s)

    def _may_be_ready(self, job: Job) -> bool:
        return job.spec.serving is not None and self.answers and not job.endpoint

    def _laws(self) -> None:
        for one in self.ledger.services():
            there = [j for j in self.replicas(one.id) if j.intent is Intent.RUN or j.placement]
            most = max(one.ceiling, self._there.get(one.id, 0))  # its owner may have said fewer
            assert len(there) <= most, f"{len(there)} of {one.ceiling}"
            self._there[one.id] = len(there)

    # -- looking ---------------------------------------------------------------------------------

    def replicas(self, which: ServiceId = CNN) -> list[Job]:
        found = [j for j in self.ledger.jobs().values() if j.state not in TERMINAL]
        found = [j for j in found if j.spec.serving and j.spec.serving.service == which]
        return sorted(found, key=lambda j: j.id)

    def ready(self, which: ServiceId = CNN) -> list[Job]:
        return [j for j in self.replicas(which) if ready(j)]

    def job(self, name: str) -> Job:
        return self.ledger.jobs()[JobId(name)]

    def seen(self, which: ServiceId = CNN) -> Service:
        return next(s for s in self.ledger.services() if s.id == which)


def counts(**changes: Any) -> dict[str, Any]:
    """So many requests, all of them answered in the first bucket unless said otherwise."""
    done = changes.get("done", 0)
    first = (done, *NONE[1:])
    return {"arrivals": done, "waits": first, "latencies": first, **changes}
