"""What a job was given of what it asked for: the fraction that tiers make promises about.

Kept with the job in slices of ten minutes, the newest seven: an hour, sliding. It is brought up to
date whenever the job begins to ask for or to be given more or less; in between both are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from .model import TERMINAL, Intent, Job, JobState, Tier
from .service import Account, Slice

SLICE_S: Final = 600.0
KEPT: Final = 7
# Of the devices that a job asks for, over an hour (arXiv 2202.07848, tiers); basic has no promise.
PROMISED: Final[Mapping[Tier, float]] = {Tier.PREMIUM: 0.95, Tier.STANDARD: 0.70}
_NEAR: Final = 0.02  # about a minute of the hour


@dataclass(frozen=True, slots=True)
class Share:
    """Device-seconds, and how they compare."""

    asked_s: float
    given_s: float

    @property
    def fraction(self) -> float | None:
        """None for nobody who asked for anything."""
        return self.given_s / self.asked_s if self.asked_s > 0.0 else None


def rates(job: Job) -> tuple[float, float]:
    """Devices that it asks for and is given now, or parts of them. One that waits for other jobs
    asks for nothing yet, nor does one that its owner holds, or that only verifies another."""
    waits = job.state is JobState.PENDING and bool(job.spec.after)
    asks = job.intent is Intent.RUN and job.state not in TERMINAL and not waits
    if not asks or job.spec.aside is not None:
        return 0.0, 0.0
    given = min(job.held, job.devices) if job.state is JobState.RUNNING else 0
    return job.devices * job.spec.fraction, given * job.spec.fraction


def accounted(before: Job, after: Job, now_s: float) -> Job:
    """`after` with the account brought up to now, where this change is one of its rates."""
    if rates(before) == rates(after):
        return after
    return replace(after, account=_up_to(before, now_s))


def share(job: Job, now_s: float) -> Share:
    """Of the last hour, or since it was submitted."""
    slices = _slices(job, now_s)
    return Share(sum(s[1] for s in slices), sum(s[2] for s in slices))


def attained_s(job: Job, now_s: float) -> float:
    """Device-seconds that it was given in its life."""
    account = job.account or Account(job.submitted_at_s)
    return account.given_s + rates(job)[1] * max(0.0, now_s - account.until_s)


def near_promise(job: Job, now_s: float) -> bool:
    """Would the job soon be below what its tier promises, if it gave devices away? Who was given
    more than that is a donor."""
    if (promised := PROMISED.get(job.tier)) is None:
        return False
    given = share(job, now_s).fraction
    return given is not None and given < promised + _NEAR


@dataclass(frozen=True, slots=True)
class Attainment:
    """The jobs of one project and tier together; `short` of them are below the promise."""

    project: str
    tier: Tier
    jobs: int
    short: int
    share: Share


def attainment(jobs: Iterable[Job], now_s: float) -> list[Attainment]:
    """By project and tier, of the jobs that ask for something or did within the hour."""
    found: dict[tuple[str, Tier], Attainment] = {}
    for job in jobs:
        mine, key = share(job, now_s), (job.spec.project, job.tier)
        if mine.fraction is None:
            continue
        known = found.get(key) or Attainment(*key, jobs=0, short=0, share=Share(0.0, 0.0))
        found[key] = replace(
            known,
            jobs=known.jobs + 1,
            short=known.short + (mine.fraction < PROMISED.get(job.tier, 0.0)),
            share=Share(known.share.asked_s + mine.asked_s, known.share.given_s + mine.given_s),
        )
    return [found[key] for key in sorted(found)]


def _up_to(job: Job, now_s: float) -> Account:
    until_s = job.account.until_s if job.account else job.submitted_at_s
    kept = tuple(Slice(*each) for each in _slices(job, now_s))
    return Account(max(until_s, now_s), kept, attained_s(job, now_s))


def _slices(job: Job, now_s: float) -> list[tuple[int, float, float]]:
    """The newest, as of now: number, device-seconds asked for and given."""
    account = job.account
    known = {s.number: (s.asked_s, s.given_s) for s in account.slices} if account else {}
    asked, given = rates(job)
    newest = int(now_s // SLICE_S)
    at_s = account.until_s if account else job.submitted_at_s
    at_s = max(at_s, (newest - KEPT + 1) * SLICE_S)  # what is older would be dropped at once
    while at_s < now_s:
        number = int(at_s // SLICE_S)
        end_s = min(now_s, (number + 1) * SLICE_S)
        old, seconds = known.get(number, (0.0, 0.0)), end_s - at_s
        known[number] = old[0] + asked * seconds, old[1] + given * seconds
        at_s = end_s
    return [(n, *known[n]) for n in sorted(known) if n > newest - KEPT]
