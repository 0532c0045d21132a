"""How many devices a job may hold, and giving back what was taken from it."""

from __future__ import annotations

from collections.abc import Sequence

from singularity.primitives import engines
from singularity.primitives.model import Job, JobState

from .placement import feasible, resized, sizes, stay
from .plan import Action, Draft, Verb
from .policy import Policy


def shrink_to_wish(draft: Draft) -> None:
    """The owner wants fewer devices than the job holds."""
    for job in draft.untouched(JobState.RUNNING):
        if job.held <= job.devices or not draft.can_cut(job):
            continue
        if target := resized(draft, job, job.devices):
            lost = "" if stay(draft, job, job.devices) else engines.loss(job, draft.snapshot.now_s)
            reason = f"its owner wants {job.devices} devices{lost}"
            draft.take(Action(Verb.SCALE, job.id, job.version, reason, target))


def grow(draft: Draft, blocked: Sequence[Job], policy: Policy) -> None:
    """Give jobs that hold less than they want more, when nobody waits for the same nodes and they
    have had their devices for a while. Not at the cost of their work."""
    now_s = draft.snapshot.now_s
    for job in draft.untouched(JobState.RUNNING):
        quiet = job.running_at_s is not None and now_s - job.running_at_s >= policy.grow_after_s
        if job.held >= job.devices or not quiet or not draft.can_cut(job):
            continue
        mine = feasible(draft.snapshot, job)
        if any((mine & feasible(draft.snapshot, other)).any() for other in blocked):
            continue
        for devices in sizes(job, most=draft.most(job)):
            if devices <= job.held:
                break
            find_room = stay if engines.keeps_nothing(job) else resized
            if target := find_room(draft, job, devices):
                reason = f"{devices} of {job.devices} devices are free again"
                draft.take(Action(Verb.SCALE, job.id, job.version, reason, target))
                break
