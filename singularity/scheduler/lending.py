"""What is particular about room for replicas: equals that train shrink for them, one change gives
to all that wait, and nobody is suspended while somebody is still shrinking."""

from __future__ import annotations

import math

from singularity.primitives.model import Intent, Job, JobState
from singularity.primitives.sharing import WHOLE_MILLI

from .draft import Draft
from .placement import may


def shrinks_for(job: Job, blocked: Job) -> bool:
    """Does it give to its equal, for that is a replica?"""
    equal = job.tier == blocked.tier and job.spec.serving is None
    return equal and blocked.spec.serving is not None


def beside(draft: Draft, blocked: Job) -> int:
    """Devices that other replicas of its service wait for: one change gives to all of them."""
    if blocked.spec.serving is None:
        return 0
    service, waiting = blocked.spec.serving.service, draft.untouched(JobState.PENDING)
    waiting = [*waiting, *draft.untouched(JobState.SUSPENDED)]
    mine = [j for j in waiting if j.spec.serving and j.spec.serving.service == service]
    others = sum(j.devices for j in mine if j.intent is Intent.RUN and j.id != blocked.id)
    if (part := blocked.spec.share) is None:
        return others
    return math.ceil((others + 1) / (WHOLE_MILLI // part.compute_milli)) - 1  # its own is one


def shrinking(draft: Draft, blocked: Job) -> bool:
    """Is somebody about to give to a replica who could give it more afterwards?"""
    if blocked.spec.serving is None:
        return False
    there = may(draft, blocked)
    return any(
        bool(job.resizing)
        and (job.tier > blocked.tier or shrinks_for(job, blocked))
        and sum(s.devices for s in job.target) > job.spec.devices_min
        and any(there[draft.snapshot.row[n]] for n in job.nodes)
        for job in draft.astir()
    )
