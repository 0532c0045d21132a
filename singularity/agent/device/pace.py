"""How tightly best-effort work is held while real-time work shares its device. Pure.

Launches do not pass through the agent: the real-time process's own shim stops the others within
microseconds. What the agent has is what the shims count, every few hundredths of a second, and what
it sets is for how long the gate stays closed after real-time work, and, where launches cannot wait
on the device, how many may run when it closes. Both are set no tighter than real-time work needs.

That is known by trying. Now and then best-effort work is held for one look: what a real-time launch
takes then is what it takes alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

FORGET: Final = 2000.0  # launches; what it took alone long ago is not what it takes now
_LEAST_S: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Rule:
    """`window` launches of a stream are on the device at most, where they cannot wait there. The
    gate opens when nothing real-time was in flight for `hold_off_us`."""

    window: int
    hold_off_us: int


# From the loosest to the tightest: fewer launches on the device first, for that costs best-effort
# work little; then longer pauses after real-time work, which cost it the device.
LADDER: Final = (
    Rule(16, 100),
    Rule(8, 100),
    Rule(4, 200),
    Rule(2, 200),
    Rule(1, 1_000),
    Rule(1, 5_000),
    Rule(1, 20_000),
    Rule(1, 100_000),
)
FIRST: Final = 2


@dataclass(frozen=True, slots=True)
class Bound:
    """Real-time work may take `most` times what it takes alone. Below `least`, best-effort work is
    given more, after `calm` verdicts in a row. A verdict is over `judged` launches; every
    `trial_every`-th look in which both work, one side works alone."""

    most: float = 1.10
    least: float = 1.03
    judged: int = 64
    calm: int = 8
    trial_every: int = 64


@dataclass(frozen=True, slots=True)
class Look:
    """What was counted since the last look. `launches` and `busy_s` (for how long any was in
    flight) of all real-time processes together; `beside`: best-effort work was there."""

    launches: int
    busy_s: float
    beside: bool


@dataclass(frozen=True, slots=True)
class Pace:
    """One device's; `rung` of the ladder. Hold best-effort work until the next look in a `trial`.

    alone_s, known   what one launch takes alone, and by how many launches that is known
    launches, busy_s beside best-effort work, since the last verdict
    slowdown         by the last verdict; None before
    """

    rung: int = FIRST
    trial: bool = False
    alone_s: float | None = None
    known: float = 0.0
    launches: int = 0
    busy_s: float = 0.0
    slowdown: float | None = None
    calm: int = 0
    looks: int = 0

    @property
    def rule(self) -> Rule:
        return LADDER[self.rung]

    def alone(self, launches: int, busy_s: float) -> float:
        """What so many launches, which took `busy_s`, would have taken alone: no more than they
        took, and just that where it was never seen."""
        return busy_s if self.alone_s is None else min(busy_s, launches * self.alone_s)


def paced(pace: Pace, look: Look, bound: Bound) -> Pace:
    """After one more look."""
    tried, pace = pace.trial, replace(pace, trial=False)
    if not look.launches:
        return pace
    if tried or not look.beside:
        return _seen_alone(pace, look)
    pace = replace(
        pace,
        launches=pace.launches + look.launches,
        busy_s=pace.busy_s + look.busy_s,
        looks=pace.looks + 1,
    )
    if pace.alone_s is None or pace.looks >= bound.trial_every:
        pace = replace(pace, trial=True, looks=0)
    if pace.alone_s is None or pace.launches < bound.judged:
        return pace
    return _judged(pace, bound)


def _seen_alone(pace: Pace, look: Look) -> Pace:
    known = min(pace.known + look.launches, FORGET)
    before_s = (pace.alone_s or 0.0) * max(0.0, known - look.launches)
    alone_s = (before_s + look.busy_s) / max(known, look.launches)
    return replace(pace, alone_s=max(alone_s, _LEAST_S), known=known)


def _judged(pace: Pace, bound: Bound) -> Pace:
    assert pace.alone_s is not None
    slowdown = pace.busy_s / pace.launches / pace.alone_s
    pace = replace(pace, launches=0, busy_s=0.0, slowdown=slowdown)
    if slowdown > bound.most:
        return replace(pace, rung=min(pace.rung + 1, len(LADDER) - 1), calm=0)
    calm = pace.calm + 1 if slowdown < bound.least else 0
    if calm >= bound.calm:
        return replace(pace, rung=max(pace.rung - 1, 0), calm=0)
    return replace(pace, calm=calm)
