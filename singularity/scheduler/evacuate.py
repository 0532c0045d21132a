"""Off lost nodes by failover, off draining ones as their drain says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np

from singularity.primitives import engines
from singularity.primitives.drains import Drain, Leaving, booked
from singularity.primitives.holdings import hosts
from singularity.primitives.model import ACTIVE, Job, JobState, Placement, Tier
from singularity.primitives.nodes import NodeId

from .draft import Draft
from .placement import find, sizes
from .plan import Action, Reason, Verb
from .policy import Policy

CANNOT: Final = "cannot leave"  # so begin the reasons of those that stay though it is their turn


def failover(draft: Draft) -> None:
    """A gang that lost a node stops whole; one that lost only a reservation lets go of it."""
    snapshot = draft.snapshot
    there = (snapshot.lost & (snapshot.free < snapshot.total)).any()
    for job in snapshot.loose if there else ():
        if job.state not in ACTIVE:
            continue
        lost = frozenset(n for n in hosts(job) if snapshot.lost[snapshot.row[n]])
        if lost:
            reason = f"node {', '.join(sorted(lost))} lost"
            draft.take(Action(Verb.FAILOVER, job.id, job.version, reason, lost=lost))


class How(StrEnum):
    MOVE = "move"
    SUSPEND = "suspend"
    STAY = "stay"


@dataclass(frozen=True, slots=True)
class Fate:
    """What a drain does with a job now, and why."""

    how: How
    reason: str
    target: Placement = ()


def drain(draft: Draft, policy: Policy) -> None:
    """Let running jobs leave draining nodes, the most urgent first, a bounded number at a time."""
    snapshot = draft.snapshot
    if not (snapshot.draining & (snapshot.free < snapshot.total)).any():
        return
    moving = [j for j in snapshot.astir if j.state is JobState.SUSPENDING and j.target]
    paced = {d.id: d for d in snapshot.drains}
    for job in sorted(draft.untouched(JobState.RUNNING), key=lambda j: (j.tier, j.id)):
        leaving = draining(draft, job)
        if not leaving or job.spec.serving is not None:  # replicas are replaced, see serve.py
            continue
        order = governing(draft, leaving)
        order = paced[order.id] if order is not None else None
        if waits := _not_yet(draft, job, order, moving, policy):
            draft.explain(job, (Reason("drain", waits),))
            continue
        found = fate(draft, job, order, policy)
        match found.how:
            case How.MOVE:
                action = Action(Verb.MIGRATE, job.id, job.version, found.reason, found.target)
                if order is not None and (share_s := pace_s(order, job, policy)):
                    action = replace(action, drain=order.id, pace_s=share_s)
                    paced[order.id] = booked(order, share_s, snapshot.now_s)
                draft.take(action)
                moving.append(job)
            case How.SUSPEND:
                draft.take(Action(Verb.SUSPEND, job.id, job.version, found.reason))
            case How.STAY:
                draft.explain(job, (Reason("drain", found.reason),))


def draining(draft: Draft, job: Job) -> tuple[NodeId, ...]:
    """Nodes that the job has to leave, in id order."""
    snapshot = draft.snapshot
    return tuple(sorted(n for n in job.nodes if snapshot.draining[snapshot.row[n]]))


def governing(draft: Draft, leaving: Sequence[NodeId]) -> Drain | None:
    """The drain that says how these nodes are left; None where only their duty says so."""
    snapshot = draft.snapshot
    nodes = [snapshot.nodes[snapshot.row[n]] for n in leaving]
    return next((d for d in snapshot.drains if any(d.scope.holds(n) for n in nodes)), None)


def _not_yet(
    draft: Draft, job: Job, order: Drain | None, moving: Sequence[Job], policy: Policy
) -> str:
    """Why the job waits its turn; "" if it is its turn."""
    if order is not None and order.paused:
        return f"{order.id} is paused"
    now_s = draft.snapshot.now_s
    if order is not None and order.bytes_per_s and now_s < order.next_move_s:
        most, left_s = order.bytes_per_s / 1e6, order.next_move_s - now_s
        return f"{order.id} carries no more than {most:g} MB/s; its next move is in {left_s:.0f} s"
    if len(moving) >= policy.migrations_per_tick_max:
        return f"{len(moving)} moves are under way; waits its turn"
    if order is not None and order.moves_most is not None:
        snapshot = draft.snapshot
        inside = [
            j
            for j in moving
            if any(order.scope.holds(snapshot.nodes[snapshot.row[n]]) for n in j.nodes)
        ]
        if len(inside) >= order.moves_most:
            return f"{len(inside)} moves of {order.id} are under way; waits its turn"
    return draft.why_uncut(job)


def pace_s(order: Drain, job: Job, policy: Policy) -> float:
    """Seconds of what the order may carry that a move of the job takes up, by its last images."""
    if not order.bytes_per_s:
        return 0.0
    last = job.origin
    return (last.raw_bytes if last else policy.image_bytes) / order.bytes_per_s


def fate(draft: Draft, job: Job, order: Drain | None, policy: Policy) -> Fate:
    """Where a running job goes now, at the size it has or the largest smaller one that it accepts;
    or whether it must go though there is nowhere to go."""
    where = ", ".join(draining(draft, job))
    loss = engines.loss(job, draft.snapshot.now_s)
    first = order is not None and order.leaving is Leaving.BASIC_FIRST
    if first and job.tier is Tier.BASIC:
        return Fate(How.SUSPEND, f"draining {where}: basic makes way first{loss}")
    for devices in sizes(job, most=job.held):
        if target := find(draft, job, devices):
            return Fate(How.MOVE, f"draining {where}{loss}", target)
    if order is not None and (why := must_go(order, job, draft.snapshot.now_s, policy)):
        return Fate(How.SUSPEND, f"draining {where}: {why}, and nowhere to go{loss}")
    total = int(np.where(draft.snapshot.ready, draft.free, 0).sum())
    wants = f"{job.held} {job.spec.device}"
    if job.spec.share is not None:
        wants = f"{job.spec.share} of {wants}"
    detail = f"{wants} in one cluster are nowhere free ({total} in all)"
    return Fate(How.STAY, f"{CANNOT} {where}: {detail}")


def must_go(order: Drain, job: Job, now_s: float, policy: Policy) -> str:
    """Why a job that fits nowhere is suspended; "" while it may stay. Near the deadline basic goes
    first, and each tier above it one notice later."""
    if order.leaving is not Leaving.MIGRATE:
        return f"{order.id} waits for nobody"
    if order.deadline_s is None or now_s < order.deadline_s - notice_s(job.tier, policy):
        return ""
    left_s = order.deadline_s - now_s
    return f"{left_s:.0f} s to its deadline" if left_s > 0 else "its deadline has passed"


def notice_s(tier: Tier, policy: Policy) -> float:
    """How long before the deadline a job of that tier goes, come what may."""
    return (1 + int(tier)) * policy.drain_notice_s
