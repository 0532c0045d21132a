"""The whole plane in one thread and no wall time: production decisions, production state table,
production agent logic and barrier; only clock, network, disks and devices are made up.

A run is a pure function of (nodes, jobs, faults, seed): same inputs, same digest.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from singularity.primitives.clock import ManualClock
from singularity.primitives.drains import Drain, Leaving
from singularity.primitives.errors import Conflict
from singularity.primitives.maintenance import Maintenance
from singularity.primitives.messages import Envelope, Heartbeat, Register, Report
from singularity.primitives.model import TERMINAL, Job, JobId, JobState, ShardImage
from singularity.primitives.nodes import ClusterId, Node, NodeId, Scope, ScopeKind
from singularity.primitives.rebalancing import Rebalancing
from singularity.primitives.serving import ServiceId
from singularity.primitives.sharing import GIB
from singularity.scheduler.decide import decide
from singularity.scheduler.ledger import Ledger
from singularity.scheduler.plan import Plan
from singularity.scheduler.policy import Policy
from singularity.scheduler.quota import Quota
from singularity.scheduler.services import Amended, Service
from singularity.scheduler.standing import check
from singularity.scheduler.vigil import Vigil, observe, silent

from . import passes, quotas
from .hands import Machine
from .physics import Physics

Answer = TypeVar("Answer")
TICK_S = 5.0
WATCH_S = 1.0
RELAY_S = 2.0


@dataclass(frozen=True, slots=True)
class Costs:
    """Durations in seconds; `drop`, `repeat` and `late` are probabilities per message, the others
    per event. Late messages take `late_s` on average, the others `hop_s`."""

    launch_s: float = 5.0
    wake_s: float = 0.5  # of a replica that waits
    dump_s: float = 20.0
    reslot_s: float = 3.0
    hop_s: float = 0.05
    plan_s: float = 0.5
    late_s: float = 300.0
    heartbeat_s: float = 5.0
    lease_s: float = 15.0
    fence_late_s: float = 5.0  # how late it may be noticed that a lease is over
    ask_s: float = 5.0  # patience with an answer
    cut_deadline_s: float = 240.0
    first_step_s: float = 900.0
    drop: float = 0.0
    repeat: float = 0.0
    late: float = 0.0
    disk_full: float = 0.0  # a dump fails
    rot: float = 0.0  # an image is found corrupt when it is restored
    undumping: float = 0.0  # a machine has no CRIU
    refuse: float = 0.0  # a launch fails for no lasting reason
    scarce: float = 0.0  # a replica that rests cannot stay in memory; not as long as it rests


class World:
    def __init__(
        self,
        nodes: Iterable[Node],
        *,
        seed: int,
        costs: Costs,
        policy: Policy,
        ledger: Ledger,
    ) -> None:
        self.clock = ManualClock()
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.ledger, self.costs, self.policy = ledger, costs, policy
        self.physics = Physics()
        self.log: list[tuple[object, ...]] = []
        self.counts: Counter[str] = Counter()
        self.passes: Counter[str] = Counter()
        self.unreachable: set[NodeId] = set()
        self.rotten: set[tuple[JobId, int]] = set()  # (job, incarnation) that met a corrupt image
        self._durable: dict[JobId, int] = {}
        self._drained = 0
        self._vigil = Vigil()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._seq = 0
        self.machines = {n.id: Machine(self, n) for n in sorted(nodes, key=lambda n: n.id)}
        for machine in self.machines.values():
            machine.boot_up()
        self.every(TICK_S, self.tick)
        self.every(RELAY_S, self.relay)
        self.every(WATCH_S, self.watch)

    # -- time ------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return self.clock.now_s()

    def at(self, when_s: float, what: Callable[[], None]) -> None:
        self._seq += 1
        heapq.heappush(self._heap, (when_s, self._seq, what))

    def after(self, delay_s: float, what: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, what)

    def every(self, period_s: float, what: Callable[[], None]) -> None:
        def again() -> None:
            what()
            self.after(period_s, again)

        self.after(period_s, again)

    def run(self, until_s: float, jobs: int | None = None) -> None:
        """Run to `until_s`, or until `jobs` jobs have been submitted and all have ended."""
        while self._heap and self._heap[0][0] <= until_s:
            if jobs is not None and self.counts["submit"] >= jobs and self.finished():
                return
            when_s, _, what = heapq.heappop(self._heap)
            self.clock.advance_to(when_s)
            what()

    def finished(self) -> bool:
        return all(j.state in TERMINAL for j in self.ledger.jobs().values())

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def spread(self, mean_s: float) -> float:
        """A duration around `mean_s`."""
        return mean_s * float(self.rng.uniform(0.5, 1.5))

    # -- the network -----------------------------------------------------------------------------

    def send(self, node: NodeId, arrive: Callable[[], None]) -> None:
        """One message from or to `node`: it may be dropped, come twice, or much later."""
        if node in self.unreachable:
            return
        for _ in range(1 + self.chance(self.costs.repeat)):
            if not self.chance(self.costs.drop):
                mean_s = self.costs.late_s if self.chance(self.costs.late) else self.costs.hop_s
                self.after(mean_s * float(self.rng.exponential(1.0)), arrive)

    def ask(
        self, node: NodeId, request: Callable[[], Answer], answer: Callable[[Answer], None]
    ) -> None:
        """A question of `node` and its answer. Both may get lost; the caller keeps its patience."""

        def arrive() -> None:
            found = request()
            self.send(node, lambda: answer(found))

        self.send(node, arrive)

    # -- the control plane -----------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        self.ledger.submit(job)
        self._durable[job.id] = 0
        self.note("submit", job.id)

    def open_service(self, service: Service, replicas: Sequence[Job]) -> None:
        self.ledger.open_service(service, replicas)
        self._durable |= {job.id: 0 for job in replicas}
        self.note("service", service.id, service.least, service.most)

    def change_service(
        self, service: ServiceId, what: str, change: Callable[[Service], Amended]
    ) -> None:
        self.ledger.change_service(service, what, change, self.now_s)
        self._durable = dict.fromkeys(self.ledger.jobs(), 0) | self._durable
        self.note(what, service)

    def tick(self) -> None:
        snapshot = self.ledger.snapshot(self.now_s)
        plan = decide(snapshot, self.policy)
        assert not (faults := check(snapshot, plan)), faults
        self.ledger.carry_out(plan.orders, self.now_s)
        for order in plan.orders:
            self.note(f"order-{type(order).__name__.lower()}", *astuple(order))
            self.passes[passes.of_order(order)] += 1
        if plan.actions or plan.changes:
            self.after(self.costs.plan_s, partial(self._commit, plan))

    def _commit(self, plan: Plan) -> None:
        versions = {service.id: service.version for service in self.ledger.services()}
        before, was = Quota(self.ledger.projects()), dict(self.ledger.jobs())
        rejected = self.ledger.commit(plan, self.now_s)
        assert not (above := quotas.exceeded(self, before)), above
        for change in plan.changes:
            after = change.service
            if versions.get(after.id) == after.version - 1:
                versions[after.id] = after.version
                self.note(change.event or "sized", after.id, change.reason)
        jobs = self.ledger.jobs()
        for action in plan.actions:
            verb = "rejected" if action.job in rejected else action.verb
            if action.job not in rejected:
                done = passes.of_action(was[action.job], action, governs=before.governs)
                self.passes.update(done)
            self.note(verb, action.job, action.placement, action.reason)
            self._watch_over(jobs[action.job])

    def relay(self) -> None:
        for letter in self.ledger.unsent():
            self.send(letter.node, partial(self.machines[letter.node].letter, letter))

    def watch(self) -> None:
        heard_s = {n.id: n.heard_s for n in self.ledger.nodes().values() if n.epoch and not n.lost}
        self._vigil = observe(self._vigil, heard_s, self.now_s)
        if found := silent(self._vigil, self.policy.node_lost_after_s):
            for node in self.ledger.lose(found, self.now_s):
                self.note("lost", node)

    def register(self, register: Register) -> int:
        epoch = self.ledger.register(register, self.now_s).epoch
        self.note("admitted", register.node, epoch)
        return epoch

    def heartbeat(self, beat: Heartbeat) -> tuple[int, tuple[tuple[JobId, int], ...]] | None:
        """The seq written so far and what may be forgotten; None when not admitted."""
        written = self.ledger.hear(beat.node, beat.epoch, beat.acknowledged, self.now_s)
        if written is None:
            return None
        forget = [(r.job, r.incarnation) for r in beat.reports if self.record(r)]
        return written, tuple(forget)

    def record(self, report: Report) -> bool:
        settled = self.ledger.record(report, self.now_s)
        self._watch_over(self.ledger.jobs()[report.job])
        return settled

    def letters(self, node: NodeId, epoch: int, after: int) -> list[Envelope]:
        return self.ledger.letters(node, epoch, after)

    def holds(self, job: JobId, image: ShardImage) -> bool:
        """Is that part of a handover still in the memory of its node, and can it be had?"""
        keeper = self.machines[image.node]
        there = keeper.up and image.node not in self.unreachable
        return there and keeper.memory.holds(job, image)

    # -- the laws --------------------------------------------------------------------------------

    def _watch_over(self, job: Job) -> None:
        """What holds for every job after every write."""
        last = job.checkpoint
        step = last.step if last else 0
        before = self._durable[job.id]
        if step < before:
            assert (job.id, job.incarnation) in self.rotten, f"{job.id} shrank {before} to {step}"
        self._durable[job.id] = step
        if last is not None:
            owner = job.spec.aside.of if job.spec.aside else job.id
            self.physics.verify(owner, last, job.spec.ranks)
        assert not any(i.held for made in job.checkpoints for i in made.shards), job.id
        if job.handover is not None:
            assert job.state not in TERMINAL and job.state is not JobState.RUNNING, job.id
            self.physics.verify(job.id, job.handover, job.spec.ranks)
        if job.state is JobState.SUCCEEDED:
            self.physics.verify_finished(job.id, job.incarnation)

    def digest(self) -> str:
        return hashlib.sha256(repr(self.log).encode()).hexdigest()[:16]

    def note(self, what: str, *facts: object) -> None:
        self.counts[str(what)] += 1
        self.log.append((round(self.now_s, 6), str(what), *facts))

    # -- faults ----------------------------------------------------------------------------------

    def crash(self, node: NodeId, down_s: float) -> None:
        """The machine loses power: every process dies; disks survive."""
        machine = self.machines[node]
        if machine.up:
            self.note("crash", node)
            machine.power_off()
            self.after(down_s, machine.boot_up)

    def restart(self, node: NodeId, down_s: float) -> None:
        """The agent dies and comes back; the ranks do not notice, until their supervisors stop them
        because its lease is over."""
        machine = self.machines[node]
        if machine.up:
            self.note("restart", node)
            machine.shut_down()
            self.after(down_s, machine.boot_up)

    def isolate(self, node: NodeId, seconds: float) -> None:
        """Nothing reaches the node and nothing leaves it; it runs on."""
        if node not in self.unreachable:
            self.note("isolate", node)
            self.unreachable.add(node)
            self.after(seconds, partial(self.unreachable.discard, node))

    def cut_off(self, region: str, seconds: float) -> None:
        """Isolate a whole region."""
        for node, machine in self.machines.items():
            if machine.node.region == region:
                self.isolate(node, seconds)

    def drain(self, node: NodeId, seconds: float) -> None:
        """For so long, in one of the ways that there are; a while of it paused, perhaps."""
        scope = Scope(ScopeKind.NODE, node)
        if any(d.scope == scope for d in self.ledger.drains()):
            return
        self._drained += 1
        leaving = list(Leaving)[int(self.rng.integers(len(Leaving)))]
        order = Drain(f"drain-{self._drained}", scope, self.now_s, leaving)
        if self.chance(0.5):
            order = replace(order, deadline_s=self.now_s + seconds / 2, moves_most=1)
        if self.chance(0.3):
            order = replace(order, bytes_per_s=1e8)
        try:
            self.ledger.open_drain(order)
        except Conflict:  # it is being emptied for maintenance
            return
        self.note("drain", node, leaving)
        if self.chance(0.3):
            self.ledger.pause_drain(order.id, paused=True, now_s=self.now_s)
            self.after(seconds / 4, partial(self._go_on, order.id))
        self.after(seconds, partial(self._undrain, order.id))

    def _go_on(self, drain: str) -> None:
        self.ledger.pause_drain(drain, paused=False, now_s=self.now_s)

    def _undrain(self, drain: str) -> None:
        self.ledger.close_drain(drain, self.now_s)

    def rebalance(self, seconds: float) -> None:
        """Tidy up for so long, unless somebody does already."""
        self._drained += 1
        until_s = self.now_s + seconds
        with suppress(Conflict):
            found = Rebalancing(f"rebalance-{self._drained}", self.now_s, until_s)
            self.ledger.order_rebalancing(found)
            self.note("rebalance")

    def maintain(self, cluster: str, opens_s: float, seconds: float) -> None:
        """Work on a cluster, each day at that time, to the minute."""
        when = f"daily {int(opens_s // 3600) % 24:02}:{int(opens_s // 60) % 60:02} UTC"
        scope = Scope(ScopeKind.CLUSTER, cluster)
        self.note("maintenance", cluster, when)
        found = Maintenance(f"work-{cluster}", scope, when, seconds)
        self.ledger.plan_maintenance(found, self.now_s)

    def calm(self) -> None:
        """From here on nothing goes wrong any more."""
        self.note("calm")
        self.costs = replace(
            self.costs,
            drop=0.0,
            repeat=0.0,
            late=0.0,
            disk_full=0.0,
            rot=0.0,
            refuse=0.0,
            scarce=0.0,
        )


def fleet(nodes: int, devices: int = 8, clusters: int = 3) -> list[Node]:
    """Nodes of one device kind over `clusters` clusters and two regions."""
    found = []
    for i in range(nodes):
        cluster = i % clusters
        region = "eu" if cluster % 2 == 0 else "us"
        rack = str(i // clusters % 2)
        where = {"region": region, "cluster": ClusterId(f"{region}-{cluster}"), "rack": rack}
        shares = {"memory_bytes": 16 * GIB, "preempts": i % 4 != 0, "whole": i % 6 != 5}
        what = {"device": "sim", "devices": devices, **shares}
        found.append(Node(NodeId(f"n{i:03}"), **where, **what))  # type: ignore[arg-type]
    return found
