"""Windows in which a part of the planet is worked on, week by week. Pure.

    every: sunday 02:00 UTC          saturday,sunday 22:30 Europe/Berlin          daily 03:00

A window is empty when it opens: the drain for it begins in time to end before (scheduler/upkeep).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .drains import Drain, Leaving
from .errors import InvalidSpec
from .nodes import Scope

_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_EXAMPLE: Final = "write for example 'sunday 02:00 UTC' or 'daily 03:30 Europe/Berlin'"


@dataclass(frozen=True, slots=True)
class Weekly:
    """Days of the week (0 is monday), and the time of day of the clocks in `zone`."""

    days: frozenset[int]
    hour: int
    minute: int
    zone: ZoneInfo


@dataclass(frozen=True, slots=True, order=True)
class Maintenance:
    """`every` as it was written; each window is `length_s` long. The rest is what the drain for it
    will be. Windows that open until `done_s` are over, skipped, or were given up."""

    id: str
    scope: Scope
    every: str
    length_s: float
    leaving: Leaving = Leaving.MIGRATE
    moves_most: int | None = None
    bytes_per_s: float | None = None
    done_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Window:
    opens_s: float
    closes_s: float


def weekly(text: str) -> Weekly:
    """Raises InvalidSpec, with an example."""
    words = text.lower().split()
    if len(words) not in (2, 3):
        raise InvalidSpec(f"{text!r} is no time of the week; {_EXAMPLE}", field="every")
    names = list(_DAYS) if words[0] == "daily" else words[0].split(",")
    if strange := [name for name in names if name not in _DAYS]:
        raise InvalidSpec(f"{strange[0]!r} is no day of the week; {_EXAMPLE}", field="every")
    try:
        time = datetime.strptime(words[1], "%H:%M")  # noqa: DTZ007 (a time of day, nothing more)
    except ValueError:
        raise InvalidSpec(f"{words[1]!r} is no time of day; {_EXAMPLE}", field="every") from None
    zone = text.split()[2] if len(words) == 3 else "UTC"
    try:
        found = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidSpec(f"there is no time zone {zone!r}; {_EXAMPLE}", field="every") from None
    return Weekly(frozenset(map(_DAYS.index, names)), time.hour, time.minute, found)


def need_gaps(found: Maintenance) -> None:
    """Raises InvalidSpec when a window would still be open as the next one comes near."""
    days = sorted(weekly(found.every).days)
    gap = min(b - a for a, b in zip(days, (*days[1:], days[0] + 7), strict=True))
    most_s = gap * 86400.0 - 2 * 3600.0  # a day has 23 hours at times, and jobs come and go
    if not 0 < found.length_s <= most_s:
        detail = f"windows of {found.every!r} may be at most {most_s / 3600:.0f} h long"
        raise InvalidSpec(detail, field="for")


def window(found: Maintenance, now_s: float) -> Window:
    """The first that is not over, skipped or given up; it may be open already."""
    when = weekly(found.every)
    after_s = max(found.done_s, now_s - found.length_s)
    day = datetime.fromtimestamp(after_s, when.zone).replace(
        hour=when.hour, minute=when.minute, second=0, microsecond=0
    )
    while day.weekday() not in when.days or day.timestamp() <= after_s:
        day += timedelta(days=1)  # by the clocks of the zone
    return Window(day.timestamp(), day.timestamp() + found.length_s)


def drain_for(found: Maintenance, there: Window, now_s: float) -> Drain:
    """The order that empties its scope for a window; the same however often it is asked for."""
    return Drain(
        id=f"drain-{found.id}-{int(there.opens_s)}",
        scope=found.scope,
        at_s=now_s,
        leaving=found.leaving,
        deadline_s=there.opens_s,
        moves_most=found.moves_most,
        bytes_per_s=found.bytes_per_s,
        until_s=there.closes_s,
        upkeep=found.id,
    )
