"""How services are loaded, by what routers say of them. Frozen, pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Final

from singularity.primitives.model import JobId
from singularity.primitives.routing import LoadNote
from singularity.primitives.serving import ServiceId

from .autoscale import Demand
from .services import Measure, Served, Service

STABLE_S: Final = 60.0
PANIC_S: Final = 6.0
WAIT_MOST_S: Final = 60.0  # a longer one is not told from this


@dataclass(frozen=True, slots=True)
class Window:
    """What one router said of one revision within some time: sums over the spans that came."""

    arrivals: int = 0
    done: int = 0
    span_s: float = 0.0
    busy_s: float = 0.0
    jumps: float = 0.0

    def plus(self, note: LoadNote) -> Window:
        return Window(
            self.arrivals + note.arrivals,
            self.done + note.done,
            self.span_s + note.span_s,
            self.busy_s + note.busy * note.span_s,
            self.jumps + (note.arrivals if note.jumps is None else note.jumps),
        )

    def beside(self, other: Window) -> Window:
        """Of two revisions, at one time."""
        return Window(
            self.arrivals + other.arrivals,
            self.done + other.done,
            max(self.span_s, other.span_s),
            self.busy_s + other.busy_s,
            self.jumps + other.jumps,
        )

    def per_second(self, total: float) -> float:
        return total / self.span_s if self.span_s > 0.0 else 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """Of one service over all its routers: requests a second and requests at a time, both over
    STABLE_S and PANIC_S; requests that wait now, and how many are answered a second. `varies` is
    the variance of what comes in a second, over STABLE_S: over fewer it is mostly chance."""

    rps: float = 0.0
    rps_panic: float = 0.0
    busy: float = 0.0
    busy_panic: float = 0.0
    queued: int = 0
    done: float = 0.0
    varies: float = 0.0

    @property
    def spread(self) -> float:
        """That variance over the mean, 1 where requests come independently. They never count as
        coming more evenly than that, for what is done for them is uneven, too."""
        return max(1.0, self.varies / self.rps) if self.rps > 0.0 else 1.0

    @property
    def wait_s(self) -> float:
        """How long one that came now would wait; WAIT_MOST_S where nobody is answered."""
        if not self.queued:
            return 0.0
        return min(WAIT_MOST_S, self.queued / self.done) if self.done > 0.0 else WAIT_MOST_S

    def demand(self, measure: Measure) -> Demand:
        stable, panic = self.busy, self.busy_panic
        if measure is Measure.RPS:
            stable, panic = self.rps, self.rps_panic
        return Demand(stable, panic, self.queued, self.wait_s, self.spread)


@dataclass(frozen=True, slots=True)
class Part:
    """What one router said of one revision: over STABLE_S and PANIC_S, and last, at `last_s`."""

    router: str
    last_s: float
    stable: Window
    panic: Window
    queued: int


def load_of(parts: Iterable[Part]) -> Load:
    """Each router is a mean over the spans that it covers, so that a note which got lost does not
    count as a second without requests. Of a revision without any it may say nothing."""
    routers: dict[str, list[Part]] = {}
    for part in parts:
        routers.setdefault(part.router, []).append(part)
    found = Load()
    for _, mine in sorted(routers.items()):
        last_s = max(part.last_s for part in mine)
        stable = reduce(Window.beside, [part.stable for part in mine])
        panic = reduce(Window.beside, [part.panic for part in mine])
        found = Load(
            found.rps + stable.per_second(stable.arrivals),
            found.rps_panic + panic.per_second(panic.arrivals),
            found.busy + stable.per_second(stable.busy_s),
            found.busy_panic + panic.per_second(panic.busy_s),
            found.queued + sum(part.queued for part in mine if part.last_s == last_s),
            found.done + panic.per_second(panic.done),
            found.varies + stable.per_second(stable.jumps),
        )
    return found


@dataclass(frozen=True, slots=True)
class Router:
    """When it was last heard, and how many requests are still with each endpoint that it knows to
    be leaving."""

    id: str
    region: str
    heard_s: float
    leaving: Mapping[JobId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Services that have not ended, and what routers say. A service without an entry in `loads` is
    one of which nothing is known: no router was heard. `trials` is what the revisions on trial have
    served so far."""

    services: tuple[Service, ...] = ()
    loads: Mapping[ServiceId, Load] = field(default_factory=dict)
    trials: Mapping[ServiceId, Served] = field(default_factory=dict)
    routers: tuple[Router, ...] = ()


def known_loads(
    services: Iterable[Service],
    parts: Mapping[ServiceId, Sequence[Part]],
    routers: Iterable[Router],
    now_s: float,
) -> dict[ServiceId, Load]:
    """Loads of those of which something is known: silence is no load only while routers speak."""
    heard = any(now_s - router.heard_s <= PANIC_S for router in routers)
    return {s.id: load_of(parts.get(s.id, ())) for s in services if heard or parts.get(s.id)}
