"""The one table of job states. Nothing else may assign `Job.state`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from .errors import IllegalTransition
from .model import Job
from .model import JobState as S
from .records import replace


class Event(StrEnum):
    PLACED = "placed"
    STARTED = "started"
    QUIESCED = "quiesced"
    DUMPED = "dumped"
    ABORTED = "aborted"  # a dump failed: the job never stopped
    LOST = "lost"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


E = Event
TABLE: Final[Mapping[tuple[S, Event], S]] = MappingProxyType(
    {
        (S.PENDING, E.PLACED): S.STARTING,
        (S.SUSPENDED, E.PLACED): S.STARTING,
        (S.STARTING, E.STARTED): S.RUNNING,
        (S.RUNNING, E.QUIESCED): S.SUSPENDING,
        (S.SUSPENDING, E.DUMPED): S.SUSPENDED,
        (S.SUSPENDING, E.ABORTED): S.RUNNING,
        (S.STARTING, E.LOST): S.STOPPING,
        (S.RUNNING, E.LOST): S.STOPPING,
        (S.SUSPENDING, E.LOST): S.STOPPING,
        (S.STOPPING, E.LOST): S.STOPPING,
        (S.STOPPING, E.STOPPED): S.SUSPENDED,
        (S.STARTING, E.FINISHED): S.SUCCEEDED,
        (S.RUNNING, E.FINISHED): S.SUCCEEDED,
        (S.SUSPENDING, E.FINISHED): S.SUCCEEDED,
        (S.STOPPING, E.FAILED): S.FAILED,
        (S.SUSPENDED, E.FAILED): S.FAILED,
        (S.PENDING, E.CANCELLED): S.CANCELLED,
        (S.SUSPENDED, E.CANCELLED): S.CANCELLED,
    }
)


def advance(job: Job, event: Event, now_s: float, **changes: Any) -> Job:
    """Move `job` along one edge of TABLE, applying `changes` in the same step.

    Raises IllegalTransition when the edge does not exist; the job is untouched.
    """
    to = TABLE.get((job.state, event))
    if to is None:
        raise IllegalTransition(f"{job.state} has no edge '{event}'", job=job.id)
    return replace(job, state=to, since_s=now_s, version=job.version + 1, **changes)
