"""A cut in the making: asked of every node of the gang, counted when all hold the same.

It comes to a checkpoint, or, where the ranks go on elsewhere at once, to a handover: that skips the
store, leaves alone who stays, and is no checkpoint.
"""

from __future__ import annotations

from typing import Final

from . import engines, pace
from .errors import NotFound
from .holdings import at_risk_s, stays
from .lifecycle import Event, advance
from .messages import Command, Cut, Report
from .model import Checkpoint, Engine, Goal, Job, JobState, Placement
from .records import replace

BACKOFF_FIRST_S: Final = 2.0  # a flaky start or dump is tried again soon, a broken one rarely
BACKOFF_MOST_S: Final = 300.0
_PAUSES: Final = ("barrier", "dump", "store", "reconnect")  # parts of a cut in which ranks wait


def backoff_s(failures: int) -> float:
    """Seconds to wait after the n-th failure in a row: doubling, bounded."""
    return min(BACKOFF_FIRST_S * 2.0 ** max(0, failures - 1), BACKOFF_MOST_S)


def begin(
    job: Job, now_s: float, *, keep_running: bool, note_after: int = 0
) -> tuple[Job, tuple[Command, ...]]:
    engine = job.spec.engines[job.cutting]
    handed = bool(job.target) and not keep_running and engine is Engine.TRANSPARENT
    job = replace(
        job,
        cut=job.cut + 1,
        cut_at_s=now_s,
        dumping=job.nodes,
        gathered=(),
        pausing_s=0.0,
        checkpoint_wanted=False,
    )
    return (
        job,
        tuple(
            Cut(
                job=job.id,
                node=s.node,
                incarnation=job.incarnation,
                cut=job.cut,
                keep_running=keep_running,
                engine=engine,
                note_after=note_after,
                handover=handed,
                stay=stays(job, s) if handed else (),
            )
            for s in job.placement
        ),
    )


def answers(job: Job, report: Report) -> bool:
    return report.cut == job.cut and report.node in job.dumping


def gather(job: Job, report: Report, now_s: float) -> Job:
    """Count one shard's answer to the cut in flight. It becomes a checkpoint only when every
    shard holds the same cut at the same step; one failure ends it and harms nobody."""
    if not answers(job, report):
        return job
    if report.image is None:
        return aborted(job, report.reason, now_s)
    gathered = tuple(sorted((*job.gathered, report.image)))
    dumping = job.dumping - {report.node}
    if (step := engines.moment(gathered)) is None:
        steps = sorted({i.step for i in gathered})
        return aborted(job, f"shards were cut at different steps {steps}", now_s)
    paused_s = sum(report.seconds.get(part, 0.0) for part in _PAUSES)
    job = replace(
        job,
        dumping=dumping,
        gathered=gathered,
        pausing_s=max(job.pausing_s, paused_s),  # the gang waits for its slowest node
        version=job.version + 1,
    )
    if dumping:
        return job
    job = engines.kept(replace(job, paces=pace.noted(job, step)), gathered)
    made = Checkpoint(job.incarnation, job.cut, step, job.cut_at_s, gathered)
    job = replace(job, gathered=(), step=step, cut_ended_s=now_s, dump_failures=0, infra_failures=0)
    if any(image.held for image in gathered):
        return replace(job, handover=made, carried_s=at_risk_s(job, job.cut_at_s))
    kept = (made, *job.checkpoints)[: job.spec.checkpoint_keep]
    pause_s = smoothed(job.pause_s, job.pausing_s)
    return replace(job, checkpoints=kept, carried_s=0.0, pause_s=pause_s)


def aborted(job: Job, reason: str, now_s: float) -> Job:
    failures = job.dump_failures + 1
    job = replace(
        job,
        dumping=frozenset(),
        gathered=(),
        cut_ended_s=now_s,
        dump_failures=failures,
        retry_at_s=now_s + backoff_s(failures),
        message=f"checkpoint {job.cut} failed: {reason}",
    )
    if job.state is JobState.SUSPENDING:
        return advance(job, Event.ABORTED, now_s, target=(), awaiting=frozenset())
    return replace(job, version=job.version + 1)


def distrusting(job: Job, report: Report) -> Job:
    """Without the checkpoint, or the handover, that this incarnation could not be restored from.
    Its peers may find the same, before or after: it goes once."""
    if job.corrupt_in == report.incarnation:
        return job
    left = job.checkpoints if job.handover else job.checkpoints[1:]
    return replace(
        job,
        handover=None,
        checkpoints=left,
        corrupt_in=report.incarnation,
        unfit=frozenset(),  # those before may ask for less
        version=job.version + 1,
    )


def named(job: Job, name: str) -> Checkpoint:
    """A checkpoint of the job by its name, as 3-2. Raises NotFound with those that there are."""
    known = {f"{c.incarnation}-{c.cut}": c for c in job.checkpoints}
    if (found := known.get(name)) is None:
        raise NotFound(f"{job.spec.name} has no checkpoint {name}", near=list(known))
    return found


def chosen(job: Job) -> Checkpoint | None:
    """What its owner wants it to go back to; None also where newer ones have taken its place."""
    found = [c for c in job.checkpoints if (c.incarnation, c.cut) == job.back_to]
    return found[0] if found else None


def gone_back(job: Job, to: Checkpoint) -> Job:
    """Without what came after that checkpoint of it."""
    return replace(
        job,
        checkpoints=job.checkpoints[job.checkpoints.index(to) :],
        checkpoint_wanted=False,
        handover=None,
        carried_s=0.0,
        step=to.step,
        unfit=frozenset(),  # those before may ask for less
        version=job.version + 1,
    )


def let_go(job: Job) -> Job:
    """Back to its last checkpoint: the memory that its handover takes may be free again."""
    return replace(job, handover=None, carried_s=0.0, version=job.version + 1)


def keeps_for(job: Job, report: Report) -> bool:
    """Does that node still keep a part of what the job's next life begins from?"""
    kept = job.handover
    return (
        kept is not None
        and report.incarnation >= kept.incarnation
        and any(image.node == report.node for image in kept.shards)
    )


def smoothed(known_s: float | None, measured_s: float) -> float | None:
    """Half the newest, half all that was before. A report that tells no times measures nothing."""
    if measured_s <= 0.0:
        return known_s
    return measured_s if known_s is None else (known_s + measured_s) / 2


def all_stand(job: Job, shards: Placement) -> bool:
    """Do the ranks that were not dumped go on where they are?"""
    standing = job.handover.standing if job.handover else {}
    there = {s.node: set(s.ranks) for s in shards}
    return all(set(ranks) <= there.get(node, set()) for node, ranks in standing.items())


def still_good(handover: Checkpoint | None, goal: Goal) -> Checkpoint | None:
    """A life that could not begin from it begins again, elsewhere: images may be read twice, but
    ranks that never left have been woken."""
    return handover if goal is Goal.RETRY and handover and not handover.standing else None
