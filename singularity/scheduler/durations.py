"""How long jobs run, learnt from those that have ended, and how long one that runs still will.

Of jobs that are alike (project, name without its number, kind) the hazard at each age is estimated
as Kaplan and Meier do, so that those that still run or were cancelled count for as long as they
did. Beyond the oldest that ended, and where nobody is known, a job that has run for t is expected
to run for as long again: half of them to 2t, a tenth to 10t.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from singularity.primitives.model import TERMINAL, Job, Kind

Floats = npt.NDArray[np.float64]
_LEAST: Final = (3, 8, 20)  # jobs that must have ended to be believed: of one name, project, kind
_YOUNG_S: Final = 60.0  # who has hardly run is taken to have run so long
_NUMBER: Final = re.compile(r"[-_.]?[0-9a-f]*\d+$")


@dataclass(frozen=True, slots=True)
class Ran:
    """One job: from its first start for `seconds`; `ended` unless it still runs, or was stopped."""

    project: str
    name: str
    kind: str
    seconds: float
    ended: bool = True


class Curve:
    """Which part of jobs runs longer than a given time."""

    def __init__(self, seconds: Floats, ended: npt.NDArray[np.bool_]) -> None:
        order = np.argsort(seconds, kind="stable")
        times, done = seconds[order], ended[order]
        at_risk = np.arange(len(times), 0, -1)
        self.times = times[done]
        self.left: Floats = np.cumprod(1.0 - 1.0 / at_risk[done], dtype=np.float64)

    def lasts(self, ran_s: float, parts: Floats) -> Floats:
        """For each of `parts` in (0, 1): how long in all one runs that has run `ran_s` already, if
        that part of its like ends sooner."""
        first = int(np.searchsorted(self.times, ran_s, side="right"))
        known = float(self.left[first - 1]) if first else 1.0
        target = (1.0 - parts) * known
        found = np.searchsorted(-self.left[first:], -target, side="left") + first
        if first == len(self.times):
            return max(ran_s, _YOUNG_S) / (1.0 - parts)
        beyond = self.times[-1] * np.maximum(1.0, self.left[-1] / target)
        inside = self.times[np.minimum(found, len(self.times) - 1)]
        return np.where(found < len(self.times), inside, beyond)


class Durations:
    """What is known of the durations of jobs."""

    def __init__(self, known: Iterable[Ran]) -> None:
        self._known = tuple(known)
        self._curves: dict[tuple[str, ...], Curve | None] = {}

    def lasts(self, job: Job, ran_s: float, parts: Floats) -> Floats:
        """As Curve.lasts, by those that are most like it; never longer than its owner allows."""
        found = self._curve(job).lasts(ran_s, parts)
        limit_s = job.spec.max_duration_s
        return found if limit_s is None else np.minimum(found, max(limit_s, ran_s))

    def _curve(self, job: Job) -> Curve:
        like = _like(job.spec.project, job.spec.name, str(job.spec.kind))
        for key, least in zip(like, _LEAST, strict=True):
            if key not in self._curves:
                mine = self._groups.get(key, [])
                enough = sum(r.ended for r in mine) >= least
                self._curves[key] = _curve(mine) if enough else None
            if (found := self._curves[key]) is not None:
                return found
        return _NOBODY

    @cached_property
    def _groups(self) -> dict[tuple[str, ...], list[Ran]]:
        found: dict[tuple[str, ...], list[Ran]] = {}
        for ran in self._known:
            for key in _like(ran.project, ran.name, ran.kind):
                found.setdefault(key, []).append(ran)
        return found


def running(jobs: Iterable[Job], now_s: float) -> list[Ran]:
    """What jobs that have begun and not ended say of durations."""
    return [
        Ran(j.spec.project, j.spec.name, str(j.spec.kind), ran_s(j, now_s), ended=False)
        for j in jobs
        if j.started_at_s is not None and j.state not in TERMINAL and j.spec.kind is not Kind.VERIFY
    ]


def ran_s(job: Job, now_s: float) -> float:
    """Since it first ran."""
    return 0.0 if job.started_at_s is None else max(0.0, now_s - job.started_at_s)


def _like(project: str, name: str, kind: str) -> tuple[tuple[str, ...], ...]:
    """Whom a job is like, the most like it first."""
    return (project, _NUMBER.sub("", name), kind), (project, kind), (kind,)


def _curve(known: Iterable[Ran]) -> Curve:
    found = list(known)
    seconds = np.array([max(0.0, r.seconds) for r in found], dtype=np.float64)
    return Curve(seconds, np.array([r.ended for r in found], dtype=np.bool_))


_NOBODY: Final = _curve(())
