"""How wide elastic jobs of one tier should be: idle devices go where they gain most, and jobs that
run become narrower for one that waits when that is worth more. The sizes are goodput's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from singularity.primitives.model import Job, JobId, JobState

from .draft import Draft
from .goodput import allot, worth
from .placement import may, sizes, stay
from .policy import Policy
from .queueing import level, promised


def widths(draft: Draft, jobs: Sequence[Job], policy: Policy) -> list[tuple[Job, int]]:
    """How wide each of the running `jobs`, of one type of device, should become with what is free;
    only those that should. In the order of `jobs`."""
    snapshot = draft.snapshot
    code = snapshot.device_names.index(jobs[0].spec.device)
    free = int(draft.free[(snapshot.device == code) & snapshot.ready & snapshot.whole].sum())
    if len(jobs) == 1 or not free:
        return [(job, job.devices) for job in jobs if free]
    options = [[d - job.held for d in sizes(job) if d > job.held] for job in jobs]
    gains = [
        {more: worth(job, job.held + more, had) - worth(job, job.held, had) for more in extra}
        for job, extra in zip(jobs, options, strict=True)
        for had in [level(job, snapshot.now_s, policy)]
    ]
    found = _divided(gains, free)
    return [(job, job.held + more) for job, more in zip(jobs, found, strict=True) if more]


def narrowed(
    draft: Draft, blocked: Job, room: Mapping[int, int], policy: Policy
) -> list[tuple[int, Mapping[JobId, int]]]:
    """For each cluster, with `room` devices, in which `blocked` could so be admitted: on how many
    devices, and how narrow running equals would become for that. Only who has rested, and needs no
    cut; nobody is given less than its tier promises."""
    snapshot, there = draft.snapshot, may(draft, blocked)
    equals: dict[int, list[Job]] = {}
    for job in draft.untouched(JobState.RUNNING):
        if job.tier == blocked.tier and job.held > least(job) and _rested(draft, job, policy):
            row = snapshot.row[min(job.nodes)]
            if there[row] and draft.can_cut(job):
                equals.setdefault(int(snapshot.cluster[row]), []).append(job)
    found = []
    for cluster, jobs in sorted(equals.items()):
        everyone = [*jobs, blocked]
        values = []
        for job in everyone:
            had = level(job, snapshot.now_s, policy)
            options = [d for d in sizes(job, job.held or None) if d >= least(job) or job is blocked]
            values.append({d: worth(job, d, had) for d in options})
        devices = room.get(cluster, 0) + sum(job.held for job in jobs)
        *now, wide = _divided(values, devices)
        narrow = {
            job.id: to
            for job, to in zip(jobs, now, strict=True)
            if 0 < to < job.held and stay(draft, job, to)
        }
        before = sum(v[job.held] for v, job in zip(values, jobs, strict=False) if job.id in narrow)
        after = sum(v[narrow[j.id]] for v, j in zip(values, jobs, strict=False) if j.id in narrow)
        if wide and narrow and values[-1][wide] + after > before:
            found.append((wide, narrow))
    return sorted(found, key=lambda each: (-each[0], len(each[1])))


def least(job: Job) -> int:
    """The fewest devices that an equal may leave it with."""
    return max(promised(job), min(sizes(job), default=job.devices))


def _rested(draft: Draft, job: Job, policy: Policy) -> bool:
    since_s = max(job.running_at_s or draft.snapshot.now_s, job.resize_at_s)
    return draft.snapshot.now_s - since_s >= policy.quantum_s


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
