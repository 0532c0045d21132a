"""Off lost nodes by failover, off draining ones by migration."""

from __future__ import annotations

import numpy as np

from singularity.primitives import engines
from singularity.primitives.holdings import hosts
from singularity.primitives.model import ACTIVE, Job, JobState

from .placement import find, sizes
from .plan import Action, Draft, Reason, Verb
from .policy import Policy


def failover(draft: Draft) -> None:
    """A gang that lost a node stops whole; one that lost only a reservation lets go of it."""
    snapshot = draft.snapshot
    for job in snapshot.jobs:
        if job.state not in ACTIVE:
            continue
        lost = frozenset(n for n in hosts(job) if snapshot.lost[snapshot.row[n]])
        if lost:
            reason = f"node {', '.join(sorted(lost))} lost"
            draft.take(Action(Verb.FAILOVER, job.id, job.version, reason, lost=lost))


def drain(draft: Draft, policy: Policy) -> None:
    """Move running jobs off draining nodes, a bounded number at a time, at the size they have or
    the largest smaller one that they accept."""
    snapshot = draft.snapshot
    moving = sum(1 for j in snapshot.jobs if j.state is JobState.SUSPENDING and j.target)
    for job in draft.untouched(JobState.RUNNING):
        leaving = sorted(n for n in job.nodes if snapshot.draining[snapshot.row[n]])
        if not leaving:
            continue
        if moving >= policy.migrations_per_tick_max:
            draft.explain(job, (Reason("drain", f"{moving} moves are under way; waits its turn"),))
        elif not draft.can_cut(job):
            draft.explain(job, (Reason("drain", "waits until a checkpoint can be taken"),))
        elif not _move(draft, job, f"draining {', '.join(leaving)}"):
            total = int(np.where(snapshot.ready, draft.free, 0).sum())
            detail = (
                f"{job.held} {job.spec.device} in one cluster are nowhere free ({total} in all)"
            )
            draft.explain(job, (Reason("drain", f"cannot leave {', '.join(leaving)}: {detail}"),))
        else:
            moving += 1


def _move(draft: Draft, job: Job, reason: str) -> bool:
    reason += engines.loss(job, draft.snapshot.now_s)
    for devices in sizes(job, most=job.held):
        if target := find(draft, job, devices):
            draft.take(Action(Verb.MIGRATE, job.id, job.version, reason, target))
            return True
    return False
