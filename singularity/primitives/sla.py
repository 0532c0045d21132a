"""What a job was given of what it asked for: the fraction that tiers make promises about.

Kept with the job in slices of ten minutes, the newest seven: an hour, sliding. It is brought up to
date whenever the job begins to ask for or to be given more or less; in between both are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from .model import TERMINAL, Intent, Job, JobState, Tier
from .nodes import NodeId
from .records import replace
from .service import Account, Loss, Slice

SLICE_S: Final = 600.0
KEPT: Final = 7
# Of the devices that a job asks for, over an hour (arXiv 2202.07848, tiers); basic has no promise.
PROMISED: Final[Mapping[Tier, float]] = {Tier.PREMIUM: 0.95, Tier.STANDARD: 0.70}
_NEAR: Final = 0.02  # about a minute of the hour
_CHARGED_S: Final = 10.0  # a job that loses less since it was last charged is not written for it


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


def charged(job: Job, node: NodeId, found: Iterable[Loss], now_s: float) -> Job:
    """Take what its ranks on `node` lost since it was last charged off what the job was given. What
    a node says is a total, so that it may say it twice; one that is less begins anew (another
    agent)."""
    if job.state is not JobState.RUNNING or node not in job.nodes:
        return job
    account = job.account or Account(job.submitted_at_s)
    known, more_s = {loss.rank: loss for loss in account.losses}, 0.0
    for loss in found:
        if loss.incarnation != job.incarnation:
            continue
        before = known.get(loss.rank)
        same = before is not None and before.incarnation == loss.incarnation
        base_s = before.lost_s if before is not None and same else 0.0
        more_s += loss.lost_s - (base_s if base_s <= loss.lost_s else 0.0)
        known[loss.rank] = loss
    if more_s < _CHARGED_S:
        return job
    account = _up_to(job, now_s)
    after = replace(
        account,
        slices=_without(account.slices, more_s),
        given_s=max(0.0, account.given_s - more_s),
        losses=tuple(known[rank] for rank in sorted(known)),
        lost_s=account.lost_s + more_s,
    )
    return replace(job, account=after, version=job.version + 1)


def _without(slices: tuple[Slice, ...], lost_s: float) -> tuple[Slice, ...]:
    """The newest first, for it is lately that it was lost."""
    found = []
    for one in reversed(slices):
        taken_s = min(one.given_s, lost_s)
        found.append(replace(one, given_s=one.given_s - taken_s))
        lost_s -= taken_s
    return tuple(reversed(found))


def share(job: Job, now_s: float) -> Share:
    """Of the last hour, or since it was submitted."""
    slices = _slices(job, now_s)
    return Share(sum(s[1] for s in slices), sum(s[2] for s in slices))


def attained_s(job: Job, now_s: float) -> float:
    """Device-seconds that it was given in its life."""
    if job.state is not JobState.RUNNING:
        return job.account.given_s if job.account else 0.0
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
    account = job.account or Account(job.submitted_at_s)
    kept = tuple(Slice(*each) for each in _slices(job, now_s))
    until_s = max(account.until_s, now_s)
    return replace(account, until_s=until_s, slices=kept, given_s=attained_s(job, now_s))


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
