"""A plan being written, with the capacity it leaves: the core's only mutable thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from singularity.primitives import replicas
from singularity.primitives.holdings import holdings, hosts
from singularity.primitives.model import ACTIVE, Job, JobId, JobState, Placement
from singularity.primitives.nodes import NodeId
from singularity.primitives.projects import claim

from .fleet.reference import Ranks
from .orders import Order
from .parts import Parts
from .pending import Pending
from .plan import Action, Plan, Reason, Verb, evicts, grows, recently_evicted
from .policy import Policy
from .queueing import Footing
from .quota import UNBOUND, Bound, Quota
from .services import Change
from .snapshot import Flags, Ints, Snapshot, frozen


@dataclass(slots=True)
class Findings:
    """What was found while a plan was written, for the next that asks for the same: most of those
    that wait are alike. Devices only become fewer, so what did not fit will not.

    may    nodes that a job may use      full  the fewest units that fit nowhere
    meet   of two, do they share some?
    lacks  what such a job lacks         vain  devices, and who stood how when nobody made room
    told   why one waits, or who is before it, and then all that are like it
    footing  of a job, as in queueing
    near   as in sla.near_promise
    ranks  as placement.ranks, of jobs that have no home
    offers what a job gives, by its id, where it goes and whether that was borrowed
    roster as in roster.py
    ways   as in ways.py, by cluster and who asks; and how often it had been stirred by then
    """

    may: dict[Hashable, Flags] = field(default_factory=dict)
    meet: dict[Hashable, bool] = field(default_factory=dict)
    full: dict[Hashable, int] = field(default_factory=dict)
    lacks: dict[Hashable, tuple[Reason, ...]] = field(default_factory=dict)
    vain: dict[Hashable, tuple[int, Footing]] = field(default_factory=dict)
    footing: dict[JobId, Footing] = field(default_factory=dict)
    told: dict[Hashable, tuple[Reason, ...] | Job] = field(default_factory=dict)
    near: dict[JobId, bool] = field(default_factory=dict)
    ranks: dict[Hashable, Ranks] = field(default_factory=dict)
    offers: dict[Hashable, object] = field(default_factory=dict)
    roster: object | None = None
    ways: dict[Hashable, tuple[int, object]] = field(default_factory=dict)


class Draft:
    """A plan being written, with the capacity it leaves. The core's only mutable thing.

    `free` is what may be given away, `fleet` finds it where nodes are ready, and `parts` are the
    devices that are given out in shares; `coming` what
    earlier decisions, carried out or not, will free on each node, so that nothing is reclaimed
    twice; `promised` what of both is meant for jobs that wait, so that no two count on the same
    devices. `quota` keeps the same of projects, and `stirred` how often any of it has changed in
    each cluster. `preemptions` are jobs that this plan takes devices from for the sake of others,
    and `evictions` those that it tells to leave theirs, with those that did so within the last
    minute, unless an operator has acknowledged that.
    """

    def __init__(self, snapshot: Snapshot, policy: Policy = Policy()) -> None:
        self.snapshot, self.policy = snapshot, policy
        self.free = snapshot.free.copy()
        self.fleet = snapshot.fleet.copy()
        self.parts = Parts(snapshot)
        self.coming = np.zeros_like(self.free)
        self.promised = np.zeros_like(self.free)
        self.findings = Findings()
        self.quota = Quota(snapshot.projects, snapshot.loose)
        self._actions: dict[JobId, Action] = {}
        self._pending: dict[JobId, tuple[Reason, ...]] = {}
        self._lines: list[tuple[tuple[JobId, ...], int, tuple[Reason, ...]]] = []
        self._changes: list[Change] = []
        self.preemptions, self.evictions = 0, len(recently_evicted(snapshot))
        self._in: dict[JobState, list[Job]] = {}
        self._groups: dict[tuple[str, str], list[Job]] = {}
        self.stirred = [0] * len(snapshot.cluster_names)
        self._unclaimed: Ints | None = None
        self._of_kind: dict[str, Flags] = {}
        self._idle: dict[str, int] = {}
        self._bounds: dict[tuple[str, str], Bound | None] = {}
        for job in snapshot.astir:
            self._in.setdefault(job.state, []).append(job)
            if job.spec.topology.apart:
                self._groups.setdefault(_group(job), []).append(job)
            passing = job.state in (JobState.SUSPENDING, JobState.STOPPING)
            if passing or job.resizing or replicas.evicted(job):
                self._expect(job, job.placement, job.target)

    def touched(self, job: Job) -> bool:
        return job.id in self._actions

    def verb(self, job: Job) -> Verb | None:
        """Of its action, if it has one."""
        action = self._actions.get(job.id)
        return action.verb if action else None

    def untouched(self, state: JobState) -> list[Job]:
        """Jobs in `state` without an action yet, in id order; of those that wait, none that is only
        one of a line (lines.stands)."""
        jobs = self._running if state is JobState.RUNNING else self._in.get(state, ())
        return [j for j in jobs if j.id not in self._actions]

    def astir(self) -> list[Job]:
        """Jobs that run, as `untouched`, but for the steady ones (steady.py)."""
        return [j for j in self._in.get(JobState.RUNNING, ()) if j.id not in self._actions]

    @cached_property
    def _running(self) -> list[Job]:
        return [j for j in self.snapshot.loose if j.state is JobState.RUNNING]

    def can_cut(self, job: Job) -> bool:
        """May a checkpoint of the job begin now? One at a time, and of whole gangs only."""
        return (
            job.state is JobState.RUNNING
            and job.spec.aside is None
            and not self.touched(job)
            and not job.dumping
            and not job.resizing
            and not job.exited
            and not replicas.evicted(job)
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
        self._bounds.clear()
        if self.quota.governs:  # who gives way depends on what projects hold
            self.findings.vain.clear()
        assert action.job not in self._actions, f"{action.job} already has an action"
        self._actions[action.job] = action
        job = self.snapshot.by_id[action.job]
        if action.price is not None:
            self.preemptions += 1
            self.evictions += evicts(job, action)
        for shard in (*job.placement, *action.placement):  # also where it finds shares to be had
            self._stir(self.snapshot.row[shard.node])
        for node, devices in self._needed(job, action.placement).items():
            self._give(node, devices)
        if action.placement:
            self.quota.take(job, grows(job, action))
        leaves = action.verb not in (Verb.RESUME, Verb.CHECKPOINT, Verb.WAKE, Verb.REST)
        known = replicas.evicted(job)  # its devices are expected already
        if leaves and not known and job.state in (JobState.STARTING, JobState.RUNNING):
            before = job.target if job.resizing else job.placement  # so are those it shrinks by
            self._expect(job, before, action.placement)

    def promise(self, job: Job, placement: Placement) -> None:
        """Keep what is free there, and what will be, for a job that waits for the rest of it. Of
        shares only what must become whole for them: for the rest, two may hope for one."""
        for shard in placement:
            row = self.snapshot.row[shard.node]
            there = {part.index for part in self.snapshot.nodes[row].parts}
            devices = shard.devices - len(there & set(shard.indices))
            self.promised[row] += devices
            self._stir(row)
            if self.quota.governs:  # it may wait for its quota alone: others take what is spare
                spare = self.free[row] + self.coming[row] - self.promised[row]
                devices = min(devices, max(0, self.fleet.room(row) - max(0, int(spare))))
            self._hide(row, devices)
        self.quota.promise(job, sum(s.devices for s in placement) - claim(job))

    def bound(self, job: Job) -> Bound | None:
        """The quota that binds the job most now; None where nothing does."""
        if not self.quota.governs:
            return None
        of = job.spec.project, job.spec.device
        if of not in self._bounds:
            if (idle := self._idle.get(of[1])) is None:
                idle = self._idle[of[1]] = self.idle(of[1], self.free)
            self._bounds[of] = self.quota.bound(job, idle)
        return self._bounds[of]

    def most(self, job: Job) -> int:
        """Devices that the job may hold now by all quotas."""
        bound = self.bound(job)
        return UNBOUND if bound is None else claim(job) + max(0, bound.room)

    def idle(self, kind: str, free: Ints) -> int:
        """Of `free` int64[N], devices of that kind where nodes are ready."""
        return int(free[self._ready(kind)].sum())

    def unclaimed(self) -> Ints:
        """int64[N]: free now or soon, and not meant for a job that waits ahead."""
        if self._unclaimed is None:
            self._unclaimed = frozen(np.maximum(self.free + self.coming - self.promised, 0))
        return self._unclaimed

    def _ready(self, kind: str) -> Flags:
        """Nodes that are, and have such devices."""
        if (found := self._of_kind.get(kind)) is None:
            names = self.snapshot.device_names
            code = names.index(kind) if kind in names else -1
            found = self._of_kind[kind] = self.snapshot.ready & (self.snapshot.device == code)
        return found

    def explain(self, job: Job, reasons: tuple[Reason, ...]) -> None:
        self._pending[job.id] = reasons

    def explain_line(self, line: tuple[JobId, ...], first: int, told: tuple[Reason, ...]) -> None:
        """All of a line from its place `first` on, none of whom is told anything else."""
        self._lines.append((line, first, told))

    def change(self, change: Change) -> None:
        self._changes.append(change)

    def plan(self, orders: tuple[Order, ...] = ()) -> Plan:
        actions, acted = tuple(self._actions.values()), frozenset(self._actions)
        pending = Pending(self._pending, self._lines, acted)
        return Plan(actions, pending, orders, tuple(self._changes))

    def _give(self, node: NodeId, devices: int) -> None:
        row = self.snapshot.row[node]
        self.free[row] -= devices
        kind = self.snapshot.nodes[row].device
        if kind in self._idle and self.snapshot.ready[row]:
            self._idle[kind] -= devices
        self._hide(row, devices)

    def _stir(self, row: int) -> None:
        self._unclaimed = None
        self.stirred[self.snapshot.cluster[row]] += 1

    def _hide(self, row: int, devices: int) -> None:
        """From the fleet, where whole devices are found; what was promised is not in it any more,
        and no node that is not ready or has nothing but shares ever was."""
        if self.snapshot.ready[row] and self.snapshot.whole[row]:
            self.fleet.take([(row, min(devices, self.fleet.room(row)))])

    def _needed(self, job: Job, placement: Placement) -> Mapping[NodeId, int]:
        """Devices that are not the job's yet, and are free as a whole until now."""
        if job.spec.share is not None:
            opened, kept = self.parts.take(job, placement)
            for node, devices in kept.items():
                self.coming[self.snapshot.row[node]] -= devices
            return opened
        if held := holdings(job):
            return _devices(placement) - held
        return {shard.node: shard.devices for shard in placement}  # most, and much quicker

    def _expect(self, job: Job, before: Placement, target: Placement) -> None:
        """The job leaves the devices of `before` but for those of `target`."""
        if job.spec.share is not None:
            freed = self.parts.leave(job, target)
        else:
            freed = _devices(before) - _devices(target)
        for node, devices in freed.items():
            self.coming[self.snapshot.row[node]] += devices
            self._stir(self.snapshot.row[node])
        held, kept = (sum(s.devices for s in shards) for shards in (before, target))
        self.quota.expect(job, max(0, held - kept))


def _devices(placement: Placement) -> Counter[NodeId]:
    return Counter({shard.node: shard.devices for shard in placement})


def _group(job: Job) -> tuple[str, str]:
    return job.spec.project, job.spec.topology.apart
