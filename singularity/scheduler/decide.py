"""decide(): one snapshot in, one plan out. No clock, no randomness, no I/O.

Passes run in a fixed order, each seeing what the earlier ones took.
"""

from __future__ import annotations

from collections.abc import Mapping

from singularity.primitives import cuts, engines
from singularity.primitives.model import TERMINAL, Engine, Intent, Job, JobId, JobState

from . import admit, aside, elastic, evacuate, quarantine, rebalance, serve, upkeep
from .draft import Draft
from .interval import cadence, is_due
from .placement import feasible, find, sizes
from .plan import Action, Plan, Reason, Verb
from .policy import Policy
from .snapshot import Snapshot


def decide(snapshot: Snapshot, policy: Policy) -> Plan:
    draft = Draft(snapshot, policy)
    evacuate.failover(draft)
    overdue(draft, policy)
    serve.scale(draft, policy)
    obey(draft)
    expire(draft)
    aside.give_way(draft, policy)
    evacuate.drain(draft, policy)
    blocked = admit.place(draft, policy)
    let_go(draft, policy)
    tidying = rebalance.tidy(draft, policy)
    elastic.fit(draft, blocked, policy)
    checkpoint(draft, aside.place(draft, blocked, policy), policy)
    facts = (*quarantine.judge(snapshot, policy), *upkeep.keep(snapshot, policy))
    return draft.plan((*facts, *tidying))


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
    for job in draft.astir():
        if job.dumping and now_s - job.cut_at_s > policy.suspend_deadline_s:
            reason = f"checkpoint {job.cut} unanswered for {policy.suspend_deadline_s:.0f} s"
            draft.take(Action(Verb.STOP, job.id, job.version, reason))
        elif job.resizing and now_s - job.resize_at_s > policy.resize_deadline_s:
            reason = f"a resize was unanswered for {policy.resize_deadline_s:.0f} s"
            draft.take(Action(Verb.STOP, job.id, job.version, reason))


def obey(draft: Draft) -> None:
    """Make true what owners have asked for."""
    for job in draft.snapshot.astir:
        if job.intent is Intent.RUN and job.confine is None and job.back_to is None:
            continue  # most; nothing more than to run
        if job.state in TERMINAL or draft.touched(job):
            continue
        if job.intent is Intent.CANCEL and job.state is not JobState.STOPPING:
            draft.take(Action(Verb.CANCEL, job.id, job.version, "its owner cancelled it"))
        elif job.back_to is not None:
            draft.take(Action(Verb.GO_BACK, job.id, job.version, _going_back(job)))
        elif job.spec.serving is not None:
            continue  # whether it serves is said by its service
        elif job.intent is Intent.HOLD and draft.can_cut(job):
            reason = f"its owner suspended it{engines.loss(job, draft.snapshot.now_s)}"
            draft.take(Action(Verb.SUSPEND, job.id, job.version, reason))
        elif job.state is JobState.RUNNING and job.confine is not None:
            _move(draft, job)
    elastic.shrink_to_wish(draft)


def _going_back(job: Job) -> str:
    if (to := cuts.chosen(job)) is None:
        return "the checkpoint that its owner chose is kept no more"
    return f"its owner chose to go back to step {to.step}: what came after is given up"


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
    for job in draft.astir():
        limit_s = job.spec.max_duration_s
        if limit_s and job.started_at_s is not None and now_s - job.started_at_s > limit_s:
            reason = f"ran longer than its max_duration of {limit_s:.0f} s"
            draft.take(Action(Verb.EXPIRE, job.id, job.version, reason))


def let_go(draft: Draft, policy: Policy) -> None:
    """A job that was to move and found no room holds the memory of the nodes it left. After a while
    that goes, with the work since its last checkpoint; not where it is the only copy."""
    for job in draft.untouched(JobState.SUSPENDED):
        waited_s = draft.snapshot.now_s - job.since_s
        if job.handover and job.checkpoints and waited_s > policy.handover_kept_s:
            back = f"it goes back to step {job.checkpoints[0].step}"
            reason = f"found no room for {waited_s:.0f} s, in which nodes kept its memory: {back}"
            draft.take(Action(Verb.LET_GO, job.id, job.version, reason))


def checkpoint(draft: Draft, compared: Mapping[JobId, int], policy: Policy) -> None:
    """Take the checkpoints that are due or asked for; `compared` by whom it is verified."""
    snapshot = draft.snapshot
    for job in _may_be_due(draft, compared, policy):
        never = job.spec.checkpoint_every_s == 0.0 and not job.checkpoint_wanted
        if (never and job.id not in compared) or not draft.can_cut(job):
            continue
        nodes = (snapshot.nodes[snapshot.row[n]] for n in job.nodes)
        due = is_due(job, nodes, snapshot.now_s, policy)
        steps = compared.get(job.id, 0)
        wanted = job.checkpoint_wanted and engines.next_up(job) is not Engine.RESTART
        if due or steps or wanted:
            asked = "it is to be verified" if steps else "its owner asked for one"
            reason = _how_often(draft, job, policy) if due else asked
            draft.take(Action(Verb.CHECKPOINT, job.id, job.version, reason, note_after=steps))


def _may_be_due(draft: Draft, compared: Mapping[JobId, int], policy: Policy) -> list[Job]:
    """All that run, in id order, but for steady ones of which no checkpoint is due."""
    snapshot, known = draft.snapshot, draft.snapshot.steady
    if known is None or known.of is not snapshot.jobs:
        return draft.untouched(JobState.RUNNING)
    due = known.due(snapshot.failures, snapshot.known_s, snapshot.now_s, policy)
    asked = (snapshot.by_id[job] for job in sorted(compared))
    found = {job.id: job for job in (*draft.astir(), *due, *asked)}
    return [found[job] for job in sorted(found)]


def _how_often(draft: Draft, job: Job, policy: Policy) -> str:
    nodes = [draft.snapshot.nodes[draft.snapshot.row[n]] for n in job.nodes]
    return cadence(job, nodes, draft.snapshot.now_s, policy).text
