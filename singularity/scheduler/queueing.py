"""Who is next, and who may not even try."""

from __future__ import annotations

from singularity.primitives.model import WAITING, Intent, Job, JobState
from singularity.primitives.sla import PROMISED, share

from .plan import Reason
from .snapshot import Snapshot


def queue(snapshot: Snapshot) -> list[Job]:
    """Jobs that want devices: most urgent tier first, then those furthest from what the tier
    promises, then those whose project has used least by its weight, then the longest waiting.
    What was used is worth half after a day, so nobody is behind for long. Those that verify others
    do not queue."""
    used = {p.id: p.share(snapshot.now_s) for p in snapshot.projects}
    waiting = [j for j in snapshot.jobs if j.state in WAITING and j.intent is Intent.RUN]
    waiting = [j for j in waiting if j.spec.aside is None]
    return sorted(
        waiting,
        key=lambda j: (
            j.tier,
            _served(j, snapshot.now_s),
            used.get(j.spec.project, 0.0),
            j.submitted_at_s,
            j.id,
        ),
    )


def _served(job: Job, now_s: float) -> int:
    """In twentieths, how much of what it asked for the job was given within the hour; 0 where that
    is promised to nobody."""
    promised = PROMISED.get(job.tier, 0.0)
    return round(20 * min(promised, share(job, now_s).fraction or 0.0))


def not_yet(snapshot: Snapshot, job: Job) -> tuple[Reason, ...]:
    """Why the job may not be placed at all now, however much is free."""
    reasons = []
    for other in job.spec.after:
        found = snapshot.by_id.get(other)
        state = found.state if found else "unknown"
        if state is not JobState.SUCCEEDED:
            reasons.append(Reason("dependency", f"waits for {other} to succeed; it is {state}"))
    if (left_s := job.retry_at_s - snapshot.now_s) > 0:
        why = job.message or "it failed"
        reasons.append(Reason("backoff", f"tries again in {left_s:.0f} s after: {why}"))
    return tuple(reasons)
