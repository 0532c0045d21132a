"""Has a rank stopped making progress? Pure: what is seen of the ranks and when, in; a verdict, out.

Progress is a mini-batch. A rank that has no boundary to count, or that we ourselves hold back, is
never taken for hung; and what the first step of a life takes (loading data, compiling, meeting the
gang) says nothing about the next, so it has a limit of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Who = int | str  # a rank by its number; a process that one has started, by what people call it


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds a rank may take for a step, and, where that is longer, for the first of a life."""

    step_s: float
    first_s: float


@dataclass(frozen=True, slots=True)
class Pace:
    """A rank at `step` since `since_s`; `first` until it has made one step in this life."""

    step: int
    since_s: float
    first: bool = True


@dataclass(frozen=True, slots=True)
class Watch:
    """What was seen so far of the ranks that can be watched."""

    paces: Mapping[Who, Pace] = field(default_factory=dict)


def observe(watch: Watch, steps: Mapping[Who, int], now_s: float) -> Watch:
    """Look again: `steps` are the mini-batches completed by each rank that should be at work. One
    that is missing is not watched until it is back."""
    return Watch(
        {rank: _pace(watch.paces.get(rank), steps[rank], now_s) for rank in sorted(steps, key=str)}
    )


def excuse(watch: Watch, now_s: float) -> Watch:
    """The ranks were held back until now: their time starts again."""
    return Watch({r: Pace(p.step, now_s, p.first) for r, p in watch.paces.items()})


def hung(watch: Watch, limits: Limits, now_s: float) -> str:
    """What says that the ranks hang; "" while nothing does."""
    for rank, pace in sorted(watch.paces.items(), key=lambda found: named(found[0])):
        limit_s = max(limits.step_s, limits.first_s) if pace.first else limits.step_s
        if now_s - pace.since_s > limit_s:
            return f"{named(rank)} has made no step for more than {limit_s:g} s, after {pace.step}"
    return ""


def named(who: Who) -> str:
    return f"rank {who}" if isinstance(who, int) else who


def _pace(known: Pace | None, step: int, now_s: float) -> Pace:
    if known is None:
        return Pace(step, now_s)
    return known if step == known.step else Pace(step, now_s, first=False)
