"""How fast a job is on how many devices, measured at its own cuts. Pure.

A cut tells the step of the job. Where it held the same devices since its start, or since the cut
before, the steps in between and the time they took are its pace on so many.
"""

from __future__ import annotations

from typing import Final

from .model import Job
from .service import Pace

_LEAST_S: Final = 10.0  # less than that says more of beginnings than of speed
_MOST: Final = 16  # sizes that are remembered, those seen longest


def noted(job: Job, step: int) -> tuple[Pace, ...]:
    """The paces of `job` when the cut in flight is known to have been at `step`."""
    since_s = max(job.running_at_s or job.cut_at_s, job.cut_ended_s)
    seconds, steps = job.cut_at_s - since_s, float(step - job.step)
    if job.resize_at_s > since_s or job.dump_failures or seconds < _LEAST_S or steps <= 0:
        return job.paces
    known = {pace.devices: pace for pace in job.paces}
    if (before := known.get(job.held)) is not None:  # what is older counts half
        steps += before.steps_s * before.seconds / 2
        seconds += before.seconds / 2
    known[job.held] = Pace(job.held, steps / seconds, seconds)
    longest = sorted(known.values(), key=lambda pace: (-pace.seconds, pace.devices))[:_MOST]
    return tuple(sorted(longest))
