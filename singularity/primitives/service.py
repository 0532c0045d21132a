"""What the planet owes a job and what it took from it, and how fast it was on what it was given:
facts kept with the job. Frozen, pure."""

from __future__ import annotations

from dataclasses import dataclass

from .serving import ServiceId


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken from a job for the sake of others: the last time, and in all.

    `price` is what it was weighed to cost, in device-seconds, and `reason` says to whom it went,
    which is the job `whom`, by its id.
    `evicted_at_s` is when the job last had to leave its devices for that, and did not only share
    them more tightly.
    """

    at_s: float
    price: float
    reason: str
    evicted_at_s: float | None = None
    times: int = 1
    paid: float = 0.0  # device-seconds, this time included
    whom: str = ""


def charge(
    before: Taken | None, now_s: float, price: float, reason: str, *, evicted: bool, whom: str = ""
) -> Taken:
    """The account after something more was taken."""
    left_s = now_s if evicted else (before.evicted_at_s if before else None)
    times, paid = (before.times, before.paid) if before else (0, 0.0)
    return Taken(now_s, price, reason, left_s, times + 1, paid + price, whom)


@dataclass(frozen=True, slots=True)
class Slice:
    """Device-seconds asked for and given within one slice of time, by its number since 1970."""

    number: int
    asked_s: float
    given_s: float


@dataclass(frozen=True, slots=True, order=True)
class Loss:
    """Device-seconds that a rank was not given of what its share of a device promises, in this
    life of it until now."""

    rank: int
    incarnation: int
    lost_s: float


@dataclass(frozen=True, slots=True)
class Account:
    """The newest slices, the oldest first, and the device-seconds given in all; what came after
    `until_s` is in neither yet. What ranks lost beside others on their devices is not in what was
    given: `lost_s` is what was taken off, and `losses` by what was said of each rank."""

    until_s: float
    slices: tuple[Slice, ...] = ()
    given_s: float = 0.0
    losses: tuple[Loss, ...] = ()
    lost_s: float = 0.0


@dataclass(frozen=True, slots=True, order=True)
class Pace:
    """How fast a job was on so many devices: mini-batches a second, and over how many seconds."""

    devices: int
    steps_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Loan:
    """Devices of a job that a replica of `service` was given. `price` is what the change was
    weighed to cost the job, in device-seconds, besides the devices themselves."""

    service: ServiceId
    devices: int
    since_s: float
    price: float
