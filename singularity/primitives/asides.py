"""Jobs of kind verify: what they are, and what their end tells about the job they are for.

Such a job restores a cut of another one in sandboxes of its own and compares. To the plane it is a
job like any other, with three differences: it takes only what is idle, it gives it back as soon as
anybody wants it, and it has one try.
"""

from __future__ import annotations

from typing import Final

from .findings import Certificate, Finding
from .messages import Report
from .model import TERMINAL, Aside, Job, JobId, JobSpec, Kind, Tier
from .records import replace

STEPS: Final = 8  # unless somebody says how many; each is one mini-batch
_LONGEST_S: Final = 900.0
_NAME_MOST: Final = 63


def shadow(job: Job, aside: Aside, id_: JobId, now_s: float) -> Job:
    """The job that verifies `job`, with its world size on as many devices of one node as there
    are, so that all ranks see the same files."""
    spec = job.spec
    devices = min(job.devices, spec.ranks)
    mine = JobSpec(
        name=f"{spec.name[: _NAME_MOST - 7]}-verify",
        run=spec.run,
        ranks=spec.ranks,
        device=spec.device,
        devices=devices,
        devices_min=1,
        devices_max=devices,
        project=spec.project,
        kind=Kind.VERIFY,
        tier=Tier.BASIC,
        regions=spec.regions,
        avoid=spec.avoid,
        same_node=True,
        checkpoint_every_s=0.0,
        retry_infra=0,
        max_duration_s=_LONGEST_S,
        memory_bytes=spec.memory_bytes,
        aside=aside,
    )
    return Job(id=id_, spec=mine, devices=devices, submitted_at_s=now_s, since_s=now_s)


def found(job: Job, report: Report, now_s: float) -> Certificate | None:
    """What the ranks of `job` found, dated and signed by it."""
    if report.certificate is None or job.spec.aside is None:
        return job.certificate
    return replace(report.certificate, at_s=now_s, by=job.id)


def certifies(before: Job, after: Job) -> bool:
    """Has a job of kind verify just come to its end?"""
    return after.spec.aside is not None and after.state in TERMINAL and before.state != after.state


def certified(subject: Job, by: Job, now_s: float) -> Job:
    """`subject` with the certificate that `by`, which has ended, found for it; or with the reason
    why it found none."""
    aside, known = by.spec.aside, by.certificate
    assert aside is not None and aside.of == subject.id, (subject.id, by.id)
    if known is None:
        known = Certificate(
            finding=Finding.INCOMPARABLE,
            reason=by.message or f"the verification has {by.state}",
            incarnation=aside.incarnation,
            cut=aside.cut,
            at_s=now_s,
            by=by.id,
        )
    return replace(subject, certificate=known, version=subject.version + 1)
