"""Jobs that are replicas of a service: when they answer, when they rest, what their crashes count.

A replica at rest is a job that is held. It leaves first: while it is leaving it runs on, gets no
new requests, and is stopped when it has none left (scheduler/serve.py).
"""

from __future__ import annotations

from typing import Final

from .messages import Report
from .model import WAITING, Intent, Job, JobState
from .records import replace

SETTLED_S: Final = 600.0  # a replica that served so long has not failed "again" when it crashes


def wake(job: Job) -> Job:
    """It shall serve, or go on serving."""
    return replace(
        job, intent=Intent.RUN, leaving_at_s=None, retry_at_s=0.0, version=job.version + 1
    )


def rest(job: Job, now_s: float) -> Job:
    """It shall serve no more. One without devices is at rest at once."""
    leaving_s = None if job.state in WAITING else now_s
    return replace(job, intent=Intent.HOLD, leaving_at_s=leaving_s, version=job.version + 1)


def ready(job: Job) -> bool:
    """Does it take new requests?"""
    return job.state is JobState.RUNNING and bool(job.endpoint) and job.leaving_at_s is None


def answers(job: Job, report: Report) -> Job:
    """Where it answers is what its node said last."""
    same = report.endpoint == job.endpoint or job.state is not JobState.RUNNING
    if job.spec.serving is None or same:
        return job
    return replace(job, endpoint=report.endpoint, version=job.version + 1)


def user_failures(job: Job, now_s: float) -> int:
    """How often its program has failed before; forgiven a replica that served for a while."""
    if job.spec.serving is None or job.running_at_s is None:
        return job.user_failures
    return 0 if now_s - job.running_at_s >= SETTLED_S else job.user_failures
