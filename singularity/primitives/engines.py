"""Which engine takes a job's next cut: down the chain transparent → cooperative → restart.

An owner allows some of the three. A cut begins with the one that the last came to; when that can
never do it, on this node or for this job, the next one allowed takes its place at once. Failures
that may pass (a full disk, a deadline, a rank that dies) never lead down: the job runs on and the
same engine is asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .holdings import at_risk_s
from .messages import Report
from .model import Checkpoint, Engine, Job, Shard, ShardImage, Unable
from .records import replace


def first(job: Job) -> int:
    """The place in its chain of the engine that begins the next cut.

    Where the next cut would keep nothing, or fail, because of what the program was doing at the
    last one, all are asked again: it may have stopped doing so.
    """
    if job.engine in (None, Engine.RESTART) and job.fallen_by is Unable.JOB:
        return 0
    return min(job.fallen, len(job.spec.engines) - 1)


def next_up(job: Job) -> Engine:
    return job.spec.engines[first(job)]


def keeps_nothing(job: Job) -> bool:
    """Taking its devices is expected to cost all work since its last checkpoint."""
    return job.engine is Engine.RESTART


def loss(job: Job, now_s: float) -> str:
    """To be said wherever somebody takes devices from the job; "" where that loses nothing."""
    if not keeps_nothing(job) or job.spec.serving is not None:
        return ""
    return f"; nothing of it is kept: {at_risk_s(job, now_s):.0f} s of work are lost"


def label(job: Job) -> str:
    """What its owner is told of how the job's progress is kept, and why not better."""
    why = f": {job.fallen_reason}" if job.fallen_reason else ""
    match job.engine:
        case None:
            return f"none works, so it is not suspended or moved{why}"
        case Engine.RESTART:
            return f"restart, of which nothing is kept{why or ': its owner said so'}"
        case found:
            return f"{found}{why}"


def anew(job: Job) -> dict[str, Any]:
    """Changes for a new life: other nodes, another try. Only of a job that was seen to keep nothing
    that stays believed, for whoever takes its devices had better know."""
    if keeps_nothing(job) and job.fallen_by is not Unable.NODE:
        return {}
    return {"fallen": 0, "fallen_by": None, "fallen_reason": ""}


def started(job: Job, report: Report) -> Job:
    """A node says on its own, at the start, when nothing can be dumped there."""
    if report.unable is None or job.engine is not Engine.TRANSPARENT:
        return job
    return _down(job, 1, report)


def fell(job: Job, report: Report) -> Job:
    """The engine of the cut in flight can never take it."""
    return _down(job, job.cutting + 1, report)


def following(job: Job) -> Engine | None:
    """The engine after that of the cut in flight."""
    rest = job.spec.engines[job.cutting + 1 :]
    return rest[0] if rest else None


def kept(job: Job, images: Sequence[ShardImage]) -> Job:
    """The cut in flight is durable, so its engine works."""
    by = job.fallen_by if job.cutting else None
    reason = job.fallen_reason if job.cutting else ""
    job = replace(job, fallen=job.cutting, fallen_by=by, fallen_reason=reason)
    # What a program wrote itself runs on any processor.
    own_words = images[0].engine is Engine.COOPERATIVE
    return replace(job, unfit=frozenset()) if own_words else job


def moment(images: Sequence[ShardImage]) -> int | None:
    """The step that `images` are of; None when they are not of one moment. Programs that save
    themselves agree on that among themselves, and rank 0 is asked."""
    if images[0].engine is Engine.COOPERATIVE:
        return next((i.step for i in images if 0 in i.ranks), 0)
    steps = {i.step for i in images}
    return steps.pop() if len(steps) == 1 else None


def images_for(last: Checkpoint, shard: Shard) -> tuple[ShardImage, ...]:
    """What the ranks of `shard` come back from: their own, and what rank 0 wrote for all."""
    mine = set(shard.ranks) | ({0} if last.engine is Engine.COOPERATIVE else set())
    return tuple(i for i in last.shards if mine & set(i.ranks))


def judged_unfit(job: Job, report: Report) -> Job:
    """A node whose processors cannot run the image is not asked again."""
    if not report.unfit or report.node in job.unfit:
        return job
    return replace(job, unfit=job.unfit | {report.node}, version=job.version + 1)


def _down(job: Job, to: int, report: Report) -> Job:
    """What was known to be further down stays so, until a cut succeeds."""
    if to < job.fallen:
        return job
    return replace(job, fallen=to, fallen_by=report.unable, fallen_reason=report.reason)
