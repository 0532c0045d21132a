"""Jobs that are replicas of a service: when they answer, when they rest, what their crashes count.

A replica at rest is a job that is held. It leaves first: while it is leaving it runs on, gets no
new requests, and is stopped when it has none left (scheduler/serve.py). So does one that makes way
for others, in less time; and then it waits for devices, as any job that had to.
"""

from __future__ import annotations

from typing import Final

from .messages import Report
from .model import WAITING, Intent, Job, JobState
from .records import replace

SETTLED_S: Final = 600.0  # a replica that served so long has not failed "again" when it crashes
LAST_S: Final = 5.0  # to end, once told to, for one whose devices others wait for


def wake(job: Job) -> Job:
    """It shall serve, or go on serving."""
    return replace(
        job, intent=Intent.RUN, leaving_at_s=None, retry_at_s=0.0, version=job.version + 1
    )


def rest(job: Job, now_s: float) -> Job:
    """It shall serve no more. One without devices is at rest at once."""
    leaving_s = None if job.state in WAITING else _leaving_s(job, now_s)
    return replace(job, intent=Intent.HOLD, leaving_at_s=leaving_s, version=job.version + 1)


def resting(job: Job) -> bool:
    """Is it a replica that nobody needs now?"""
    held = job.intent is Intent.HOLD and job.state in WAITING
    return held and job.spec.serving is not None


def evict(job: Job, now_s: float) -> Job:
    """It shall make way. What is weighed for that is charged to it in the same step."""
    return replace(job, leaving_at_s=_leaving_s(job, now_s), version=job.version + 1)


def evicted(job: Job) -> bool:
    """Is it leaving to make way for others? Then nobody may call it back."""
    since_s = job.leaving_at_s
    if since_s is None or job.taken is None or job.taken.evicted_at_s is None:
        return False
    return job.taken.evicted_at_s >= since_s


def patience_s(job: Job) -> float | None:
    """How long it has to end once it is told to; None: as its service says."""
    return LAST_S if evicted(job) else None


def waits(job: Job, report: Report) -> bool:
    """Does it wait, warm, at the node that reports, for all that is known? Then the node goes on
    keeping it, for as long as it is not told to forget the report."""
    there = job.state in WAITING and job.warm == report.node
    return there and report.warm and report.incarnation == job.incarnation


def cooled(job: Job, report: Report) -> Job:
    """Its node may say that it waits there no more."""
    newest = job.warm == report.node and report.incarnation == job.incarnation
    if not newest or report.warm or job.state not in WAITING:
        return job
    return replace(job, warm=None, version=job.version + 1)


def _leaving_s(job: Job, now_s: float) -> float:
    return now_s if job.leaving_at_s is None else job.leaving_at_s


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
