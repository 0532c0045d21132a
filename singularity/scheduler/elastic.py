"""How many devices a job may hold, and giving back what was taken from it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from singularity.primitives import engines
from singularity.primitives.model import Job, JobId, Tier

from .draft import Draft
from .offers import offer
from .placement import alike, may, resized, sizes, stay
from .plan import Action, Verb
from .policy import Policy
from .quota import UNBOUND
from .roster import Runs, roster
from .sharing import claimed, evened, rest_s, rested, valued, widths
from .snapshot import Flags
from .ways import fewer, per_cluster


def shrink_to_wish(draft: Draft) -> None:
    """The owner wants fewer devices than the job holds."""
    for job in draft.astir():
        if job.held <= job.devices or not draft.can_cut(job):
            continue
        if target := resized(draft, job, job.devices):
            lost = "" if stay(draft, job, job.devices) else engines.loss(job, draft.snapshot.now_s)
            reason = f"its owner wants {job.devices} devices{lost}"
            draft.take(Action(Verb.SCALE, job.id, job.version, reason, target))


def fit(draft: Draft, blocked: Sequence[Job], policy: Policy) -> None:
    """Let running jobs that nobody waits behind be as wide as is worth most, tier by tier: some
    become narrower for their equals, and what is idle goes to those that gain most by it."""
    wanted = np.zeros(len(draft.snapshot.nodes), dtype=np.bool_)
    for other in {alike(j): j for j in blocked}.values():
        wanted |= may(draft, other)
    waits = _even(draft, wanted, policy)
    small: dict[tuple[Tier, str], list[Job]] = {}
    for job in draft.astir():
        if job.id in waits or not short(draft, job, policy) or (may(draft, job) & wanted).any():
            continue
        small.setdefault((job.tier, job.spec.device), []).append(job)
    _widen_all(draft, small, policy, claims=True)
    if draft.quota.governs:  # what nobody has taken who has a claim to it may be borrowed
        _widen_all(draft, small, policy, claims=False)


def _even(draft: Draft, wanted: Flags, policy: Policy) -> set[JobId]:
    """Make jobs narrower for equals on the same nodes, of the same project where quotas govern.
    Returns those that wait for what is so coming: less than all of it would be a stall in vain."""
    groups, waits = dict[Hashable, list[Runs]](), set[JobId]()
    asking = {(job.tier, job.spec.device) for job in draft.astir() if job.held < job.devices}
    for each in roster(draft).jobs if asking else ():  # mostly nobody, and there may be many jobs
        job, spec = each.job, each.job.spec
        if spec.devices_min >= job.devices or (job.tier, spec.device) not in asking:
            continue
        alone = spec.serving is not None or spec.share is not None or draft.touched(job)
        if alone or wanted[each.rows[0]] or not rested(draft, job, policy.even_after_s):
            continue
        whose = spec.project if draft.quota.governs else ""
        of = job.tier, spec.device, each.cluster, whose, alike(job)
        groups.setdefault(of, []).append(each)
    for runs in groups.values():
        jobs = [each.job for each in runs]
        room = per_cluster(draft, jobs[0])[runs[0].cluster] if len(jobs) > 1 else 0
        narrow, wide = evened(draft, jobs, room, policy)
        if sum(_give(draft, job, devices, policy) for job, devices in narrow):
            fits = [job.id for job, d in wide if not draft.quota.governs and widen(draft, job, [d])]
            waits.update({job.id for job, _ in wide} - set(fits))
    return waits


def _give(draft: Draft, job: Job, devices: int, policy: Policy) -> bool:
    """Make it narrower, as far as one plan and one minute may go."""
    found = offer(draft, job, fewer(draft, job, devices), policy)
    evicted = not found.live and draft.evictions >= policy.evictions_per_minute_max
    if not found.target or evicted or draft.preemptions >= policy.preemptions_per_tick_max:
        return False
    gives = f"gives {found.gives} devices to equals, to which they are worth more"
    reason = f"{gives}, for {found.price.text}"
    price = found.price.device_s
    draft.take(Action(Verb.SCALE, job.id, job.version, reason, found.target, price=price))
    return True


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
                now = valued(draft, job, (job.held, most), policy, idle=True)
                widen(draft, job, [d for d in sizes(job, most) if now.get(d, 0.0) > now[job.held]])


def short(draft: Draft, job: Job, policy: Policy, *, owed: bool = False) -> bool:
    """Does the running job hold less than it wants, and has it been left alone for long enough to
    be given more, or what is `owed` to it?"""
    if job.held >= job.devices or not draft.can_cut(job):
        return False
    quiet_s = policy.grow_after_s if owed else rest_s(job, draft.snapshot.now_s, policy)
    return rested(draft, job, quiet_s)


def lent(draft: Draft, job: Job, policy: Policy) -> int:
    """Devices that the job may hold without those that are idle and to which jobs of other projects
    have a claim, that run on less than they want."""
    quota, kind = draft.quota, job.spec.device
    if not quota.governs:
        return UNBOUND
    others = (
        other
        for other in draft.astir()
        if other.held < other.devices
        and (other.spec.device, other.spec.project != job.spec.project) == (kind, True)
        and short(draft, other, policy)
    )
    left = draft.idle(kind, draft.free) - claimed(quota, others)
    return max(job.held + max(0, left), *quota.claimable(job, sizes(job)), 0)


def widen(draft: Draft, job: Job, wanted: Iterable[int]) -> bool:
    """Scale it to the first of the `wanted` sizes, largest first, for which there is room, and that
    its quota admits. Not at the cost of its work."""
    most = draft.most(job)
    for devices in wanted:
        if devices <= job.held:
            break
        find_room = stay if engines.keeps_nothing(job) else resized
        if devices <= most and (target := find_room(draft, job, devices)):
            reason = f"{devices} of {job.devices} devices are free again"
            draft.take(Action(Verb.SCALE, job.id, job.version, reason, target))
            return True
    return False
