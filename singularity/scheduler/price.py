"""What it costs to take devices from a job, in device-seconds, and where the figures come from.

A job that leaves its devices pays for the way out (barrier, dump, upload) and the way back (fetch,
restore, reconnect), in which its devices do nothing for it, and for the work that is not kept. Both
ways are measured at the job's own cuts and starts; before that they are assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

from singularity.primitives.engines import keeps_nothing
from singularity.primitives.holdings import at_risk_s
from singularity.primitives.model import Job

from .policy import Policy


@dataclass(frozen=True, slots=True)
class Price:
    """`device_s` device-seconds, and how they come about."""

    device_s: float
    text: str


def spoken(device_s: float) -> str:
    """Device-seconds as people say them."""
    return f"{device_s:.3g}" if device_s < 1000.0 else f"{device_s:.0f}"


def away_s(job: Job, policy: Policy) -> tuple[float, bool]:
    """Seconds that leaving and coming back cost the job, and whether they were measured.

    Where only cuts were measured the way back is taken to be as long as the way out: as much is
    read as was written.
    """
    assumed_s = policy.move_cost_s / 2
    out_s = assumed_s if job.pause_s is None else job.pause_s
    back_s = out_s if job.restore_s is None else job.restore_s
    return out_s + back_s, job.pause_s is not None


def of_leaving(job: Job, now_s: float, policy: Policy) -> Price:
    """Of a suspend or a move. A cut keeps the work, and one that fails leaves the job running; but
    of a job that keeps nothing, all since its last checkpoint is lost."""
    seconds, measured = away_s(job, policy)
    lost_s = at_risk_s(job, now_s) if keeps_nothing(job) else 0.0
    held = job.held * job.spec.fraction
    found = (seconds + lost_s) * held
    parts = f"{seconds:.3g} s {'measured' if measured else 'assumed'} to leave and come back"
    if lost_s:
        parts += f" + {lost_s:.0f} s of work"
    return Price(found, f"{spoken(found)} device-seconds ({parts}, × {held:g})")


def image_bytes(job: Job) -> int:
    """Of what it would begin from; 0 for one that has no image yet."""
    return sum(image.raw_bytes for image in job.origin.shards) if job.origin else 0


def transfer_s(job: Job, policy: Policy) -> float:
    """To carry its images to another region: as long as its last restores took, for they read the
    same bytes; else as fast as is assumed."""
    return job.restore_s or image_bytes(job) / policy.carried_bytes_s


def of_moving(job: Job, now_s: float, policy: Policy, *, far: bool) -> Price:
    """Of going on elsewhere; `far` is in another region."""
    leaving = of_leaving(job, now_s, policy)
    more_s = transfer_s(job, policy) if far else 0.0
    if not more_s:
        return leaving
    found = leaving.device_s + more_s * job.held
    carried = f"{image_bytes(job) / 1e9:.3g} GB to another region, {more_s:.3g} s"
    return Price(found, f"{spoken(found)} device-seconds ({leaving.text}; and {carried})")


def of_sharing(job: Job, policy: Policy) -> Price:
    """Of a change of devices with every rank where it is."""
    found = policy.resize_cost_s * job.held
    return Price(found, f"{spoken(found)} device-seconds (a resize without a cut)")
