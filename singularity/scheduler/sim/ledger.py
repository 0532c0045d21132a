"""The ledger kept in dicts. Same contract as api.applier.SqlLedger; tests/contract holds the two
together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from singularity.primitives import asides, verbs
from singularity.primitives.drains import Drain, standing
from singularity.primitives.errors import Conflict, NotFound
from singularity.primitives.holdings import holdings, hosts
from singularity.primitives.messages import Envelope, Register, Report
from singularity.primitives.model import (
    ACTIVE,
    TERMINAL,
    ClusterId,
    Duty,
    Intent,
    Job,
    JobId,
    Node,
    NodeId,
    RegionId,
    Scope,
    reborn,
)
from singularity.primitives.projects import Project, admitted, capacity, claim
from singularity.primitives.sla import accounted
from singularity.primitives.tariffs import Tariff, checked
from singularity.scheduler.plan import Plan, admissible, grows, perform
from singularity.scheduler.quota import Quota
from singularity.scheduler.snapshot import Snapshot


class MemoryLedger:
    """scheduler.ledger.Ledger in memory."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, Job] = {}
        self._nodes: dict[NodeId, Node] = {}
        self._log: list[Envelope] = []
        self._drains: dict[str, Drain] = {}
        self._acknowledged_s = 0.0
        self._projects: dict[str, Project] = {}
        self._tariffs: dict[Scope, Tariff] = {}

    def submit(self, job: Job) -> None:
        assert job.id not in self._jobs, job.id
        self._jobs[job.id] = job
        self._projects.setdefault(job.spec.project, Project(job.spec.project))

    def snapshot(self, now_s: float) -> Snapshot:
        jobs = {j.id: j for j in self._jobs.values() if j.state not in TERMINAL}
        for job in list(jobs.values()):
            jobs |= {a: self._jobs[a] for a in job.spec.named if a in self._jobs}
        found = Snapshot.build(
            self._nodes.values(),
            jobs.values(),
            now_s,
            self._drains.values(),
            self._acknowledged_s,
        )
        return replace(found, projects=tuple(self.projects()), tariffs=tuple(self.tariffs()))

    def commit(self, plan: Plan, now_s: float) -> dict[JobId, str]:
        rejected, quota = {}, Quota(self._projects.values())
        for action in sorted(plan.actions, key=lambda a: a.job):
            job = self._jobs[action.job]
            more = grows(job, action)
            if why_not := admissible(job, action, self._nodes) or quota.refuses(job, more):
                rejected[job.id] = why_not
            else:
                quota.take(job, more)
                self._write(job, perform(job, action, now_s), now_s)
        return rejected

    def record(self, report: Report, now_s: float) -> bool:
        job = self._jobs.get(report.job)
        if job is None:
            return verbs.settled(job, report)
        step = verbs.settle(job, report, now_s)
        self._write(job, step, now_s)
        return verbs.settled(step.job, report)

    def register(self, register: Register, now_s: float) -> Node:
        node = self._nodes.get(register.node) or Node(
            id=register.node,
            region=RegionId(register.region),
            cluster=ClusterId(register.cluster),
            device=register.device,
            devices=register.devices,
            known_s=now_s,
            rack=register.rack,
        )
        self._nodes[node.id] = node
        if node.epoch == 0 or node.lost or node.epoch != register.epoch:
            for job in sorted(self._jobs.values(), key=lambda j: j.id):
                if job.state in ACTIVE and node.id in set(hosts(job)):
                    now = self._jobs[job.id]  # one that was verified there has been certified
                    reason = f"node {node.id} started anew"
                    step = verbs.failover(now, frozenset({node.id}), now_s, reason)
                    self._write(now, step, now_s)
            self._log = [letter for letter in self._log if letter.node != node.id]
            node = reborn(self._nodes[node.id])
        told = {"address": register.address, "devices": register.devices}
        node = replace(node, heard_s=now_s, rack=register.rack, **told)  # type: ignore[arg-type]
        self._nodes[node.id] = node
        return node

    def hear(self, node: NodeId, epoch: int, acknowledged: int, now_s: float) -> int | None:
        found = self._nodes.get(node)
        if found is None or found.epoch != epoch or found.lost:
            return None
        self._nodes[node] = replace(found, heard_s=now_s)
        self._log = [
            letter
            for letter in self._log
            if (letter.node, letter.epoch) != (node, epoch) or letter.seq > acknowledged
        ]
        return found.seq

    def lose(self, silent: Mapping[NodeId, float], now_s: float) -> list[NodeId]:
        lost = []
        for node_id in sorted(silent):
            node = self._nodes.get(node_id)
            if node is not None and not node.lost and node.heard_s <= silent[node_id]:
                self._nodes[node_id] = replace(node, lost=True, failures=node.failures + 1)
                lost.append(node_id)
        return lost

    def set_duty(self, scope: Scope, duty: Duty, now_s: float) -> list[NodeId]:
        found = sorted(n.id for n in self._nodes.values() if scope.holds(n))
        for node in found:
            self._nodes[node] = replace(self._nodes[node], duty=duty)
        return found

    def open_drain(self, drain: Drain, actor: str, reason: str = "") -> Drain:
        if (known := standing(drain, self._drains.values(), self._nodes.values())) is not None:
            return known
        self._drains[drain.id] = drain
        self.set_duty(drain.scope, Duty.DRAINING, drain.at_s)
        return drain

    def pause_drain(self, drain: str, *, paused: bool) -> Drain:
        self._drains[drain] = replace(self._in_force(drain), paused=paused)
        return self._drains[drain]

    def close_drain(self, drain: str, now_s: float) -> Drain:
        found = self._in_force(drain)
        del self._drains[drain]
        self.set_duty(found.scope, Duty.READY, now_s)
        return found

    def drains(self) -> list[Drain]:
        return sorted(self._drains.values())

    def _in_force(self, drain: str) -> Drain:
        if drain not in self._drains:
            raise NotFound(f"there is no drain {drain!r} in force")
        return self._drains[drain]

    def intend(self, job: JobId, intent: Intent, now_s: float) -> Job:
        return self._wish(job, now_s, intent=intent, retry_at_s=0.0)

    def confine(self, job: JobId, scope: Scope | None, now_s: float) -> Job:
        return self._wish(job, now_s, confine=scope)

    def resize(self, job: JobId, devices: int, now_s: float) -> Job:
        return self._wish(job, now_s, devices=devices)

    def request_checkpoint(self, job: JobId, now_s: float) -> Job:
        return self._wish(job, now_s, checkpoint_wanted=True)

    def acknowledge(self, actor: str, now_s: float) -> None:
        self._acknowledged_s = max(self._acknowledged_s, now_s)

    def set_project(self, project: Project, now_s: float) -> Project:
        known = admitted(self._projects.values(), project, capacity(self._nodes.values()))
        self._projects = known
        return known[project.id]

    def projects(self) -> list[Project]:
        return [self._projects[p] for p in sorted(self._projects)]

    def set_tariff(self, tariff: Tariff) -> None:
        self._tariffs[tariff.scope] = checked(tariff)

    def tariffs(self) -> list[Tariff]:
        return sorted(self._tariffs.values())

    def retire(self, jobs: Collection[JobId], now_s: float) -> None:
        for job in sorted(jobs):
            if (found := self._jobs.get(job)) is not None and found.state in TERMINAL:
                self._write(found, verbs.retire(found), now_s)

    def letters(self, node: NodeId, epoch: int, after: int) -> list[Envelope]:
        return [
            letter
            for letter in self.unsent()
            if (letter.node, letter.epoch) == (node, epoch) and letter.seq > after
        ]

    def unsent(self) -> list[Envelope]:
        return sorted(self._log, key=lambda letter: (letter.node, letter.epoch, letter.seq))

    def jobs(self) -> dict[JobId, Job]:
        return dict(self._jobs)

    def nodes(self) -> dict[NodeId, Node]:
        return dict(self._nodes)

    def _wish(self, job_id: JobId, now_s: float, **changes: object) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id}", job=job_id)
        if job.state in TERMINAL:
            raise Conflict(f"{job.spec.name} has {job.state}", job=job_id)
        if job.intent is Intent.CANCEL and changes.get("intent", Intent.CANCEL) != job.intent:
            raise Conflict(f"{job.spec.name} is being cancelled; submit it again", job=job_id)
        after = replace(job, version=job.version + 1, **changes)  # type: ignore[arg-type]
        self._jobs[job_id] = accounted(job, after, now_s)
        return self._jobs[job_id]

    def _write(self, before: Job, step: verbs.Step, now_s: float) -> None:
        self._jobs[step.job.id] = accounted(before, step.job, now_s)
        if more := claim(step.job) - claim(before):
            mine = self._projects[before.spec.project]
            usage = mine.usage.changed(before.spec.device, more, now_s)
            self._projects[mine.id] = replace(mine, usage=usage)
        aside = step.job.spec.aside
        if aside is not None and asides.certifies(before, step.job) and aside.of in self._jobs:
            subject = self._jobs[aside.of]
            self._jobs[subject.id] = asides.certified(subject, step.job, now_s)
        old, new = holdings(before), holdings(step.job)
        for node_id in sorted(old.keys() | new.keys()):
            node = self._nodes[node_id]
            self._nodes[node_id] = replace(node, used=node.used + new[node_id] - old[node_id])
        for command in step.commands:
            node = self._nodes[command.node]
            node = replace(node, seq=node.seq + 1)
            self._nodes[node.id] = node
            letter = Envelope(node=node.id, epoch=node.epoch, seq=node.seq, command=command)
            self._log.append(letter)
