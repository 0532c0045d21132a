"""How wide elastic jobs of one tier should be: idle devices go where they gain most, and jobs that
run become narrower for one that waits when that is worth more. The sizes are goodput's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from singularity.primitives.engines import keeps_nothing
from singularity.primitives.model import Job, JobId
from singularity.primitives.projects import claim
from singularity.primitives.sla import attained_s

from .draft import Draft
from .goodput import allot, worth
from .placement import may, sizes, stay
from .policy import Policy
from .price import away_s
from .queueing import level, promised
from .quota import UNBOUND, Quota
from .roster import roster

_DOUBLINGS: Final = 7  # of the time for which a job is left alone
_PART: Final = 0.2  # of what a job is expected to need yet, in which a stall must be won back
_FEW, _APART = 16, 0.8  # of more sizes than that, those that are so far apart


def widths(
    draft: Draft, jobs: Sequence[Job], policy: Policy, later: Sequence[Job] = ()
) -> list[tuple[Job, int]]:
    """How wide each of the running `jobs`, of one type of device, should become with what is free;
    only those that should, in the order of `jobs`. Where quotas govern, each is first given what
    its project is guaranteed, and nobody borrows what `later` ones have a claim to."""
    snapshot = draft.snapshot
    code = snapshot.device_names.index(jobs[0].spec.device)
    free = int(draft.free[(snapshot.device == code) & snapshot.ready & snapshot.whole].sum())
    if not free:
        return []
    if draft.quota.governs:
        return _governed(draft, jobs, policy, later, free)
    found = _divided([_gains(draft, job, job.held, job.devices, policy) for job in jobs], free)
    return [(job, job.held + more) for job, more in zip(jobs, found, strict=True) if more]


def _governed(
    draft: Draft, jobs: Sequence[Job], policy: Policy, later: Sequence[Job], free: int
) -> list[tuple[Job, int]]:
    quota, wide = draft.quota.copy(), {job.id: job.held for job in jobs}
    due = [next(iter(quota.claimable(job, sizes(job))), job.held) for job in jobs]
    gains = [_gains(draft, j, j.held, d, policy) for j, d in zip(jobs, due, strict=True)]
    for job, more in zip(jobs, _divided(gains, free), strict=True):
        most = job.held + min(more, max(0, quota.room(job, free)))
        wanted = [d for d in sizes(job, most) if d > job.held]
        for devices in quota.claimable(job, wanted):  # others of its project were given some
            quota.take(job, devices - job.held)
            wide[job.id], free = devices, free - (devices - job.held)
    left = free - claimed(quota, later)
    while left > 0:
        tops = [wide[job.id] + max(0, quota.room(job, free)) for job in jobs]
        gains = [
            _gains(draft, job, wide[job.id], top, policy)
            for job, top in zip(jobs, tops, strict=True)
        ]
        given = 0
        for job, more in zip(jobs, _divided(gains, left), strict=True):
            if 0 < more <= quota.room(job, free):
                quota.take(job, more)
                wide[job.id], free, given = wide[job.id] + more, free - more, given + more
        left -= given
        if not given:
            break
    return [(job, wide[job.id]) for job in jobs if wide[job.id] > job.held]


def claimed(quota: Quota, jobs: Iterable[Job]) -> int:
    """Devices more that these have a claim to within what their projects are guaranteed."""
    quota, found = quota.copy(), 0
    for job in jobs:
        most = job.held + max(0, quota.room(job, UNBOUND))
        for devices in quota.claimable(job, [d for d in sizes(job, most) if d > job.held]):
            quota.take(job, devices - job.held)
            found += devices - job.held
    return found


def _gains(draft: Draft, job: Job, held: int, most: int, policy: Policy) -> dict[int, float]:
    """What so many devices more than `held` are worth, up to `most` in all."""
    found = valued(draft, job, (held, most), policy, idle=True)
    return {d - held: value - found[held] for d, value in found.items() if d > held}


def valued(
    draft: Draft, job: Job, among: tuple[int, int], policy: Policy, *, idle: bool = False
) -> dict[int, float]:
    """What the running job is worth on its sizes `among` two, and on what it holds. Any other size
    is worth less by the time that the job stands still until it has it, as part of the time in
    which that must be won back: the less, the less it is expected to need yet. Nobody knows that,
    but who had much will mostly need much. To take what is `idle` may pay later, for nobody else is
    to stall for it. What would cost its work is no size."""
    now_s, (low, most) = draft.snapshot.now_s, among
    had, away = level(job, now_s, policy), away_s(job, policy)[0]
    most_s, part = (policy.quantum_s, 1.0) if idle else (policy.resize_pays_s, _PART)
    needs = part * max(attained_s(job, now_s), policy.level_first_s)
    loses = keeps_nothing(job) or job.engine is None
    found = {job.held: worth(job, job.held, had)}
    for devices in _thinned([d for d in sizes(job, most) if d >= low], job.held):
        stays = bool(stay(draft, job, devices))
        if devices == job.held or (loses and not stays):
            continue
        stall_s = policy.resize_cost_s if stays else away
        soon_s = min(most_s, needs / devices)
        found[devices] = worth(job, devices, had) * max(0.0, 1.0 - stall_s / soon_s)
    return found


def _thinned(options: list[int], held: int) -> list[int]:
    """Of many sizes, largest first, those that are some way apart, and the last."""
    if len(options) <= _FEW:
        return options
    found = options[:1]
    for devices in options[1:-1]:
        if devices == held or devices <= _APART * found[-1]:
            found.append(devices)
    return [*found, options[-1]]


def evened(
    draft: Draft, jobs: Sequence[Job], room: int, policy: Policy
) -> tuple[list[tuple[Job, int]], list[tuple[Job, int]]]:
    """Who of the running `jobs`, which may use the same nodes, should become narrower, and who
    wider by that and by `room` devices; nobody where that is not worth what it costs. Nobody is
    left with less than its tier promises."""
    if not any(j.held < j.devices for j in jobs) or not any(j.held > least(j) for j in jobs):
        return [], []
    values = [valued(draft, job, (min(job.held, least(job)), job.devices), policy) for job in jobs]
    found = _divided(values, room + sum(job.held for job in jobs))
    before = sum(value[job.held] for job, value in zip(jobs, values, strict=True))
    after = sum(value.get(d, 0.0) for d, value in zip(found, values, strict=True))
    if after <= before or not all(found):
        return [], []
    sized = list(zip(jobs, found, strict=True))
    return [(j, d) for j, d in sized if d < j.held], [(j, d) for j, d in sized if d > j.held]


def narrowed(
    draft: Draft, blocked: Job, room: Mapping[int, int], policy: Policy
) -> list[tuple[int, Mapping[JobId, int]]]:
    """For each cluster, with `room` devices, in which `blocked` could so be admitted: on how many
    devices, and how narrow running equals would become for that. Only who has rested; nobody is
    given less than its tier promises, and nobody gives what is guaranteed to it to one that would
    borrow it."""
    found = []
    for cluster, jobs in sorted(_equals(draft, blocked, policy).items()):
        floors = _floors(draft, blocked, jobs)
        values = [valued(draft, job, (floors[job.id], job.held), policy) for job in jobs]
        had = level(blocked, draft.snapshot.now_s, policy)
        most = _admitted(draft, blocked, jobs, floors)
        wanted = _thinned(sizes(blocked, most), 0)
        values.append({d: worth(blocked, d, had) for d in wanted})
        devices = room.get(cluster, 0) + sum(job.held for job in jobs)
        *now, wide = _divided(values, devices)
        narrow = {job.id: to for job, to in zip(jobs, now, strict=True) if 0 < to < job.held}
        before = sum(v[job.held] for v, job in zip(values, jobs, strict=False) if job.id in narrow)
        after = sum(v[narrow[j.id]] for v, j in zip(values, jobs, strict=False) if j.id in narrow)
        if wide and narrow and values[-1][wide] + after > before:
            found.append((wide, narrow))
    return sorted(found, key=lambda each: (-each[0], len(each[1])))


def _equals(draft: Draft, blocked: Job, policy: Policy) -> dict[int, list[Job]]:
    """By cluster, those that could become narrower for it."""
    there, equals = may(draft, blocked), dict[int, list[Job]]()
    for each in roster(draft).jobs:
        job = each.job
        if job.tier is not blocked.tier or draft.touched(job) or not there[each.rows[0]]:
            continue
        if job.held > least(job) and rested(draft, job, policy.even_after_s):
            equals.setdefault(each.cluster, []).append(job)
    return equals


def _floors(draft: Draft, blocked: Job, jobs: Sequence[Job]) -> dict[JobId, int]:
    """The fewest devices that each may be left with. A project gives an equal of another one what
    it has borrowed, and no more, from those of its jobs that had most."""
    quota, floors = draft.quota, {job.id: least(job) for job in jobs}
    if not quota.governs:
        return floors
    given = Counter[tuple[str, str]]()
    for job in sorted(jobs, key=lambda j: (-level(j, draft.snapshot.now_s, draft.policy), j.id)):
        apart = quota.apart(job, blocked)
        spare = min((quota.surplus(key) - given[key] for key in apart), default=job.held)
        options = (d for d in sizes(job, job.held) if d >= max(floors[job.id], job.held - spare))
        floors[job.id] = min(options, default=job.held)
        given.update(dict.fromkeys(apart, job.held - floors[job.id]))
    return floors


def _admitted(
    draft: Draft, blocked: Job, jobs: Sequence[Job], floors: Mapping[JobId, int]
) -> int | None:
    """Devices that its quotas would admit if all gave as much as they may; None where none does."""
    if not draft.quota.governs:
        return blocked.held or None
    given = [(job, job.held - floors[job.id]) for job in jobs]
    idle = draft.idle(blocked.spec.device, draft.unclaimed()) + sum(n for _, n in given)
    bound = draft.quota.bound_later(blocked, idle, given)
    return blocked.devices if bound is None else claim(blocked) + max(0, bound.room)


def least(job: Job) -> int:
    """The fewest devices that an equal may leave it with."""
    return max(promised(job), min(sizes(job), default=job.devices))


def rested(draft: Draft, job: Job, least_s: float) -> bool:
    """Was the running job left alone for `least_s`, and for as long as it took to come back?"""
    if job.running_at_s is None:
        return False
    since_s = max(job.running_at_s, job.resize_at_s)
    return draft.snapshot.now_s - since_s >= max(least_s, job.restore_s or 0.0)


def rest_s(job: Job, now_s: float, policy: Policy) -> float:
    """For how long it is left alone before it takes what is idle, against thrash: after each resize
    of one life twice as long as after the one before. That fades: by one doubling for each quantum
    that this life has lasted."""
    lived = (now_s - job.running_at_s) / policy.quantum_s if job.running_at_s is not None else 0.0
    doublings = min(max(0, job.resize - int(lived)), _DOUBLINGS)
    return policy.grow_after_s * 2.0**doublings


def _divided(values: Sequence[Mapping[int, float]], capacity: int) -> list[int]:
    """A number of devices for each, of those in its mapping, that are worth most; 0 for none."""
    kinds = sorted({devices for options in values for devices in options})
    if not kinds:
        return [0] * len(values)
    utility = np.zeros((1, len(kinds), len(values)))
    for column, options in enumerate(values):
        for devices, value in options.items():
            utility[0, kinds.index(devices), column] = value
    found = allot(utility, np.array(kinds), np.array([capacity]))
    return [int(devices) for devices in found.size]
