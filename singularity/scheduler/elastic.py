"""How many devices a job may hold, and giving back what was taken from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from singularity.primitives import engines
from singularity.primitives.model import Job, JobState, Tier

from .draft import Draft
from .placement import alike, may, resized, sizes, stay
from .plan import Action, Verb
from .policy import Policy
from .quota import UNBOUND
from .sharing import claimed, widths

_DOUBLINGS: Final = 7  # of the time for which a job must have been left alone


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
    have had their devices for a while: tier by tier, to those that gain most by it."""
    wanted = np.zeros(len(draft.snapshot.nodes), dtype=np.bool_)
    for other in {alike(j): j for j in blocked}.values():
        wanted |= may(draft, other)
    small: dict[tuple[Tier, str], list[Job]] = {}
    for job in draft.untouched(JobState.RUNNING):
        if short(draft, job, policy) and not (may(draft, job) & wanted).any():
            small.setdefault((job.tier, job.spec.device), []).append(job)
    _widen_all(draft, small, policy, claims=True)
    if draft.quota.governs:  # what nobody has taken who has a claim to it may be borrowed
        _widen_all(draft, small, policy, claims=False)


def _widen_all(
    draft: Draft, small: Mapping[tuple[Tier, str], Sequence[Job]], policy: Policy, *, claims: bool
) -> None:
    """`claims`: those of less urgent jobs, within what they are guaranteed, are left alone."""
    for (tier, kind), jobs in sorted(small.items()):
        later = [
            j
            for (t, k), js in small.items()
            if (k, claims) == (kind, True) and t > tier
            for j in js
        ]
        if left := [job for job in jobs if not draft.touched(job)]:
            for job, most in widths(draft, left, policy, later):
                widen(draft, job, most)


def short(draft: Draft, job: Job, policy: Policy) -> bool:
    """Does the running job hold less than it wants, and has it been left alone for long enough to
    be given more?"""
    if job.held >= job.devices or job.running_at_s is None or not draft.can_cut(job):
        return False
    return draft.snapshot.now_s - max(job.running_at_s, job.resize_at_s) >= rest_s(job, policy)


def rest_s(job: Job, policy: Policy) -> float:
    """For how long it is left alone before it grows: after each change of one life twice as long as
    after the one before, against thrash."""
    return policy.grow_after_s * 2.0 ** min(job.resize, _DOUBLINGS)


def lent(draft: Draft, job: Job, policy: Policy) -> int:
    """Devices that the job may hold without those that are idle and to which jobs of other projects
    have a claim, that run on less than they want."""
    quota, kind = draft.quota, job.spec.device
    if not quota.governs:
        return UNBOUND
    others = (
        other
        for other in draft.untouched(JobState.RUNNING)
        if other.held < other.devices
        and (other.spec.device, other.spec.project != job.spec.project) == (kind, True)
        and short(draft, other, policy)
    )
    left = draft.idle(kind, draft.free) - claimed(quota, others)
    return max(job.held + max(0, left), *quota.claimable(job, sizes(job)), 0)


def widen(draft: Draft, job: Job, most: int) -> bool:
    """Scale it to the largest size up to `most` for which there is room, and that its quota admits.
    Not at the cost of its work."""
    for devices in sizes(job, min(most, draft.most(job))):
        if devices <= job.held:
            break
        find_room = stay if engines.keeps_nothing(job) else resized
        if target := find_room(draft, job, devices):
            reason = f"{devices} of {job.devices} devices are free again"
            draft.take(Action(Verb.SCALE, job.id, job.version, reason, target))
            return True
    return False
