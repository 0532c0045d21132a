"""What a service is asked for in a replay: requests by the second, what a router would tell of
them, and the queue in which they wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_DISPERSED_MOST: Final = 50.0  # beyond that a trace tells of one burst, and not of how it was
_MINUTE, _PANIC = 60, 6  # seconds


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests a second in windows of `window_s`, and their index of dispersion: the variance over
    the mean of what comes in a second."""

    window_s: int
    rates: tuple[float, ...]
    dispersion: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.rates))

    @property
    def seconds(self) -> int:
        return self.window_s * len(self.rates)

    def upto(self, seconds: float) -> Rates:
        """The beginning, in whole windows, one at least."""
        count = max(1, int(seconds) // self.window_s)
        return Rates(self.window_s, self.rates[:count], self.dispersion[:count])


@dataclass(frozen=True, slots=True)
class Requests:
    """By the second: requests; and trailing, what routers tell (traffic.py): means of 60 s and 6 s,
    and the variance over the mean, by the changes from second to second of those 60 s."""

    arrivals: Floats
    stable: Floats
    panic: Floats
    spread: Floats


def drawn(rates: Rates, seed: int) -> Requests:
    """Negative-binomial by the second, with the rate and the dispersion of each window."""
    rate = np.repeat(np.array(rates.rates), rates.window_s)
    dispersion = np.clip(np.array(rates.dispersion), 1.0001, _DISPERSED_MOST)
    chance = 1.0 / np.repeat(dispersion, rates.window_s)
    shape = np.maximum(rate * chance / (1.0 - chance), 1e-9)
    found = np.random.default_rng(seed).negative_binomial(shape, chance).astype(np.float64)
    stable, panic = _trailing(found, _MINUTE), _trailing(found, _PANIC)
    jumps = np.diff(found, prepend=found[0]) ** 2 / 2.0
    spread = _trailing(jumps, _MINUTE) / np.maximum(stable, 1e-9)
    return Requests(found, stable, panic, np.maximum(spread, 1.0))


def _trailing(values: Floats, span: int) -> Floats:
    """The mean of the last `span` seconds, each second; of fewer in the beginning."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - span)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


@dataclass(slots=True)
class Queue:
    """Requests by how many whole seconds they have waited; `late` have waited for longer than
    `wait_s`, and so many of all that came are or were (`broken`). Who came first is served first,
    or, `fresh_first`, first those who are not late yet (as router/pool.py does)."""

    wait_s: int
    fresh_first: bool = True
    ages: list[float] = field(default_factory=list)
    late: float = 0.0
    broken: float = 0.0

    def __post_init__(self) -> None:
        self.ages = [0.0] * (self.wait_s + 1)

    def second(self, arrivals: float, capacity: float) -> float:
        """One second in which `capacity` requests can be served; how many were."""
        left = capacity
        self.late += self.ages[-1]
        self.broken += self.ages[-1]
        self.ages = [arrivals, *self.ages[:-1]]
        if not self.fresh_first:
            left -= self._late(left)
        for age in range(self.wait_s, -1, -1):
            served = min(left, self.ages[age])
            self.ages[age] -= served
            left -= served
        if self.fresh_first:
            left -= self._late(left)
        return capacity - left

    def _late(self, capacity: float) -> float:
        served = min(capacity, self.late)
        self.late -= served
        return served

    @property
    def waiting(self) -> float:
        return self.late + sum(self.ages)

    @property
    def fresh(self) -> float:
        return sum(self.ages)
