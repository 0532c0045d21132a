"""What the scheduler wants done, why, and the rules every plan obeys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np

from singularity.primitives import cuts, replicas, verbs
from singularity.primitives.holdings import holdings, hosts
from singularity.primitives.model import (
    ACTIVE,
    Checkpoint,
    Goal,
    Job,
    JobId,
    JobState,
    Placement,
)
from singularity.primitives.nodes import NodeId
from singularity.primitives.projects import claim
from singularity.primitives.records import replace
from singularity.primitives.resizing import is_in_place
from singularity.primitives.service import Loan, charge
from singularity.primitives.serving import ServiceId
from singularity.primitives.verbs import Step

from .orders import Order
from .parts import Parts
from .policy import Policy
from .quota import UNBOUND, Bound, Quota
from .services import Change
from .snapshot import Flags, Ints, Snapshot


class Verb(StrEnum):
    RESUME = "resume"
    CHECKPOINT = "checkpoint"
    SUSPEND = "suspend"
    MIGRATE = "migrate"
    SCALE = "scale"
    FAILOVER = "failover"
    STOP = "stop"  # overdue: stop and try again
    CANCEL = "cancel"
    EXPIRE = "expire"  # ran longer than its owner allowed
    LET_GO = "let-go"  # of a handover that nobody comes for
    WAKE = "wake"  # a replica shall serve
    REST = "rest"  # it shall not, once its requests are done


MINUTE_S: Final = 60.0
CUTS = frozenset({Verb.CHECKPOINT, Verb.SUSPEND, Verb.MIGRATE, Verb.SCALE})


@dataclass(frozen=True, slots=True)
class Action:
    """One primitive applied to one job. `seen` is the row version it was decided on; `price` what
    it costs, in device-seconds, where that was weighed, and `lent_to` the service whose replica
    gets the devices. `note_after` is as in messages.Cut, and `origin` what a job of kind verify
    restores, for it has no checkpoints of its own. A move for a `drain` takes up `pace_s` seconds
    of what that may carry."""

    verb: Verb
    job: JobId
    seen: int
    reason: str
    placement: Placement = ()
    lost: frozenset[NodeId] = frozenset()
    price: float | None = None
    lent_to: ServiceId | None = None
    note_after: int = 0
    origin: Checkpoint | None = None
    drain: str = ""
    pace_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that keeps a job waiting: a stable `kind`, and a sentence with the numbers."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Plan:
    """`pending`: for every job that wants to run and is not placed by this plan, why not. `orders`
    change facts, each by itself, before the actions."""

    actions: tuple[Action, ...] = ()
    pending: Mapping[JobId, tuple[Reason, ...]] = field(default_factory=dict)
    orders: tuple[Order, ...] = ()
    changes: tuple[Change, ...] = ()


@dataclass(slots=True)
class Findings:
    """What was found while a plan was written, for the next that asks for the same: most of those
    that wait are alike. Devices only become fewer, so what did not fit will not.

    may    nodes that a job may use      full  the fewest units that fit nowhere
    lacks  what such a job lacks         vain  devices and level, for which nobody made room
    level  of a job, as in queueing      told  why one waits, and then all that are like it
    near   as in sla.near_promise
    """

    may: dict[Hashable, Flags] = field(default_factory=dict)
    full: dict[Hashable, int] = field(default_factory=dict)
    lacks: dict[Hashable, tuple[Reason, ...]] = field(default_factory=dict)
    vain: dict[Hashable, tuple[int, int]] = field(default_factory=dict)
    level: dict[JobId, int] = field(default_factory=dict)
    told: dict[Hashable, tuple[Reason, ...]] = field(default_factory=dict)
    near: dict[JobId, bool] = field(default_factory=dict)


class Draft:
    """A plan being written, with the capacity it leaves. The core's only mutable thing.

    `free` is what may be given away, `fleet` finds it where nodes are ready, and `parts` are the
    devices that are given out in shares; `coming` what
    earlier decisions, carried out or not, will free on each node, so that nothing is reclaimed
    twice; `promised` what of both is meant for jobs that wait, so that no two count on the same
    devices. `quota` keeps the same of projects.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy = Policy()) -> None:
        self.snapshot, self.policy = snapshot, policy
        self.free = snapshot.free.copy()
        self.fleet = snapshot.fleet.copy()
        self.parts = Parts(snapshot)
        self.coming = np.zeros_like(self.free)
        self.promised = np.zeros_like(self.free)
        self.findings = Findings()
        self.quota = Quota(snapshot.projects, snapshot.jobs)
        self._actions: dict[JobId, Action] = {}
        self._pending: dict[JobId, tuple[Reason, ...]] = {}
        self._changes: list[Change] = []
        self._evicted = len(recently_evicted(snapshot))
        self._in: dict[JobState, list[Job]] = {}
        self._groups: dict[tuple[str, str], list[Job]] = {}
        for job in snapshot.jobs:
            self._in.setdefault(job.state, []).append(job)
            if job.spec.topology.apart:
                self._groups.setdefault(_group(job), []).append(job)
            if job.state in (JobState.SUSPENDING, JobState.STOPPING) or job.resizing:
                self._expect(job, job.target)

    def touched(self, job: Job) -> bool:
        return job.id in self._actions

    def verb(self, job: Job) -> Verb | None:
        """Of its action, if it has one."""
        action = self._actions.get(job.id)
        return action.verb if action else None

    def untouched(self, state: JobState) -> list[Job]:
        """Jobs in `state` without an action yet, in id order."""
        return [j for j in self._in.get(state, ()) if j.id not in self._actions]

    def can_cut(self, job: Job) -> bool:
        """May a checkpoint of the job begin now? One at a time, and of whole gangs only."""
        return (
            job.state is JobState.RUNNING
            and job.spec.aside is None
            and not self.touched(job)
            and not job.dumping
            and not job.resizing
            and not job.exited
            and job.retry_at_s <= self.snapshot.now_s
        )

    def why_uncut(self, job: Job) -> str:
        """What whoever waits for the job to be cut is told; "" where that may begin now."""
        if self.can_cut(job):
            return ""
        failed = f": {job.message}" if job.dump_failures and job.message else ""
        return f"waits until it can be cut{failed}"

    def mask(self, nodes: frozenset[NodeId]) -> Flags:
        found = np.zeros(len(self.snapshot.nodes), dtype=np.bool_)
        found[[self.snapshot.row[n] for n in sorted(nodes)]] = True
        return found

    def shunned(self, job: Job) -> list[int]:
        """Rows where the job may not go because of who is there or will be, and of what it is."""
        nodes = set(job.unfit)
        for other in self._groups.get(_group(job), ()) if job.spec.topology.apart else ():
            if other.id != job.id:
                nodes.update(hosts(other) if other.state in ACTIVE else ())
                if (action := self._actions.get(other.id)) is not None:
                    nodes.update(s.node for s in action.placement)
        return sorted(self.snapshot.row[n] for n in nodes if n in self.snapshot.row)

    def take(self, action: Action) -> None:
        self.findings.lacks.clear()
        self.findings.told.clear()
        if self.quota.governs:  # who gives way depends on what projects hold
            self.findings.vain.clear()
        assert action.job not in self._actions, f"{action.job} already has an action"
        self._actions[action.job] = action
        job = self.snapshot.by_id[action.job]
        for node, devices in self._needed(job, action.placement).items():
            self._give(node, devices)
        if action.placement:
            self.quota.take(job, grows(job, action))
        leaves = action.verb not in (Verb.RESUME, Verb.CHECKPOINT, Verb.WAKE, Verb.REST)
        if leaves and job.state in (JobState.STARTING, JobState.RUNNING):
            self._expect(job, action.placement)

    @property
    def preemptions(self) -> int:
        """Jobs that this plan takes devices from for the sake of others."""
        return sum(1 for action in self._actions.values() if action.price is not None)

    @property
    def evictions(self) -> int:
        """Jobs that left their devices for others within the last minute, unless an operator has
        acknowledged that, and those that this plan tells to."""
        told = [a for a in self._actions.values() if a.price is not None]
        return self._evicted + sum(evicts(self.snapshot.by_id[a.job], a) for a in told)

    def promise(self, job: Job, placement: Placement) -> None:
        """Keep what is free there, and what will be, for a job that waits for the rest of it. Of
        shares only what must become whole for them: for the rest, two may hope for one."""
        for shard in placement:
            row = self.snapshot.row[shard.node]
            there = {part.index for part in self.snapshot.nodes[row].parts}
            devices = shard.devices - len(there & set(shard.indices))
            self.promised[row] += devices
            if self.quota.governs:  # it may wait for its quota alone: others take what is spare
                spare = self.free[row] + self.coming[row] - self.promised[row]
                devices = min(devices, max(0, int(self.fleet.free[row]) - max(0, int(spare))))
            self._hide(row, devices)
        self.quota.promise(job, sum(s.devices for s in placement) - claim(job))

    def bound(self, job: Job) -> Bound | None:
        """The quota that binds the job most now; None where nothing does."""
        if not self.quota.governs:
            return None
        return self.quota.bound(job, self.idle(job.spec.device, self.free))

    def most(self, job: Job) -> int:
        """Devices that the job may hold now by all quotas."""
        bound = self.bound(job)
        return UNBOUND if bound is None else claim(job) + max(0, bound.room)

    def idle(self, kind: str, free: Ints) -> int:
        """Of `free` int64[N], devices of that kind where nodes are ready."""
        snapshot = self.snapshot
        if kind not in snapshot.device_names:
            return 0
        mine = snapshot.ready & (snapshot.device == snapshot.device_names.index(kind))
        return int(free[mine].sum())

    def explain(self, job: Job, reasons: tuple[Reason, ...]) -> None:
        self._pending[job.id] = reasons

    def explain_all(self, jobs: Iterable[Job], reasons: tuple[Reason, ...]) -> None:
        self._pending.update(dict.fromkeys([job.id for job in jobs], reasons))

    def change(self, change: Change) -> None:
        self._changes.append(change)

    def plan(self, orders: tuple[Order, ...] = ()) -> Plan:
        pending = {j: r for j, r in self._pending.items() if j not in self._actions}
        return Plan(tuple(self._actions.values()), pending, orders, tuple(self._changes))

    def _give(self, node: NodeId, devices: int) -> None:
        row = self.snapshot.row[node]
        self.free[row] -= devices
        self._hide(row, devices)

    def _hide(self, row: int, devices: int) -> None:
        """From the fleet, where whole devices are found; what was promised is not in it any more,
        and no node that is not ready or has nothing but shares ever was."""
        if self.snapshot.ready[row] and self.snapshot.whole[row]:
            self.fleet.take([(row, min(devices, int(self.fleet.free[row])))])

    def _needed(self, job: Job, placement: Placement) -> Counter[NodeId]:
        """Devices that are not the job's yet, and are free as a whole until now."""
        if job.spec.share is not None:
            return self.parts.take(job, placement)
        return _devices(placement) - holdings(job)

    def _expect(self, job: Job, target: Placement) -> None:
        """The job leaves its devices but for those of `target`."""
        if job.spec.share is not None:
            freed = self.parts.leave(job, target)
        else:
            freed = _devices(job.placement) - _devices(target)
        for node, devices in freed.items():
            self.coming[self.snapshot.row[node]] += devices
        self.quota.expect(job, max(0, job.held - sum(s.devices for s in target)))


