"""Small planets for tests of the judgement: nodes, jobs, and a ledger that holds them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from singularity.primitives.messages import Register, Report
from singularity.primitives.model import Job, JobId, JobSpec, JobState, ShardImage, Tier
from singularity.primitives.nodes import NodeId
from singularity.primitives.projects import Allotment, Project
from singularity.primitives.sharing import DeviceShare, Precedence
from singularity.scheduler.decide import decide
from singularity.scheduler.plan import Plan
from singularity.scheduler.policy import Policy
from singularity.scheduler.sim.ledger import MemoryLedger
from singularity.scheduler.standing import check

POLICY = Policy(grow_after_s=5.0)
GIB = 1 << 30


def share(percent: int, gib: int = 1, *, rt: bool = False) -> DeviceShare:
    precedence = Precedence.REAL_TIME if rt else Precedence.BEST_EFFORT
    return DeviceShare(percent * 10, gib * GIB, precedence)


class Planet:
    """A ledger, and time. `us` and `eu` are regions of one cluster of `nodes` nodes each."""

    def __init__(self, nodes: int = 2, devices: int = 4, regions: tuple[str, ...] = ("us", "eu")):
        self.ledger, self.now_s, self._number = MemoryLedger(), 1_000.0, 0
        for region in regions:
            for i in range(nodes):
                self.join(f"{region}-{i}", region, devices)

    def join(
        self,
        name: str,
        region: str,
        devices: int = 4,
        kind: str = "cpu",
        rack: str = "",
        **facts: Any,
    ) -> None:
        """Its devices have 16 GiB and can be shared, unless said otherwise."""
        register = Register(
            node=NodeId(name),
            region=region,
            cluster=f"{region}-a",
            device=kind,
            devices=devices,
            rack=rack,
            address="x:1",
            **{"memory_bytes": 16 * GIB, "preempts": True, **facts},
        )
        self.ledger.register(register, self.now_s)

    def submit(self, name: str, devices: int = 4, **spec: Any) -> JobId:
        """A job of as many ranks as devices, unless said otherwise."""
        self._number += 1
        least = spec.pop("devices_min", devices)
        given = {"ranks": devices, "tier": Tier.STANDARD, "devices_max": devices, **spec}
        found = JobSpec(name=name, run=("x",), devices=devices, devices_min=least, **given)
        job = Job(JobId(name), found, devices, submitted_at_s=self.now_s + self._number)
        self.ledger.submit(job)
        return job.id

    def project(self, name: str, guaranteed: int | None = None, **said: Any) -> None:
        """A project with an allotment of cpu devices, or none."""
        placed = {k: said.pop(k) for k in ("parent", "weight") if k in said}
        kind = said.pop("kind", "cpu")
        allotments = () if guaranteed is None else (Allotment(kind, guaranteed, **said),)
        self.ledger.set_project(Project(name, allotments=allotments, **placed), self.now_s)

    def obey(self) -> None:
        """Agents do what was decided, all of it, at once."""
        for job in list(self.ledger.jobs().values()):
            match job.state:
                case JobState.STARTING:
                    self.report(job.id, "running")
                case JobState.SUSPENDING:
                    self.report(job.id, "dumped")
                case JobState.STOPPING:
                    self.report(job.id, "stopped")
                case JobState.RUNNING if job.resizing:
                    self.follow(job.id)

    def plan(self) -> Plan:
        snapshot = self.ledger.snapshot(self.now_s)
        plan = decide(snapshot, POLICY)
        assert check(snapshot, plan) == []
        return plan

    def tick(self, after_s: float = 1.0) -> Plan:
        """Decide and carry out."""
        self.now_s += after_s
        plan = self.plan()
        assert self.ledger.commit(plan, self.now_s) == {}
        return plan

    def job(self, job: JobId) -> Job:
        return self.ledger.jobs()[job]

    def report(self, job: JobId, phase: str, *, cut: bool = False, **facts: Any) -> None:
        """Every node of the job says the same; `cut`: and that the cut in flight is durable."""
        for shard in self.job(job).placement:
            found = self.job(job)
            if cut or phase == "dumped":
                image = ShardImage(shard.node, shard.ranks, "digest", step=7)
                facts = {"cut": found.cut, "image": image, "step": 7, **facts}
            said = {"job": job, "node": shard.node, "incarnation": found.incarnation}
            report = Report.model_validate({**said, "phase": phase, **facts})
            self.ledger.record(report, self.now_s)

    def say(self, job: JobId, node: str, phase: str, **facts: Any) -> None:
        """One node of the job reports."""
        said = {"job": job, "node": node, "incarnation": self.job(job).incarnation}
        self.ledger.record(Report.model_validate({**said, "phase": phase, **facts}), self.now_s)

    def follow(self, job: JobId) -> None:
        """The ranks take on the slots that they were told, on every node."""
        found = self.job(job)
        for shard in found.target:
            said = {"job": job, "node": shard.node, "incarnation": found.incarnation}
            facts = {"phase": "running", "resize": found.resize, "devices": shard.devices}
            self.ledger.record(Report.model_validate({**said, **facts}), self.now_s)

    def run(self, *jobs: JobId) -> None:
        """Place them and let them start."""
        self.tick()
        for job in jobs:
            self.report(job, "running")

    def change(self, job: JobId, **changes: Any) -> None:
        """What no call of the ledger does: set a scene."""
        self.ledger._jobs[job] = replace(self.job(job), **changes)


def verbs(plan: Plan) -> dict[str, str]:
    return {action.job: str(action.verb) for action in plan.actions}
