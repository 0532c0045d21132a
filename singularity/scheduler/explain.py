"""Why a job waits: every binding reason with its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from singularity.primitives import engines, replicas
from singularity.primitives.model import ACTIVE, TERMINAL, WAITING, Intent, Job, JobSpec
from singularity.primitives.projects import claim
from singularity.primitives.sharing import GIB

from . import price
from .draft import Draft
from .interval import cadence, spoken
from .parts import Parts
from .placement import alike, allowed, feasible, find, offered, sizes
from .plan import Plan, Reason
from .policy import Policy
from .queueing import queue
from .snapshot import Flags, Snapshot

_TOLD = 3  # nodes by name in one reason


@dataclass(frozen=True, slots=True)
class Why:
    """All that binds a job; what would change that is in advice.py."""

    reasons: tuple[Reason, ...]


def lacking(draft: Draft, job: Job) -> tuple[Reason, ...]:
    """What binds the gang: its quota, and what is missing where it is nearest to fitting. Said once
    for all alike."""
    least = min(sizes(job), default=job.devices)
    whose = (job.spec.project, claim(job)) if draft.quota.governs else ()
    kind = (alike(job), least, job.spec.ranks, job.id if job.spec.topology.apart else "", whose)
    if (said := draft.findings.lacks.get(kind)) is None:
        said = draft.findings.lacks[kind] = _lacking(draft, job, least)
    return said


def _lacking(draft: Draft, job: Job, least: int) -> tuple[Reason, ...]:
    bound, reasons = draft.bound(job), list[Reason]()
    if bound is not None and bound.room < least - claim(job):
        reasons.append(Reason("quota", f"{bound.text}; {least} more are wanted"))
        if find(draft, job, least):
            return tuple(reasons)
    elif more := draft.quota.above_its_own(job, least):
        reasons.append(Reason("quota", f"+{least} needs borrowing {more} (allowed)"))
    return (_capacity(draft, job, least), *reasons)


def _capacity(draft: Draft, job: Job, least: int) -> Reason:
    snapshot, spec = draft.snapshot, job.spec
    may = feasible(snapshot, job)
    if not may.any():
        return _nowhere(snapshot, job)
    if spec.share is not None:
        return _no_share(draft, job, may & snapshot.ready)
    room = np.where(may & snapshot.ready, draft.free, 0)
    shunned = [r for r in draft.shunned(job) if may[r]]
    room[shunned] = 0
    unready = int((may & ~snapshot.ready).sum())
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
        detail += f"; {unready} nodes are lost, cordoned, draining or quarantined"
        detail += "".join(f"; {told}" for told in _quarantined(snapshot, may))
    if shunned:
        detail += f"; {len(shunned)} nodes hold others of its group {spec.topology.apart}"
    return Reason("capacity", detail)


def _no_share(draft: Draft, job: Job, may: Flags) -> Reason:
    """How near devices come that are given out in shares; whole ones there are too few of."""
    spec, parts = job.spec, draft.parts
    assert spec.share is not None
    left = [p for row in parts.rows if may[row] for p in parts.left(row, (), soon=False)]
    fits = sum(part.holds(spec.share) for part in left)
    whole = int(np.where(may, draft.free, 0).sum())
    detail = (
        f"needs {spec.share} of a {spec.device} for each of {spec.ranks} ranks, on devices of their"
        f" own in one cluster; {whole} are free, and {fits} of {len(left)} shared ones have room"
    )
    if left:
        most = max(left, key=lambda p: (p.compute_milli, p.memory_bytes))
        detail += f", the emptiest {most.compute_milli / 10:g} %"
        detail += f" and {most.memory_bytes / GIB:.3g} GiB"
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
    if why := unshared(snapshot, spec):
        return Reason("share", why)
    return Reason("policy", f"no region fits regions={list(spec.regions)} not={list(spec.avoid)}")


def _quarantined(snapshot: Snapshot, may: Flags) -> list[str]:
    """Why nodes that the job could use are kept out of use, a few of them."""
    ailing = (snapshot.nodes[row] for row in np.flatnonzero(may & snapshot.ailing).tolist())
    found = [(n.id, n.health.quarantine.reason) for n in ailing if n.health.quarantine]
    return [f"{node} is quarantined: {reason}" for node, reason in found[:_TOLD]]


def unshared(snapshot: Snapshot, spec: JobSpec) -> str:
    """Why no device that the job may use can be had as it asks, whole or in shares; "" where one
    can, or where there is none at all."""
    there = offered(snapshot, spec)
    if allowed(snapshot, spec).any() or not there.any():
        return ""
    if spec.share is None:
        return (
            f"{spec.device} devices are given out in shares only; write share: {{memory, compute}}"
        )
    most = int(np.where(there, snapshot.memory, 0).max(initial=0))
    if most == 0:
        return f"no node gives out shares of its {spec.device} devices; leave share out"
    if most < spec.share.memory_bytes:
        return (
            f"share.memory: no {spec.device} has {spec.share.memory_bytes / GIB:.3g} GiB; "
            f"the largest has {most / GIB:.3g}"
        )
    return (
        f"share.class rt: {spec.device} devices that are large enough cannot be preempted; use be"
    )


def explain(snapshot: Snapshot, plan: Plan, job: Job, policy: Policy) -> Why:
    """Why `job` is where it is, given what was just decided for it: all that binds it."""
    if job.state in TERMINAL:
        return Why((Reason("ended", f"{job.state}: {job.message or 'done'}"),))
    planned = [a for a in plan.actions if a.job == job.id]
    if planned:
        return Why((Reason("planned", f"{planned[0].verb} now: {planned[0].reason}"),))
    if job.intent is Intent.HOLD and job.spec.serving is not None:
        leaving = job.leaving_at_s is not None
        detail = "finishes its requests" if leaving else "its service does not need it now"
        return Why((Reason("rest", detail),))
    if replicas.evicted(job):
        makes_way = Reason("rest", "finishes its requests, and makes way")
        return Why((makes_way, *_taken(job, snapshot.now_s)))
    if job.intent is Intent.HOLD:
        return Why((Reason("held", "its owner suspended it"),))
    if reasons := plan.pending.get(job.id):
        told = (*_taken(job, snapshot.now_s), *_lent(snapshot, job))
        return Why((*reasons, *_more(snapshot, job, reasons, policy), *told))
    if job.state in ACTIVE:
        placed = Reason("placed", f"{job.state} with {_where(snapshot, job)}")
        nodes = [snapshot.nodes[snapshot.row[n]] for n in sorted(job.nodes)]
        found = cadence(job, nodes, snapshot.now_s, policy)
        often = Reason("checkpoint", f"{found.text}: {found.origin}")
        how = Reason("engine", engines.label(job))
        told = (*_taken(job, snapshot.now_s), *_lent(snapshot, job))
        return Why((placed, often, how, *told))
    return Why((Reason("queued", "will be looked at in the next round"),))


def _more(
    snapshot: Snapshot, job: Job, known: tuple[Reason, ...], policy: Policy
) -> Iterator[Reason]:
    """What binds it too, and is not looked for in every round."""
    if job.state not in WAITING or any(r.kind in ("dependency", "backoff") for r in known):
        return
    kinds, draft = {r.kind for r in known}, Draft(snapshot, policy)
    if "order" in kinds and not find(draft, job, min(sizes(job), default=job.devices)):
        yield from (r for r in lacking(draft, job) if r.kind not in kinds)
    before = [j.id for j in queue(snapshot, policy)]
    if job.id in before and (number := before.index(job.id)):
        yield Reason("queue", f"{number} of {len(before)} that wait are before it")
    spec = job.spec
    if (spec.regions or spec.avoid) and "policy" not in kinds:
        anywhere = allowed(snapshot, replace(spec, regions=(), avoid=()))
        here = int((allowed(snapshot, spec) & anywhere).sum())
        said = f"regions: {list(spec.regions)} not: {list(spec.avoid)}"
        yield Reason("policy", f"{said} leave {here} of {int(anywhere.sum())} nodes")


def _where(snapshot: Snapshot, job: Job) -> str:
    if job.spec.share is None:
        where = ", ".join(f"{s.devices} on {s.node}" for s in job.placement)
        return f"{job.held} devices: {where}"
    parts, places = Parts(snapshot), []
    for shard in job.placement:
        for index in shard.indices:
            others = parts.neighbours(shard.node, index, job)
            beside = f" beside {', '.join(others)}" if others else " alone"
            places.append(f"device {index} of {shard.node}{beside}")
    share = job.spec.share
    return f"{share} of a {job.spec.device} ({share.precedence}) a rank: {'; '.join(places)}"


def _taken(job: Job, now_s: float) -> tuple[Reason, ...]:
    """What was taken from it for others, and at what price."""
    if (last := job.taken) is None:
        return ()
    detail = f"{spoken(now_s - last.at_s)} ago: {last.reason}"
    if last.times > 1:
        detail += f"; {last.times} times in all, for {price.spoken(last.paid)} device-seconds"
    return (Reason("taken", detail),)


def _lent(snapshot: Snapshot, job: Job) -> tuple[Reason, ...]:
    """Which services have devices of it; those of other projects by their ids, as jobs are."""
    ours = [s for s in snapshot.traffic.services if s.spec.project == job.spec.project]
    names = {service.id: service.name for service in ours}
    return tuple(
        Reason(
            "lent",
            f"{loan.devices} devices to service {names.get(loan.service, loan.service)} for "
            f"{spoken(snapshot.now_s - loan.since_s)}, which cost it {price.spoken(loan.price)} "
            "device-seconds besides",
        )
        for loan in job.loans
    )
