"""The ledger kept in dicts. Same contract as api.applier.SqlLedger; tests/contract holds the two
together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from singularity.primitives import asides, lending, verbs
from singularity.primitives.drains import Drain, begun, booked, need_idle, standing
from singularity.primitives.errors import Conflict, NotFound
from singularity.primitives.faults import fault_of, gone, noted, reborn, steered
from singularity.primitives.health import Quarantine
from singularity.primitives.holdings import concerned, holdings, hosts, presented, rebooked, spots
from singularity.primitives.maintenance import Maintenance
from singularity.primitives.messages import Envelope, Register, Report
from singularity.primitives.model import ACTIVE, TERMINAL, Intent, Job, JobId
from singularity.primitives.nodes import ClusterId, Duty, Node, NodeId, RegionId, Scope, ScopeKind
from singularity.primitives.operations import PLANE, By
from singularity.primitives.projects import Project, admitted, capacity, claim
from singularity.primitives.rebalancing import Rebalancing, need_none
from singularity.primitives.service import Loss
from singularity.primitives.sla import accounted, charged
from singularity.primitives.tariffs import Tariff, checked
from singularity.scheduler.orders import Close, Isolate, Open, Order, Readmit, Settle, judged
from singularity.scheduler.plan import Plan, grows, perform
from singularity.scheduler.quota import Quota
from singularity.scheduler.resident import Resident
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.standing import admissible, outdated

from .services import MemoryServices

K = TypeVar("K")
V = TypeVar("V")


class _Noted(dict[K, V]):
    """A dict that notes which keys were set since it was last asked."""

    def __init__(self) -> None:
        super().__init__()
        self._fresh: dict[K, None] = {}

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self._fresh[key] = None

    def __delitem__(self, key: K) -> None:
        super().__delitem__(key)
        self._fresh.pop(key, None)

    def fresh(self) -> list[V]:
        found, self._fresh = [self[key] for key in self._fresh], {}
        return found


class MemoryLedger(MemoryServices):
    """scheduler.ledger.Ledger in memory. Its snapshots follow what changed, as those of the control
    plane do."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: _Noted[JobId, Job] = _Noted()
        self._nodes: _Noted[NodeId, Node] = _Noted()
        self._resident = Resident()
        self._log: list[Envelope] = []
        self._drains: dict[str, Drain] = {}
        self._maintenance: dict[str, Maintenance] = {}
        self._rebalancing: Rebalancing | None = None
        self._acknowledged_s = 0.0
        self._projects: dict[str, Project] = {}
        self._tariffs: dict[Scope, Tariff] = {}

    def submit(self, job: Job) -> None:
        assert job.id not in self._jobs, job.id
        self._jobs[job.id] = job
        self._projects.setdefault(job.spec.project, Project(job.spec.project))

    def snapshot(self, now_s: float) -> Snapshot:
        self._resident.apply(self._nodes.fresh(), self._jobs.fresh())
        missing = (self._jobs.get(job) for job in sorted(self._resident.missing()))
        self._resident.apply((), [job for job in missing if job is not None])
        found = self._resident.snapshot(now_s, self._drains.values(), self._acknowledged_s)
        planned = sorted(self._maintenance.values(), key=lambda m: m.id)
        return replace(
            found,
            maintenance=tuple(planned),
            rebalancing=self._rebalancing,
            traffic=self.traffic(now_s),
            projects=tuple(self.projects()),
            tariffs=tuple(self.tariffs()),
        )

    def commit(self, plan: Plan, now_s: float) -> dict[JobId, str]:
        rejected, quota = {}, Quota(self._projects.values())
        written = self._change(plan.changes)
        for action in sorted(plan.actions, key=lambda a: a.job):
            job = self._jobs[action.job]
            more = grows(job, action)
            why_not = admissible(job, action, self._nodes) or outdated(job, action, written)
            if why_not := why_not or quota.refuses(job, more):
                rejected[job.id] = why_not
            else:
                quota.take(job, more)
                self._write(job, perform(job, action, now_s), now_s)
                if action.pace_s and (order := self._drains.get(action.drain)):
                    self._drains[order.id] = booked(order, action.pace_s, now_s)
        return rejected

    def record(self, report: Report, now_s: float) -> bool:
        job = self._jobs.get(report.job)
        if job is None:
            return verbs.settled(job, report)
        step = verbs.settle(job, report, now_s)
        self._write(job, step, now_s)
        if (fault := fault_of(job, step.job, report, now_s)) is not None:
            self._nodes[report.node] = noted(self._nodes[report.node], fault)
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
            held = node.used > 0
            node = reborn(self._nodes[node.id], now_s, held=held, seen=register.epoch)
        node = presented(node, register, now_s)
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
                self._nodes[node_id] = gone(node, now_s)
                lost.append(node_id)
        return lost

    def examine(self, node: NodeId, sick: tuple[str, ...]) -> None:
        if (found := self._nodes.get(node)) is not None:
            self._nodes[node] = replace(found, health=replace(found.health, sick=sick))

    def charge(self, node: NodeId, lost: Mapping[JobId, Sequence[Loss]], now_s: float) -> None:
        for job, found in lost.items():
            if job in self._jobs:
                self._jobs[job] = charged(self._jobs[job], node, found, now_s)

    def carry_out(self, orders: Sequence[Order], now_s: float) -> None:
        for order in orders:
            with suppress(Conflict, NotFound):
                match order:
                    case Isolate() | Readmit():
                        self._nodes[order.node] = judged(self._nodes[order.node], order, now_s)
                    case Open(drain):
                        self.open_drain(drain)
                    case Close(drain_id):
                        self.close_drain(drain_id, now_s)
                    case Settle(rebalancing):
                        self.settle_rebalancing(rebalancing, now_s)

    def quarantine(
        self, node: NodeId, quarantine: Quarantine | None, now_s: float, by: By = PLANE
    ) -> Node:
        if node not in self._nodes:
            raise NotFound(f"there is no node {node!r}")
        self._nodes[node] = steered(self._nodes[node], quarantine, now_s)
        return self._nodes[node]

    def plan_maintenance(self, found: Maintenance, now_s: float, by: By = PLANE) -> None:
        self._maintenance[found.id] = found

    def order_rebalancing(self, found: Rebalancing, by: By = PLANE) -> None:
        need_none(self._rebalancing)
        self._rebalancing = found

    def settle_rebalancing(self, rebalancing: str, now_s: float, by: By = PLANE) -> None:
        if self._rebalancing is None or self._rebalancing.id != rebalancing:
            raise NotFound(f"there is no rebalancing {rebalancing!r} in force")
        self._rebalancing = None

    def set_duty(self, scope: Scope, duty: Duty, now_s: float, by: By = PLANE) -> list[NodeId]:
        found = sorted(n.id for n in self._nodes.values() if scope.holds(n))
        for node in found:
            self._nodes[node] = replace(self._nodes[node], duty=duty)
        return found

    def remove_node(self, node: NodeId, now_s: float, quiet_s: float, by: By = PLANE) -> None:
        if (found := self._nodes.get(node)) is None:
            raise NotFound(f"there is no node {node!r}")
        jobs = sum(node in {*holdings(job), *spots(job)} for job in self._jobs.values())
        need_idle(found, jobs, now_s - quiet_s)
        for order in self.drains():
            if order.scope == Scope(ScopeKind.NODE, node):
                self.close_drain(order.id, now_s)
        del self._nodes[node]
        self._resident.remove([node])
        self._log = [letter for letter in self._log if letter.node != node]

    def open_drain(self, drain: Drain, by: By = PLANE) -> Drain:
        if (known := standing(drain, self._drains.values(), self._nodes.values())) is not None:
            return known
        self._drains[drain.id] = begun(drain, self._nodes.values())
        self.set_duty(drain.scope, Duty.DRAINING, drain.at_s)
        return self._drains[drain.id]

    def pause_drain(self, drain: str, *, paused: bool, now_s: float, by: By = PLANE) -> Drain:
        self._drains[drain] = replace(self._in_force(drain), paused=paused)
        return self._drains[drain]

    def close_drain(self, drain: str, now_s: float, by: By = PLANE) -> Drain:
        found = self._in_force(drain)
        if (planned := self._maintenance.get(found.upkeep)) and found.deadline_s is not None:
            self._maintenance[planned.id] = replace(planned, done_s=found.deadline_s)
        del self._drains[drain]
        self.set_duty(found.scope, Duty.READY, now_s)
        for node in found.cordoned:
            self.set_duty(Scope(ScopeKind.NODE, node), Duty.CORDONED, now_s)
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

    def go_back(self, job: JobId, to: tuple[int, int], now_s: float) -> Job:
        return self._wish(job, now_s, back_to=to, retry_at_s=0.0)

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

    def job(self, job: JobId) -> Job:
        return self._jobs[job]

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
        self._keep(job, after, now_s)
        return self._jobs[job_id]

    def _keep(self, before: Job, after: Job, now_s: float) -> None:
        after, ended = lending.repaid(accounted(before, after, now_s), now_s)
        self._repay(after, ended)
        self._jobs[after.id] = after

    def _write(self, before: Job, step: verbs.Step, now_s: float) -> None:
        self._keep(before, step.job, now_s)
        if more := claim(step.job) - claim(before):
            mine = self._projects[before.spec.project]
            usage = mine.usage.changed(before.spec.device, more, now_s)
            self._projects[mine.id] = replace(mine, usage=usage)
        aside = step.job.spec.aside
        if aside is not None and asides.certifies(before, step.job) and aside.of in self._jobs:
            subject = self._jobs[aside.of]
            self._jobs[subject.id] = asides.certified(subject, step.job, now_s)
        for node_id in concerned(before, step.job):
            self._nodes[node_id] = rebooked(self._nodes[node_id], before, step.job)
        for command in step.commands:
            node = self._nodes[command.node]
            node = replace(node, seq=node.seq + 1)
            self._nodes[node.id] = node
            letter = Envelope(node=node.id, epoch=node.epoch, seq=node.seq, command=command)
            self._log.append(letter)
