"""Verifications in a storm: asked for at random, and what must have become of each in the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from singularity.primitives.asides import shadow
from singularity.primitives.findings import Certificate, Finding
from singularity.primitives.model import TERMINAL, Aside, Job, JobId, JobState

from .physics import Ranks

if TYPE_CHECKING:
    from .world import World

_STEPS = 4


def ask(world: World) -> None:
    """Somebody wants one job verified: at its newest checkpoint, or at one to be taken."""
    jobs = world.ledger.jobs()
    own = [j for j in jobs.values() if j.spec.aside is None and j.spec.serving is None]
    found = sorted(j.id for j in own if j.state not in TERMINAL)
    if not found:
        return
    job = jobs[found[int(world.rng.integers(len(found)))]]
    last, known = job.checkpoint, world.chance(0.5)
    named = (last.incarnation, last.cut) if known and last else (0, 0)
    id_ = JobId(f"{job.id}-v{len(jobs)}")
    world.submit(shadow(job, Aside(job.id, _STEPS, *named), id_, world.now_s))


def compared(ranks: Ranks) -> Certificate | None:
    """What ranks aside answer when they have come to their end."""
    origin = ranks.start.origin
    if ranks.start.aside is None or origin is None:
        return None
    done = ranks.step - origin.step
    return Certificate(Finding.IDENTICAL, "simulated", step=origin.step, steps=done)


def all_told(jobs: Mapping[JobId, Job]) -> None:
    """Every verification has ended, and said so to its job; one that succeeded has an answer."""
    for job in jobs.values():
        if job.spec.aside is None:
            continue
        assert job.state in TERMINAL, job
        assert jobs[job.spec.aside.of].certificate is not None, job
        assert (job.certificate is not None) == (job.state is JobState.SUCCEEDED), job
