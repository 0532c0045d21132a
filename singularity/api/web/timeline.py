"""A job's lives as bars over its nodes, and its steps over time. Pure: views in, shapes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Final

from singularity.api.views import Json

_STEPS_S: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600)
_DAY_S: Final = 86400
_TICKS_MOST: Final = 5
_POINTS_MOST: Final = 1000
_LEAST_S: Final = 1.0  # between two points by which a rate is told
_Point = tuple[float, int, int | None, int]  # when, in which life, step, devices
_TOLD: Final = ("checkpoint", "handover")  # events that tell a step in the midst of a life


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a life on a node, in percent of the whole width."""

    left: float
    width: float
    kind: str  # starting, running, or how it ended: moved, suspended, finished, failed, stopped
    title: str


@dataclass(frozen=True, slots=True)
class Track:
    region: str
    node: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """`ticks` are how long before the end each is, "" at the end, and where, in percent."""

    ticks: tuple[tuple[str, float], ...]
    tracks: tuple[Track, ...]


def chart(lives: Sequence[Json], now_s: float) -> Chart | None:
    """The lives of a job over the nodes on which they were, in the order of its coming there; None
    of one that had none. It ends now, or when the last life did."""
    if not lives:
        return None
    first_s = min(life["placed_at_s"] for life in lives)
    ends = [now_s if life["ended_at_s"] is None else life["ended_at_s"] for life in lives]
    span_s = max(max(ends) - first_s, 1e-3)
    found: dict[tuple[str, str], list[Bar]] = {}
    for life, end_s in zip(lives, ends, strict=True):
        bars = list(_bars(life, end_s, first_s, span_s))
        for node in life["nodes"]:
            found.setdefault((life["region"], node), []).extend(bars)
    tracks = (Track(region, node, tuple(bars)) for (region, node), bars in sorted(found.items()))
    return Chart(_ticks(span_s), tuple(tracks))


def _bars(life: Json, end_s: float, first_s: float, span_s: float) -> Iterable[Bar]:
    def bar(from_s: float, to_s: float, kind: str, title: str) -> Bar:
        left, right = (100 * (at_s - first_s) / span_s for at_s in (from_s, to_s))
        return Bar(round(left, 3), round(max(right - left, 0.15), 3), kind, title)

    named = f"life {life['incarnation']}, {life['devices']} devices"
    begun_s = life["running_at_s"]
    if begun_s is None:
        yield bar(life["placed_at_s"], end_s, "starting", f"{named}: starting")
        return
    yield bar(life["placed_at_s"], begun_s, "starting", f"{named}: starting")
    end = life["end"] or "running"
    lost = f", {life['lost_s']:.1f} s of work lost" if life["lost_s"] else ""
    yield bar(begun_s, end_s, end, f"{named}: {end}{lost}")


def _ticks(span_s: float) -> tuple[tuple[str, float], ...]:
    """At round distances from the end."""
    steps = (*_STEPS_S, *(_DAY_S * n for n in (0.5, 1, 2, 5, 10, 30, 100, 1000)))
    step = next((s for s in steps if span_s / s <= _TICKS_MOST), steps[-1])
    before_s = [n * step for n in range(int(span_s // step), -1, -1)]
    return tuple((_spoken(at_s), round(100 - 100 * at_s / span_s, 3)) for at_s in before_s)


def _spoken(before_s: float) -> str:
    for unit_s, unit in ((_DAY_S, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if before_s >= unit_s:
            return f"−{before_s / unit_s:g} {unit}"
    return ""


# -- steps over time ------------------------------------------------------------------------------


def steps(lives: Sequence[Json], events: Sequence[Json], job: Json, now_s: float) -> Json:
    """What is known of its progress: where lives began and ended, its cuts, and now.

    x        seconds since 1970, in order
    steps    done by then; None for now, where nothing was told since the one before
    rate     steps a second since the one before; None between two lives, and where it is not known
    devices  held from then on
    """
    points = sorted(_points(lives, events, job, now_s), key=itemgetter(0, 1))[-_POINTS_MOST:]
    rates = [None, *(_rate(before, after) for before, after in pairwise(points))]
    return {
        "x": [at_s for at_s, *_ in points],
        "steps": [step for _, _, step, _ in points],
        "rate": rates[: len(points)],
        "devices": [devices for *_, devices in points],
    }


def _rate(before: _Point, after: _Point) -> float | None:
    (at_s, life, had, _), (then_s, same, has, _) = before, after
    if had is None or has is None or has < had or life != same or then_s - at_s < _LEAST_S:
        return None
    return (has - had) / (then_s - at_s)


def _points(
    lives: Sequence[Json], events: Sequence[Json], job: Json, now_s: float
) -> Iterable[_Point]:
    for life in lives:
        number, devices = life["incarnation"], life["devices"]
        if life["running_at_s"] is None:
            continue
        yield life["running_at_s"], number, life["step_from"], devices
        changes = [(c["at_s"], c["devices"]) for c in life["resizes"]]
        told = 0
        inside = [e for e in events if e["incarnation"] == number and e["event"] in _TOLD]
        for event in inside:
            step, at_s = event["facts"].get("step"), event["at_s"]
            if step is not None and at_s > life["running_at_s"]:
                told = max(told, step)
                held = [n for since_s, n in changes if since_s <= at_s]
                yield at_s, number, step, held[-1] if held else devices
        if life["ended_at_s"] is not None:
            # Of one that was stopped only what is left is known, not how far it had come.
            lost = life["end"] in ("stopped", "failed")
            yield life["ended_at_s"], number, None if lost else life["step_to"], 0
        else:
            held = [n for _, n in changes]
            told = max(told, life["step_from"])
            step = job["step"] if job["step"] > told else None
            yield now_s, number, step, held[-1] if held else devices