def _devices(placement: Placement) -> Counter[NodeId]:
    return Counter({shard.node: shard.devices for shard in placement})


def _group(job: Job) -> tuple[str, str]:
    return job.spec.project, job.spec.topology.apart


def recently_evicted(snapshot: Snapshot) -> list[Job]:
    """Jobs that had to leave their devices for others within the last minute, if no operator has
    acknowledged that."""
    since_s = max(snapshot.now_s - MINUTE_S, snapshot.acknowledged_s)
    return [j for j in snapshot.jobs if j.taken and (j.taken.evicted_at_s or 0.0) > since_s]


def grows(job: Job, action: Action) -> int:
    """Devices more that count against the job's project while the action is carried out."""
    if job.spec.aside is not None:
        return 0
    return max(0, sum(s.devices for s in action.placement) - claim(job))


def evicts(job: Job, action: Action) -> bool:
    """Does it make the job leave its devices, and not only share them more tightly?"""
    shares = action.verb is Verb.SCALE and is_in_place(job, action.placement)
    return action.verb in CUTS - {Verb.CHECKPOINT} and (not shares or job.resize_refused)


def perform(job: Job, action: Action, now_s: float) -> Step:
    """Turn one action into the next Job, which remembers why, and its commands."""
    step = _dispatch(job, action, now_s)
    if job.state is JobState.STOPPING and action.verb is Verb.STOP:
        return step  # said again; why it stops is remembered already
    changes: dict[str, Any] = {"message": action.reason}
    if action.price is not None:
        gone = evicts(job, action)
        changes["taken"] = charge(job.taken, now_s, action.price, action.reason, evicted=gone)
        if action.lent_to is not None:
            given = job.held - sum(s.devices for s in action.placement)
            loan = Loan(action.lent_to, given, now_s, action.price)
            changes["loans"] = (*job.loans, loan)
    return replace(step, job=replace(step.job, **changes))


def _dispatch(job: Job, action: Action, now_s: float) -> Step:
    match action.verb:
        case Verb.RESUME:
            if action.origin is not None:
                job = replace(job, checkpoints=(action.origin,))
            return verbs.resume(job, action.placement, now_s)
        case Verb.CHECKPOINT:
            return verbs.checkpoint(job, now_s, action.note_after)
        case Verb.SUSPEND | Verb.MIGRATE:
            return verbs.suspend(job, now_s, action.placement)
        case Verb.SCALE:
            return verbs.scale(job, action.placement, now_s)
        case Verb.FAILOVER:
            return verbs.failover(job, action.lost, now_s, action.reason)
        case Verb.STOP:
            return verbs.overdue(job, now_s, action.reason)
        case Verb.CANCEL:
            return verbs.cancel(job, now_s)
        case Verb.EXPIRE:
            return verbs.stop(job, now_s, Goal.FAIL, action.reason)
        case Verb.LET_GO:
            return Step(cuts.let_go(job))
        case Verb.WAKE | Verb.REST:
            wakes = action.verb is Verb.WAKE
            return Step(replicas.wake(job) if wakes else replicas.rest(job, now_s))
