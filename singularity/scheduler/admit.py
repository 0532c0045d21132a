"""Who starts, tier by tier; who is made room for; and who waits, with the reason."""

from __future__ import annotations

from collections.abc import Hashable

from singularity.primitives.model import Job, JobState, Tier
from singularity.primitives.sla import PROMISED

from . import elastic
from .explain import lacking
from .placement import alike, find, may, sizes
from .plan import Action, Draft, Reason, Verb
from .policy import Policy
from .queueing import level, not_yet, promised, queue
from .reclaim import reclaim


class Waiting:
    """The jobs that this round cannot start, in the order of the queue."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._kinds: dict[Hashable, Job] = {}  # the first of each tier that is like no other

    def add(self, job: Job) -> None:
        self.jobs.append(job)
        self._kinds.setdefault((job.tier, alike(job)), job)

    def before(self, draft: Draft, job: Job, tier: Tier) -> Job | None:
        """One of `tier` or more urgent that could use nodes which `job` could use."""
        for other in self._kinds.values():
            if other.tier <= tier and (may(draft, job) & may(draft, other)).any():
                return other
        return None


def place(draft: Draft, policy: Policy) -> list[Job]:
    """Start what fits, most urgent first; returns what did not.

    Nothing less urgent passes a blocked job on nodes that it could use, or it would eat what is
    reclaimed for it. Among equals the smaller may pass.
    """
    waiting, line = Waiting(), queue(draft.snapshot, policy)
    for tier in Tier:
        for job in line:
            if job.tier is tier and not draft.touched(job):
                _admit(draft, job, waiting, policy)
        if tier in PROMISED:
            _claim(draft, tier, waiting, policy)
    return waiting.jobs


def _admit(draft: Draft, job: Job, waiting: Waiting, policy: Policy) -> None:
    if reasons := not_yet(draft.snapshot, job):
        draft.explain(job, reasons)
        return
    kind = _kind(draft, job, policy)
    if told := draft.findings.told.get(kind):  # one like it has just been found to wait
        draft.explain(job, told)
        waiting.jobs.append(job)  # of a kind that is known
        return
    ahead = waiting.before(draft, job, Tier(job.tier - 1)) if job.tier else None
    if ahead is None and _start(draft, job, promised(job)):
        return
    if ahead is not None:
        detail = f"{ahead.spec.name} ({ahead.tier.name.lower()}) is before it and waits too"
        told = (Reason("order", detail),)
    else:
        wide, narrow = _attempts(job, promised(job))
        made = reclaim(draft, job, wide, policy)
        if narrow and not made.comes:  # then on less than it was promised, for now
            if _start(draft, job, 0):
                return
            made = reclaim(draft, job, narrow, policy)
        told = (*lacking(draft, job), Reason("reclaim", made.told))
    draft.explain(job, told)
    waiting.add(job)
    if ahead is not None or not made.comes:
        draft.findings.told[kind] = told


def _kind(draft: Draft, job: Job, policy: Policy) -> Hashable:
    """Of two that are the same in this, the second fits nowhere if the first did not, and nobody
    gives way for it."""
    spec, had = job.spec, level(job, draft.snapshot.now_s, policy)
    alone = job.id if spec.topology.apart else ""
    return alike(job), job.tier, had, job.devices, spec.devices_min, spec.ranks, alone


def _attempts(job: Job, least: int) -> tuple[list[int], list[int]]:
    """Sizes for which room may be made: the largest, and the smallest of at least `least` devices;
    and where there is no other way, the smallest of all."""
    every = sizes(job)
    wide = [devices for devices in every if devices >= least]
    return list(dict.fromkeys((*wide[:1], *wide[-1:]))), every[len(wide) :][-1:]


def _start(draft: Draft, job: Job, least: int) -> bool:
    """At the largest size that fits, if that is `least` or more."""
    most = draft.fleet.most if job.spec.share is None else None
    for devices in sizes(job, most):
        if devices < least:
            break
        if placement := find(draft, job, devices):
            last = job.origin
            what = f"resumes from step {last.step}" if last else "starts"
            fits = f"{devices} of {job.devices} {job.spec.device} fit"
            if job.spec.share is not None:
                fits = f"{job.spec.share} of a {job.spec.device} fit"
            reason = f"{what}: {fits}"
            draft.take(Action(Verb.RESUME, job.id, job.version, reason, placement))
            return True
    return False


def _claim(draft: Draft, tier: Tier, waiting: Waiting, policy: Policy) -> None:
    """Whoever runs on less than its tier promises is given the rest, before less urgent jobs are
    placed and, where nothing is idle, at their cost; unless somebody waits for the same nodes."""
    for job in draft.untouched(JobState.RUNNING):
        lacks = job.tier is tier and job.held < promised(job)
        if not lacks or not elastic.short(draft, job, policy) or waiting.before(draft, job, tier):
            continue
        if not elastic.widen(draft, job, job.devices):
            reclaim(draft, job, _attempts(job, max(promised(job), job.held + 1))[0], policy)
