"""decide(): one snapshot in, one plan out. No clock, no randomness, no I/O.

Passes run in a fixed order, each seeing what the earlier ones took.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from singularity.primitives import engines
from singularity.primitives.model import TERMINAL, Engine, Intent, Job, JobId, JobState, Tier
from singularity.primitives.projects import claim

from . import aside, elastic, evacuate
from .explain import lacking
from .interval import cadence
from .placement import feasible, find, sizes
from .plan import Action, Draft, Plan, Reason, Verb
from .policy import Policy
from .queueing import not_yet, queue
from .quota import Bound
from .reclaim import reclaim
from .snapshot import Snapshot


def decide(snapshot: Snapshot, policy: Policy) -> Plan:
    draft = Draft(snapshot, policy)
    evacuate.failover(draft)
    overdue(draft, policy)
    obey(draft)
    expire(draft)
    aside.give_way(draft)
    evacuate.drain(draft, policy)
    blocked = place(draft, policy)
    elastic.grow(draft, blocked, policy)
    checkpoint(draft, aside.place(draft, blocked, policy), policy)
    return draft.plan()


def overdue(draft: Draft, policy: Policy) -> None:
    """No job stays in passing for ever: what takes too long is stopped and tried again."""
    limits = {
        JobState.STARTING: policy.start_deadline_s,
        JobState.SUSPENDING: policy.suspend_deadline_s,
        JobState.STOPPING: policy.stop_deadline_s,
    }
    now_s = draft.snapshot.now_s
    for state, limit_s in limits.items():
        for job in draft.untouched(state):
            if now_s - job.since_s > limit_s:
                reason = f"{state} for more than {limit_s:.0f} s"
                draft.take(Action(Verb.STOP, job.id, job.version, reason))
    for job in draft.untouched(JobState.RUNNING):
        if job.dumping and now_s - job.cut_at_s > policy.suspend_deadline_s:
            reason = f"checkpoint {job.cut} unanswered for {policy.suspend_deadline_s:.0f} s"
            draft.take(Action(Verb.STOP, job.id, job.version, reason))
        elif job.resizing and now_s - job.resize_at_s > policy.resize_deadline_s:
            reason = f"a resize was unanswered for {policy.resize_deadline_s:.0f} s"
            draft.take(Action(Verb.STOP, job.id, job.version, reason))


def obey(draft: Draft) -> None:
    """Make true what owners have asked for."""
    for job in draft.snapshot.jobs:
        if job.state in TERMINAL or draft.touched(job):
            continue
        if job.intent is Intent.CANCEL and job.state is not JobState.STOPPING:
            draft.take(Action(Verb.CANCEL, job.id, job.version, "its owner cancelled it"))
        elif job.intent is Intent.HOLD and draft.can_cut(job):
            reason = f"its owner suspended it{engines.loss(job, draft.snapshot.now_s)}"
            draft.take(Action(Verb.SUSPEND, job.id, job.version, reason))
        elif job.state is JobState.RUNNING and job.confine is not None:
            _move(draft, job)
    elastic.shrink_to_wish(draft)


def _move(draft: Draft, job: Job) -> None:
    """To where its owner moved it, at the size it has or the largest that fits there."""
    inside = feasible(draft.snapshot, job)
    if all(inside[draft.snapshot.row[n]] for n in job.nodes):
        return
    assert job.confine is not None
    where = f"{job.confine.kind} {job.confine.id}"
    if waits := draft.why_uncut(job):
        draft.explain(job, (Reason("move", waits),))
        return
    for devices in sizes(job, most=max(job.held, draft.most(job))):
        if target := find(draft, job, devices):
            reason = f"its owner moved it to {where}{engines.loss(job, draft.snapshot.now_s)}"
            draft.take(Action(Verb.MIGRATE, job.id, job.version, reason, target))
            return
    draft.explain(job, (Reason("move", f"cannot move to {where}: it has no room"),))


def expire(draft: Draft) -> None:
    now_s = draft.snapshot.now_s
    for job in draft.untouched(JobState.RUNNING):
        limit_s = job.spec.max_duration_s
        if limit_s and job.started_at_s is not None and now_s - job.started_at_s > limit_s:
            reason = f"ran longer than its max_duration of {limit_s:.0f} s"
            draft.take(Action(Verb.EXPIRE, job.id, job.version, reason))


def place(draft: Draft, policy: Policy) -> list[Job]:
    """Start what fits, most urgent first; returns what did not.

    Nothing less urgent passes a blocked job on nodes that it could use, or it would eat what is
    reclaimed for it. Among equals the smaller may pass. Those within the guarantee of their
    project come before all who would have to borrow, in each project in their order.
    """
    order = [job for job in queue(draft.snapshot) if not draft.touched(job)]
    waiting, borrowers, first = _Waiting.of(order), list[Job](), dict[tuple[str, str], Tier]()
    for job in order:
        of = job.spec.project, job.spec.device
        if reasons := not_yet(draft.snapshot, job):
            draft.explain(job, reasons)
        elif draft.quota.governs and (
            first.get(of, job.tier) < job.tier or not draft.quota.claims(job, _least(job))
        ):
            first.setdefault(of, job.tier)
            borrowers.append(job)
        else:
            waiting.within.add(job.id)
            _try(draft, job, waiting, policy)
    for job in borrowers:
        _try(draft, job, waiting, policy)
    return waiting.blocked


@dataclass(slots=True)
class _Waiting:
    """Jobs that could not be placed: for want of devices, or by a quota. `within` are those, placed
    or not, that do not have to borrow; `contested` kinds of device are wanted by many projects."""

    contested: frozenset[str]
    blocked: list[Job] = field(default_factory=list)
    bound: list[tuple[Job, Bound]] = field(default_factory=list)
    within: set[JobId] = field(default_factory=set)

    @classmethod
    def of(cls, order: Iterable[Job]) -> _Waiting:
        wanting: dict[str, set[str]] = {}
        for job in order:
            wanting.setdefault(job.spec.device, set()).add(job.spec.project)
        return cls(frozenset(kind for kind, by in wanting.items() if len(by) > 1))

    def before(self, other: Job, job: Job) -> bool:
        claims = other.id in self.within and job.id not in self.within
        return other.tier < job.tier or claims

    def most(self, draft: Draft, job: Job) -> int:
        """Who is within a guarantee takes no more than that while others want their own."""
        if draft.quota.governs and job.id in self.within and job.spec.device in self.contested:
            return min(draft.most(job), *draft.quota.claimable(job, sizes(job)))
        return draft.most(job)


def _try(draft: Draft, job: Job, waiting: _Waiting, policy: Policy) -> None:
    """Place the job, or add it to those that wait and make room for it."""
    ahead = _ahead(draft, job, waiting)
    if ahead is None and _place(draft, job, waiting.most(draft, job)):
        return
    limit = draft.bound(job)
    if limit is not None and limit.room < _least(job) - claim(job):
        waiting.bound.append((job, limit))
    else:
        waiting.blocked.append(job)
    if ahead is not None:
        detail = f"{ahead.spec.name} ({ahead.tier.name.lower()}) is before it and waits too"
        draft.explain(job, (Reason("order", detail),))
        return
    reasons = lacking(draft, job)
    draft.explain(job, (*reasons, Reason("reclaim", reclaim(draft, job, policy))))


def _least(job: Job) -> int:
    return min(sizes(job), default=job.devices)


def _ahead(draft: Draft, job: Job, waiting: _Waiting) -> Job | None:
    for other, limit in waiting.bound:
        same = other.spec.device == job.spec.device and draft.quota.binds(limit, job)
        if same and waiting.before(other, job):
            return other
    tier, borrows, within = job.tier, job.id not in waiting.within, waiting.within
    ahead = [o for o in waiting.blocked if o.tier < tier or (borrows and o.id in within)]
    if not ahead:
        return None
    mine = feasible(draft.snapshot, job)
    for other in ahead:
        if (mine & feasible(draft.snapshot, other)).any():
            return other
    return None


def _place(draft: Draft, job: Job, most: int) -> bool:
    for devices in sizes(job, most=most):
        if placement := find(draft, job, devices):
            last = job.origin
            what = f"resumes from step {last.step}" if last else "starts"
            reason = f"{what}: {devices} of {job.devices} {job.spec.device} fit"
            draft.take(Action(Verb.RESUME, job.id, job.version, reason, placement))
            return True
    return False


def checkpoint(draft: Draft, compared: Mapping[JobId, int], policy: Policy) -> None:
    """Take the checkpoints that are due or asked for; `compared` by whom it is verified."""
    snapshot = draft.snapshot
    for job in draft.untouched(JobState.RUNNING):
        if not draft.can_cut(job):
            continue
        nodes = [snapshot.nodes[snapshot.row[n]] for n in sorted(job.nodes)]
        found = cadence(job, nodes, snapshot.now_s, policy)
        last_s = max(job.running_at_s or 0.0, job.cut_ended_s) - job.carried_s
        due = found.every_s is not None and snapshot.now_s - last_s >= found.every_s
        steps = compared.get(job.id, 0)
        wanted = job.checkpoint_wanted and engines.next_up(job) is not Engine.RESTART
        if due or steps or wanted:
            asked = "it is to be verified" if steps else "its owner asked for one"
            reason = found.text if due else asked
            draft.take(Action(Verb.CHECKPOINT, job.id, job.version, reason, note_after=steps))
