"""How many replicas a service should have now. Pure: what is known, and what comes in, to a number.

Three things set it, and the greatest counts:

* What comes in now, and room for its bursts. Where arrivals vary `spread` times as much as if they
  were independent, and `room` more a second can be served than comes, one waits longer than w
  seconds with a probability of about exp(-2 * room * w / spread) (Brownian queue: Harrison 1985,
  ch. 1). To miss w no more often than `miss` takes room = spread * ln(1 / miss) / (2 * w).
* What came in lately: load jumps back to where it was, so the memory of a peak fades over hours.
* What waits already: once a wait is half of what is promised, the mean of a few seconds counts.

More is given at once; less only when a good deal less would have done for a while, also by the
mean of a few seconds where that has jumped: the mean of a minute tells of a jump too late.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from .policy import Policy

_STABLE_S: Final = 60.0
_PANIC_S: Final = 6.0
_UNUSUAL: Final = 3.0  # standard deviations of a mean
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a service was promised. `per_replica` is what one replica carries, in the unit of the
    load: requests a second, or requests at once. No more than `miss` of all may wait longer than
    `wait_s`. After `idle_after_s` without a request none needs to stay; None: `least` stay.
    """

    least: int
    most: int
    per_replica: float
    wait_s: float = 5.0
    miss: float = 1e-4
    idle_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """The load now: its mean over a minute and over six seconds; how many requests wait for a
    replica, and how long one that came now would; the variance over the mean of what comes in a
    second, 1 where requests come independently."""

    stable: float
    panic: float
    queued: int = 0
    wait_s: float = 0.0
    spread: float = 1.0


@dataclass(frozen=True, slots=True)
class Scaling:
    """What is remembered of a service. `level` is its load at `at_s` without the usual ups and
    downs, `peak` the highest that it lately had, faded; `spread` is averaged, for much of a
    minute's is chance. Since `calm_since_s` never more than `calm` replicas were wanted, which is
    a good deal fewer than there are."""

    replicas: int
    level: float = 0.0
    peak: float = 0.0
    at_s: float = 0.0
    busy_at_s: float = 0.0
    calm_since_s: float | None = None
    calm: int = 0
    spread: float = 1.0


def size(
    before: Scaling, demand: Demand, bounds: Bounds, now_s: float, policy: Policy
) -> tuple[Scaling, str]:
    """How many are wanted from now on (`replicas`), and why. To be asked whenever there is news."""
    state = _observed(before, demand, now_s, policy)
    settled = replace(state, calm_since_s=None, calm=0)
    if _idle(state, demand, bounds, now_s):
        return replace(settled, replicas=0), "nobody asks for anything"
    wanted, reason = _wanted(state, demand, bounds, policy)
    have = state.replicas
    if wanted > have:
        step = math.ceil(policy.scale_up_step * have)
        return replace(settled, replicas=min(bounds.most, max(wanted, have + step))), reason
    if have > bounds.most:
        return replace(settled, replicas=wanted), reason
    if have - wanted < max(1.0, policy.scale_down_step * have):
        return settled, reason
    calm = max(wanted, state.calm, min(_risen(state, demand, bounds), have))
    since_s = now_s if state.calm_since_s is None else state.calm_since_s
    if now_s - since_s < policy.scale_down_after_s:
        return replace(state, calm_since_s=since_s, calm=calm), reason
    return replace(settled, replicas=calm), reason


def _observed(before: Scaling, demand: Demand, now_s: float, policy: Policy) -> Scaling:
    """A change larger than what chance makes is the new level; smaller ones are averaged."""
    since_s = max(0.0, now_s - before.at_s)
    change = demand.stable - before.level
    smooth = 1.0 - math.exp(-since_s / policy.scale_smooth_s)
    spread = before.spread + smooth * (demand.spread - before.spread)
    part = smooth if abs(change) <= _usual(before.level, spread, _STABLE_S) else 1.0
    level = before.level + part * change
    peak = max(level, before.peak * math.exp(-since_s / policy.scale_memory_s))
    busy = demand.stable > 0.0 or demand.panic > 0.0 or demand.queued > 0
    busy_at_s = now_s if busy else before.busy_at_s
    after = replace(before, level=level, peak=peak, spread=spread)
    return replace(after, at_s=now_s, busy_at_s=busy_at_s)


def _usual(level: float, spread: float, over_s: float) -> float:
    """By how much a mean over so many seconds differs from the level by chance."""
    return _UNUSUAL * math.sqrt(spread * level / over_s)


def _risen(state: Scaling, demand: Demand, bounds: Bounds) -> int:
    """What the last seconds ask for, if they are not as usual."""
    if demand.panic - state.level <= _usual(state.level, state.spread, _PANIC_S):
        return 0
    return math.ceil(demand.panic / bounds.per_replica - _ROUNDING)


def _idle(state: Scaling, demand: Demand, bounds: Bounds, now_s: float) -> bool:
    if bounds.idle_after_s is None or demand.queued:
        return False
    return now_s - state.busy_at_s >= bounds.idle_after_s


def _wanted(state: Scaling, demand: Demand, bounds: Bounds, policy: Policy) -> tuple[int, str]:
    room = state.spread * math.log(1.0 / bounds.miss) / (2.0 * bounds.wait_s) if state.level else 0
    load, reason = state.level + room, f"{state.level:.3g} now, and {room:.3g} for bursts"
    if state.peak > load:
        load, reason = state.peak, f"{state.level:.3g} now, and more lately"
    if demand.wait_s > bounds.wait_s / 2:
        urgent = max(demand.panic, demand.stable) * (1.0 + demand.wait_s / policy.scale_drain_s)
        if urgent > load:
            load = urgent
            reason = f"{demand.panic:.3g} at this moment, and a wait of {demand.wait_s:.1f} s"
    needed = math.ceil(load / bounds.per_replica - _ROUNDING)
    least = max(bounds.least, 1 if demand.queued else 0)
    return min(max(needed, least), bounds.most), reason
