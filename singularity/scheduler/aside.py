"""Jobs that verify others: they take what nobody wants, and go when somebody does.

One of them waits for the cut that it is about. Where that is still to be taken, it is taken as soon
as there is room to restore it, so that no job is made to pause for an answer that cannot come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from singularity.primitives.model import (
    TERMINAL,
    WAITING,
    Checkpoint,
    Intent,
    Job,
    JobId,
    JobState,
    Placement,
)

from .draft import Draft
from .explain import lacking
from .placement import feasible, find, sizes
from .plan import Action, Reason, Verb, called
from .policy import Policy
from .queueing import not_yet, queue
from .snapshot import Ints

_LOOKED_AT: Final = 50  # of those that wait; behind so many, nobody is kept waiting by one more


def give_way(draft: Draft, policy: Policy) -> None:
    """End verifications on nodes that are drained, or where a job could be placed instead."""
    there = (*draft.untouched(JobState.STARTING), *draft.astir())
    running = [job for job in there if job.spec.aside is not None]
    if not running:
        return
    snapshot = draft.snapshot
    waiting = [j for j in queue(snapshot, policy)[:_LOOKED_AT] if not not_yet(snapshot, j)]
    waiting = [j for j in waiting if not any(find(draft, j, d) for d in sizes(j))]
    for job in running:
        rows = [snapshot.row[n] for n in sorted(job.nodes)]
        if snapshot.draining[rows].any():
            _end(draft, job, "its node is drained")
        elif other := next((j for j in waiting if feasible(snapshot, j)[rows].any()), None):
            _end(draft, job, f"its devices are wanted by {called(other, job)}")


def place(draft: Draft, blocked: Sequence[Job], policy: Policy) -> Mapping[JobId, int]:
    """Restore aside what can be; returns the jobs of which a cut must be taken for that, with the
    number of mini-batches that shall be compared."""
    snapshot, cuts = draft.snapshot, dict[JobId, int]()
    for job in snapshot.astir:
        aside = job.spec.aside
        if aside is None or job.state not in WAITING or draft.touched(job):
            continue
        if job.intent is not Intent.RUN:
            continue
        subject = snapshot.by_id.get(aside.of)
        if over := _over(job, subject, snapshot.now_s, policy):
            _end(draft, job, over)
            continue
        assert subject is not None
        origin = _origin(job, subject)
        there = _room(draft, replace(job, checkpoints=(origin,) if origin else ()), blocked)
        since_s = origin.at_s if origin else subject.running_at_s
        if since_s is None:
            reason = f"waits until {subject.spec.name} runs; it is {subject.state}"
            draft.explain(job, (Reason("cut", reason),))
        elif not there and snapshot.now_s - max(since_s, job.submitted_at_s) > policy.aside_wait_s:
            _end(draft, job, f"no devices were idle for {policy.aside_wait_s:.0f} s")
        elif not there:
            draft.explain(job, (*lacking(draft, job), Reason("idle", "takes idle devices only")))
        elif origin is not None:
            reason = f"restores step {origin.step} of {subject.spec.name} aside"
            draft.take(Action(Verb.RESUME, job.id, job.version, reason, there, origin=origin))
        else:
            draft.explain(job, (Reason("cut", f"waits for a checkpoint of {subject.spec.name}"),))
            settled_s = max(subject.running_at_s or 0.0, subject.cut_ended_s)
            if draft.can_cut(subject) and snapshot.now_s - settled_s >= policy.aside_settle_s:
                cuts[subject.id] = aside.steps
    return cuts


def _origin(job: Job, subject: Job) -> Checkpoint | None:
    """The checkpoint that `job` is about, if it is there."""
    aside = job.spec.aside
    assert aside is not None
    if aside.cut:
        named = (aside.incarnation, aside.cut)
        return next((c for c in subject.checkpoints if (c.incarnation, c.cut) == named), None)
    last = subject.checkpoint
    return last if last and last.at_s >= job.submitted_at_s and last.step > 0 else None


def _over(job: Job, subject: Job | None, now_s: float, policy: Policy) -> str:
    """Why nothing will come of it any more; "" while something may."""
    aside = job.spec.aside
    assert aside is not None
    if subject is None:
        return f"there is no job {aside.of}"
    name, origin = subject.spec.name, _origin(job, subject)
    if origin is not None:
        return ""
    if aside.cut:
        return f"{name} does not keep checkpoint {aside.incarnation}-{aside.cut} any more"
    if subject.state in TERMINAL:
        return f"{name} has {subject.state} before a checkpoint could be compared"
    if subject.cut_ended_s > job.submitted_at_s and subject.dump_failures >= policy.aside_cuts:
        return subject.message or f"{name} cannot be checkpointed"
    since_s = max(job.submitted_at_s, subject.running_at_s or now_s)
    if subject.checkpoint and now_s - since_s > policy.aside_wait_s and not subject.checkpoint.step:
        return f"{name} was cut where it was, with no mini-batch to hold at"
    return ""


def _room(draft: Draft, job: Job, blocked: Sequence[Job]) -> Placement:
    """On devices that nobody waits for."""
    if job.spec.share is not None:  # on one that is there already, and not on what is being freed
        there = find(draft, job, job.devices)
        rows = [draft.snapshot.row[shard.node] for shard in there]
        waited = any(feasible(draft.snapshot, other)[rows].any() for other in blocked)
        return () if waited else there
    free: Ints = draft.free
    for other in blocked:
        free = np.where(feasible(draft.snapshot, other), 0, free)
    fitting = (find(draft, job, devices, free=free) for devices in sizes(job))
    return next((there for there in fitting if there), ())


def _end(draft: Draft, job: Job, reason: str) -> None:
    draft.take(Action(Verb.CANCEL, job.id, job.version, reason))
