"""Why a job waits: every binding reason with its numbers, and what would change that."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from singularity.primitives import engines
from singularity.primitives.model import ACTIVE, TERMINAL, Intent, Job, Scope, ScopeKind
from singularity.primitives.projects import claim

from . import price
from .interval import cadence, spoken
from .placement import allowed, feasible, find, sizes
from .plan import Draft, Plan, Reason
from .policy import Policy
from .snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Why:
    """`changes` are single changes, smallest first, each of which would let the job start now."""

    reasons: tuple[Reason, ...]
    changes: tuple[str, ...]


def lacking(draft: Draft, job: Job) -> tuple[Reason, ...]:
    """What binds the gang: its quota, and what is missing where it is nearest to fitting."""
    least = min(sizes(job), default=job.devices)
    bound, reasons = draft.bound(job), list[Reason]()
    if bound is not None and bound.room < least - claim(job):
        reasons.append(Reason("quota", f"{bound.text}; {least} more are wanted"))
        if find(draft, job, least):
            return tuple(reasons)
    elif more := draft.quota.above_its_own(job, least):
        reasons.append(Reason("quota", f"+{least} needs borrowing {more} (allowed)"))
    return (_capacity(draft, job), *reasons)


def _capacity(draft: Draft, job: Job) -> Reason:
    snapshot, spec = draft.snapshot, job.spec
    may = feasible(snapshot, job)
    if not may.any():
        return _nowhere(snapshot, job)
    room = np.where(may & snapshot.ready, draft.free, 0)
    shunned = [r for r in draft.shunned(job) if may[r]]
    room[shunned] = 0
    unready = int((may & ~snapshot.ready).sum())
    least = min(sizes(job), default=job.devices)
    unit = max(1, least // spec.ranks)
    room = room // unit * unit  # as pack() sees it: the devices of one rank lie on one node
    if spec.same_node:
        row = int(np.argmax(room))
        where, name, most = "node", str(snapshot.nodes[row].id), int(room[row])
    else:
        in_rack = spec.topology.same_rack
        codes, names = snapshot.cluster, snapshot.cluster_names
        if in_rack:
            codes, names = snapshot.rack, snapshot.rack_names
        per_area = np.bincount(codes, weights=room)
        best = int(np.argmax(per_area))
        where, name, most = "rack" if in_rack else "cluster", names[best], int(per_area[best])
    pieces = f", {unit} on one node each," if unit > 1 and not spec.same_node else ""
    detail = f"no {where} has {least} {spec.device}{pieces} free for it; "
    detail += f"the best is {name} with {most}"
    if unready:
        detail += f"; {unready} nodes are lost, cordoned or draining"
    if shunned:
        detail += f"; {len(shunned)} nodes hold others of its group {spec.topology.apart}"
    return Reason("capacity", detail)


def _nowhere(snapshot: Snapshot, job: Job) -> Reason:
    spec = job.spec
    if spec.device not in snapshot.device_names:
        known = ", ".join(snapshot.device_names) or "none"
        return Reason("device", f"no node has {spec.device} devices; the fleet has: {known}")
    if job.unfit and feasible(snapshot, replace(job, unfit=frozenset())).any():
        names = ", ".join(sorted(job.unfit))
        return Reason("processor", f"its image cannot run on {names}, and nothing else is allowed")
    if job.confine is not None and allowed(snapshot, spec).any():
        return Reason("confined", f"its owner confined it to {job.confine.kind} {job.confine.id}")
    return Reason("policy", f"no region fits regions={list(spec.regions)} not={list(spec.avoid)}")


def explain(snapshot: Snapshot, plan: Plan, job: Job, policy: Policy) -> Why:
    """Why `job` is where it is, given what was just decided for it."""
    if job.state in TERMINAL:
        return Why((Reason("ended", f"{job.state}: {job.message or 'done'}"),), ())
    planned = [a for a in plan.actions if a.job == job.id]
    if planned:
        return Why((Reason("planned", f"{planned[0].verb} now: {planned[0].reason}"),), ())
    if job.intent is Intent.HOLD:
        reason = Reason("held", "its owner suspended it")
        return Why((reason,), (f"singularity resume {job.spec.name}",))
    if reasons := plan.pending.get(job.id):
        return Why((*reasons, *_taken(job, snapshot.now_s)), _changes(snapshot, job))
    if job.state in ACTIVE:
        where = ", ".join(f"{s.devices} on {s.node}" for s in job.placement)
        placed = Reason("placed", f"{job.state} with {job.held} devices: {where}")
        nodes = [snapshot.nodes[snapshot.row[n]] for n in sorted(job.nodes)]
        found = cadence(job, nodes, snapshot.now_s, policy)
        often = Reason("checkpoint", f"{found.text}: {found.origin}")
        how = Reason("engine", engines.label(job))
        return Why((placed, often, how, *_taken(job, snapshot.now_s)), ())
    return Why((Reason("queued", "will be looked at in the next round"),), ())


def _taken(job: Job, now_s: float) -> tuple[Reason, ...]:
    """What was taken from it for others, and at what price."""
    if (last := job.taken) is None:
        return ()
    detail = f"{spoken(now_s - last.at_s)} ago: {last.reason}"
    if last.times > 1:
        detail += f"; {last.times} times in all, for {price.spoken(last.paid)} device-seconds"
    return (Reason("taken", detail),)


def _changes(snapshot: Snapshot, job: Job) -> tuple[str, ...]:
    """Single changes tried on a copy: fewer devices, anywhere else, another time."""
    draft = Draft(snapshot)
    found = []
    for devices in range(min(sizes(job), default=job.devices) - 1, 0, -1):
        if find(draft, job, devices):
            found.append(f"devices {devices}: fits now")
            break
    if job.confine is not None and find(draft, replace(job, confine=None), job.devices):
        found.append(f"singularity move {job.spec.name} --to anywhere: fits now")
    for name in snapshot.region_names:
        free = replace(job.spec, regions=(), avoid=())
        there = replace(job, spec=free, confine=Scope(ScopeKind.REGION, name))
        if not find(draft, job, job.devices) and find(draft, there, job.devices):
            found.append(f"allow region {name}: fits now")
    freed = draft.free + draft.coming
    if find(draft, job, min(sizes(job), default=job.devices), free=freed):
        found.append("wait: devices are being freed")
    return tuple(found)
