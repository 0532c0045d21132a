"""A snapshot played forward: decisions are carried out, and agents do at once what they are told.

Nothing ends and nothing fails meanwhile, so it comes to rest: that is where the plan leads. Limits
on how much one round may move are lifted, for they change only how long it takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from singularity.primitives.holdings import holdings, stays
from singularity.primitives.messages import Phase, Report
from singularity.primitives.model import ACTIVE, Held, Job, JobId, JobState, Shard, ShardImage
from singularity.primitives.nodes import NodeId
from singularity.primitives.verbs import settle

from .decide import decide
from .plan import Action, Plan, Verb, perform
from .policy import Policy
from .snapshot import Snapshot

_ROUNDS_MOST: Final = 20
_STEP_S: Final = 10.0  # more than `grow_after_s`, and than the first delay after a failure
_ENOUGH: Final = 1 << 40


def rehearse(snapshot: Snapshot, policy: Policy) -> tuple[Snapshot, tuple[Action, ...], Plan]:
    """Where it comes to rest, what was done on the way, and the plan in which nothing is left to
    do, with the reasons of those that wait."""
    policy = replace(
        policy,
        preemptions_per_tick_max=_ENOUGH,
        evictions_per_minute_max=_ENOUGH,
        migrations_per_tick_max=_ENOUGH,
    )
    done, plan = list[Action](), Plan()
    snapshot = _with(snapshot, {}, snapshot.now_s)
    for _ in range(_ROUNDS_MOST):
        plan = decide(snapshot, policy)
        actions = [a for a in plan.actions if a.verb is not Verb.CHECKPOINT]
        waits = any(_waits(job, snapshot.now_s) for job in snapshot.jobs)
        if not actions and not waits:
            break
        done += actions
        jobs = {a.job: snapshot.by_id[a.job] for a in actions}
        changed = {a.job: perform(jobs[a.job], a, snapshot.now_s).job for a in actions}
        snapshot = _with(snapshot, changed, snapshot.now_s + _STEP_S)
    return snapshot, tuple(done), plan


def _waits(job: Job, now_s: float) -> bool:
    """Will time alone change something for it?"""
    if job.state in ACTIVE:
        return job.leaving_at_s is not None
    return job.retry_at_s > now_s


def _with(snapshot: Snapshot, changed: Mapping[JobId, Job], now_s: float) -> Snapshot:
    """The snapshot with these jobs, when agents have done all that they were told."""
    jobs = [_obeyed(changed.get(j.id, j), snapshot.now_s) for j in snapshot.jobs]
    kept: Counter[NodeId] = Counter()
    for job in jobs:
        kept.update(holdings(job))
    nodes = [n if n.used == kept[n.id] else replace(n, used=kept[n.id]) for n in snapshot.nodes]
    return snapshot.anew(nodes, jobs, now_s)


def _obeyed(job: Job, now_s: float) -> Job:
    while (report := next(due(job), None)) is not None:
        job = settle(job, report, now_s).job
    return job


def due(job: Job) -> Iterator[Report]:
    """What the agents of the job have still to report, if all goes well."""
    told: Phase = "running"
    if job.state is JobState.STOPPING:
        waiting, told = job.awaiting, "stopped"
    elif job.state is JobState.SUSPENDING:
        waiting, told = job.awaiting, "dumped"
    elif job.state is JobState.STARTING:
        waiting = job.awaiting
    else:
        waiting = job.dumping | job.resizing if job.state is JobState.RUNNING else frozenset()
    there = {s.node: s for s in job.placement}
    taken = {s.node: s.devices for s in job.target}
    for node in sorted(waiting):
        yield Report(
            job=job.id,
            node=node,
            incarnation=job.incarnation,
            phase=told,
            cut=job.cut if node in job.dumping else 0,
            image=_image(job, there[node]) if node in job.dumping else None,
            step=job.step,
            resize=job.resize if job.resizing else 0,
            devices=taken.get(node, there[node].devices),
        )


def _image(job: Job, shard: Shard) -> ShardImage:
    last = {i.node: i.raw_bytes for i in job.checkpoint.shards} if job.checkpoint else {}
    moves = job.state is JobState.SUSPENDING and bool(job.target)
    return ShardImage(
        shard.node,
        shard.ranks,
        digest="",
        step=job.step,
        raw_bytes=last.get(shard.node, 0),
        engine=job.spec.engines[job.cutting],
        held=Held("", "", "", stays(job, shard)) if moves else None,
    )
