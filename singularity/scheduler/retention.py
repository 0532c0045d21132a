"""Which cuts a job may still come back from. Everything else in the store is in the way.

Cuts of a job are numbered on from life to life. Those that count and are kept are the job's
`checkpoints`; a placement in flight restores from the first of them, and none is added before
every node has started. So a cut is needed while it is one of these or is being taken.
"""

from __future__ import annotations

from collections.abc import Iterable

from singularity.primitives.model import TERMINAL, Job, JobId, JobState

from .policy import Policy


def needed(job: Job, incarnation: int, cut: int) -> bool:
    """May the store not forget this cut? `job` was read after the cut was seen in the store, so a
    cut that is newer than the job knows is none of ours to judge."""
    if any((c.incarnation, c.cut) == (incarnation, cut) for c in job.checkpoints):
        return True
    if job.state in TERMINAL:
        return False
    return cut > job.cut or (cut == job.cut and bool(job.dumping))


def lent(shadows: Iterable[Job]) -> frozenset[tuple[JobId, int, int]]:
    """Cuts that living jobs of kind verify have of others."""
    return frozenset(
        (job.spec.aside.of, c.incarnation, c.cut)
        for job in shadows
        if job.spec.aside is not None and job.state not in TERMINAL
        for c in job.checkpoints
    )


def outlived(job: Job, now_s: float, policy: Policy) -> bool:
    """Has the job ended so long ago that nobody will ask for its checkpoints?"""
    if job.state not in TERMINAL:
        return False
    kept_s = policy.failed_kept_s if job.state is JobState.FAILED else policy.ended_kept_s
    return now_s - job.since_s >= kept_s
