"""Who starts, tier by tier; who is made room for; and who waits, with the reason."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace

from singularity.primitives.engines import keeps_nothing
from singularity.primitives.model import Job, JobId, Tier
from singularity.primitives.projects import claim
from singularity.primitives.sla import PROMISED

from . import elastic
from .draft import Draft
from .explain import lacking
from .lines import queues
from .offers import footing_of
from .placement import alike, at_home, find, meet, sizes
from .plan import Action, Reason, Verb, called
from .policy import Policy
from .queueing import Rank, meant_for, not_yet, promised, ranks
from .quota import UNBOUND
from .reclaim import reclaim

Told = tuple[Reason, ...]
_Line = Mapping[Tier, Sequence[Rank]]
_Quota = tuple[str, str]  # whose limit it is, and of which kind of device


class Waiting:
    """The jobs that this round cannot start, in the order of the queue. Those that wait for want of
    a quota, or behind one that does, are not among `jobs`: devices would not help them.

    Where quotas govern, `within` are those, started or not, that are within the guarantee of their
    project, and so need not borrow; `contested` kinds of device are wanted by more than one."""

    def __init__(self, first: Iterable[Job] = (), meant: Iterable[Job] = ()) -> None:
        """`first` of each line; `meant` are those for whom others just gave devices up."""
        self.jobs: list[Job] = []
        self.within: set[JobId] = set()
        self._meant = tuple(meant)
        wanting: dict[str, set[str]] = {}
        for job in first:
            wanting.setdefault(job.spec.device, set()).add(job.spec.project)
        self.contested = frozenset(kind for kind, by in wanting.items() if len(by) > 1)
        self._kinds: dict[Hashable, Job] = {}  # the first of each tier that is like no other
        self._coming = set[Hashable]()  # of these, those of which devices come for one
        self._bound: dict[_Quota, list[tuple[int, Job]]] = {}  # by quota, in their order
        self._wants: dict[JobId, _Quota] = {}  # of each of these
        self._behind = set[Hashable]()  # of each tier the first that is bound by it
        self._borrow: dict[tuple[str, str], Tier] = {}  # the first that had to, by project and kind

    def add(self, draft: Draft, job: Job, ahead: Job | None, *, comes: bool) -> None:
        """Behind `ahead`, if there is one; `comes`: devices are being freed for it."""
        limit, claims = draft.bound(job), job.id in self.within
        quota = self._wants.get(ahead.id) if ahead is not None else None
        if limit is not None and limit.room < _least(job) - claim(job):
            quota = limit.project, job.spec.device
        if quota is not None:
            if (of := (job.tier, claims, quota)) not in self._behind:
                self._bound.setdefault(quota, []).append((len(self._behind), job))
                self._wants[job.id] = quota
                self._behind.add(of)
        else:
            self.jobs.append(job)
            self._kinds.setdefault(kind := (job.tier, claims, alike(job)), job)
            if comes:
                self._coming.add(kind)

    def all_wait(self, draft: Draft, rank: Rank, told: Told) -> None:
        """Those behind the first of a line, for what it was told just now."""
        draft.explain_line(*rank.behind, told)
        if not draft.quota.governs:
            self.jobs.extend(rank.rest)
        elif self._meant and rank.first.id in self.within:  # else nobody asks for any of them
            line, first = rank.behind
            self.within.update(line[first:])

    def before(self, draft: Draft, job: Job, tier: int) -> Job | None:
        """One of `tier` or more urgent, or within its guarantee where `job` is not, that could use
        nodes, or a quota, which `job` could use; unless it has no use for them now and may take
        them back."""
        borrows = job.id not in self.within

        def first(other: Job) -> bool:
            return other.tier <= tier or (borrows and other.id in self.within)

        quotas = (("", job.spec.device), *draft.quota.keys(job)) if self._bound else ()
        bound = (each for quota in quotas for each in self._bound.get(quota, ()))
        if found := min(((n, other.id) for n, other in bound if first(other)), default=None):
            return draft.snapshot.by_id[found[1]]
        there = ((kind, o) for kind, o in self._kinds.items() if first(o) and meet(draft, job, o))
        return next((o for kind, o in there if not self._lets_pass(draft, kind, o, job)), None)

    def _lets_pass(self, draft: Draft, kind: Hashable, first: Job, job: Job) -> bool:
        """What is idle and comes to nobody is for whoever gives it back without a loss."""
        lends = job.tier not in PROMISED and job.spec.serving is None and not keeps_nothing(job)
        if not lends or kind in self._coming or first.tier >= job.tier:
            return False
        return draft.quota.may_take(first, _least(first), job)

    def claims(self, draft: Draft, job: Job) -> bool:
        """Is it within the guarantee of its project? Not if a more urgent one there is not, nor
        while one waits for which others gave devices up, and which might take them from this one as
        well: they would be taken and claimed back for ever."""
        of = job.spec.project, job.spec.device
        behind = self._borrow.get(of, job.tier) < job.tier or self._spoken_for(draft, job)
        if behind or not draft.quota.claims(job, _least(job)):
            self._borrow.setdefault(of, job.tier)
            return False
        self.within.add(job.id)
        return True

    def _spoken_for(self, draft: Draft, job: Job) -> bool:
        urgent = (o for o in self._meant if o.tier < job.tier and o.id not in self.within)
        return any(draft.quota.yields(job, _least(job), to) for to in urgent)

    def due(self, draft: Draft, job: Job) -> int:
        """Within a guarantee no more devices than that, while others want theirs."""
        if job.id in self.within and job.spec.device in self.contested:
            return min((UNBOUND, *draft.quota.claimable(job, sizes(job))))
        return UNBOUND


def place(draft: Draft, policy: Policy) -> list[Job]:
    """Start what fits, most urgent first; returns what did not.

    Nothing less urgent passes a blocked job on nodes that it could use, or it would eat what is
    reclaimed for it; but where nothing is, basic work takes what is idle until it is. Among equals
    the smaller may pass. Those within the guarantee of their project come before all who would have
    to borrow, in each project in their order.
    """
    line: _Line = ranks(draft.snapshot, policy)
    first = (rank.first for of_tier in line.values() for rank in of_tier)
    meant = sorted(meant_for(draft.snapshot, policy)) if draft.quota.governs else ()
    asked = (draft.snapshot.by_id[job] for job in meant if job in draft.snapshot.by_id)
    waiting = Waiting(
        (job for job in first if not draft.touched(job)), (job for job in asked if queues(job))
    )
    if draft.quota.governs:
        line = _by_tier(draft, line, waiting, policy, guaranteed=True)
    _by_tier(draft, line, waiting, policy, guaranteed=False)
    return waiting.jobs


def _by_tier(
    draft: Draft, line: _Line, waiting: Waiting, policy: Policy, *, guaranteed: bool
) -> _Line:
    """One pass over all tiers; returns who is not within a guarantee where it is for those only."""
    left = dict[Tier, list[Rank]]()
    for tier in Tier:
        todo = [(rank.place, rank) for rank in line.get(tier, ())]
        heapify(todo)
        while todo:
            rank = todo[0][1]
            job = rank.first
            barred = guaranteed and bool(not_yet(draft.snapshot, job))
            if draft.touched(job):
                told: Told = ()
            elif guaranteed and not barred and not waiting.claims(draft, job):
                left.setdefault(tier, []).append(rank)  # nor are those behind it
                heappop(todo)
                continue
            else:
                told = _admit(draft, job, waiting, policy)
            if told:
                waiting.all_wait(draft, rank, told)
            if told or not rank.advance():
                heappop(todo)
            else:
                heapreplace(todo, (rank.place, rank))
        if tier in PROMISED:
            _claim(draft, tier, waiting, policy, guaranteed=guaranteed)
    return left


def _admit(draft: Draft, job: Job, waiting: Waiting, policy: Policy) -> Told:
    """Why it waits, if whoever is like it waits for the same."""
    if reasons := not_yet(draft.snapshot, job):
        draft.explain(job, reasons)
        return ()
    known = draft.findings.told  # of those that have just been found to wait
    if known and (found := known.get(_kind(draft, job, waiting, policy))):
        told = _behind(found, job) if isinstance(found, Job) else found
        draft.explain(job, told)
        if not draft.quota.governs:  # else the one like it stands for all
            waiting.jobs.append(job)
        return told
    ahead = waiting.before(draft, job, job.tier - 1)
    due = waiting.due(draft, job)
    most = min(draft.most(job), due)
    if job.spec.share is None:
        most = min(most, draft.fleet.most)
    least = min(promised(job), due)
    if ahead is None and _start(draft, job, least, most):
        return ()
    if ahead is not None:
        told = _behind(ahead, job)
    else:
        lacks, (wide, narrow) = lacking(draft, job), _attempts(draft, job, least)
        made = reclaim(draft, job, wide, policy)
        if narrow and not made.comes:  # then on less than it was promised, for now
            if _start(draft, job, 0, most):
                return ()
            made = reclaim(draft, job, narrow, policy)
        told = (*lacks, Reason("reclaim", made.told))
    draft.explain(job, told)
    waiting.add(draft, job, ahead, comes=ahead is None and made.comes)
    if ahead is not None or not made.comes:
        known[_kind(draft, job, waiting, policy)] = ahead or told
        return told
    return ()


def _behind(ahead: Job, job: Job) -> Told:
    detail = f"{called(ahead, job)} ({ahead.tier.name.lower()}) is before it and waits too"
    return (Reason("order", detail),)


def _kind(draft: Draft, job: Job, waiting: Waiting, policy: Policy) -> Hashable:
    """Of two that are the same in this, the second fits nowhere if the first did not, and nobody
    gives way for it."""
    spec, stands = job.spec, footing_of(draft, job, policy)
    alone = job.id if spec.topology.apart else ""
    whose = (spec.project, job.id in waiting.within, claim(job)) if draft.quota.governs else ()
    size = job.devices, spec.devices_min, spec.ranks
    return alike(job), job.tier, stands, size, alone, whose, keeps_nothing(job)


def _least(job: Job) -> int:
    return min(sizes(job), default=job.devices)


def _attempts(draft: Draft, job: Job, least: int) -> tuple[list[int], list[int]]:
    """Sizes for which room may be made: the largest, the largest within a guarantee, and the
    smallest of at least `least` devices; and where there is no other way, the smallest of all."""
    every = sizes(job)
    wide = [devices for devices in every if devices >= least]
    narrow, claimable = every[len(wide) :], draft.quota.claimable
    return (
        list(dict.fromkeys((*wide[:1], *claimable(job, wide), *wide[-1:]))),
        list(dict.fromkeys((*claimable(job, narrow), *narrow[-1:]))),
    )


def _start(draft: Draft, job: Job, least: int, most: int) -> bool:
    """At the largest size up to `most` that fits, if that is `least` or more."""
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


def _claim(draft: Draft, tier: Tier, waiting: Waiting, policy: Policy, *, guaranteed: bool) -> None:
    """Whoever runs on less than its tier promises is given the rest, before less urgent jobs are
    placed and, where nothing is idle, at their cost; unless somebody waits for the same nodes."""
    for job in draft.astir():
        lacks = job.tier is tier and job.held < promised(job)
        ready = lacks and elastic.short(draft, job, policy, owed=True)
        if not ready or job.id in waiting.within:
            continue
        if guaranteed and not draft.quota.claims(job, promised(job)):
            continue
        if guaranteed:
            waiting.within.add(job.id)
        where = (job, at_home(draft, job))  # whoever waits for nodes elsewhere need not be passed
        free_to = next((j for j in where if not waiting.before(draft, j, tier)), None)
        if free_to is None:
            continue
        lent = elastic.lent(draft, job, policy)
        if not elastic.widen(draft, free_to, sizes(job, min(waiting.due(draft, job), lent))):
            if lent < promised(job):
                continue  # what is idle is others', who are about to take it
            wide, _ = _attempts(draft, job, max(promised(job), job.held + 1))
            reclaim(draft, free_to, wide, policy)
