"""What travels between control plane and routers: where requests may go, and how many there are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Field

from .messages import Natural, Positive, Wire
from .model import JobId
from .serving import ServiceId

# Upper bounds of the buckets that times are counted in; the last bucket has none. Counts are one
# more than bounds. A time that equals a bound is in the bucket that ends with it.
BOUNDS_S: Final = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 60.0),
)
BUCKETS: Final = len(BOUNDS_S) + 1
LOOK_S: Final = 10.0  # the longest that a router waits for a newer table
NOTE_S: Final = 1.0  # between two posts of one router

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Counts = Annotated[tuple[Natural, ...], Field(min_length=BUCKETS, max_length=BUCKETS)]
NONE: Final = (0,) * BUCKETS


def bucket(seconds: float) -> int:
    """Which bucket a time is counted in."""
    return bisect_left(BOUNDS_S, seconds)


def within(counts: Sequence[int], most_s: float) -> float:
    """How many of the times counted were `most_s` at most, where those inside a bucket are taken to
    be spread evenly over it. What is beyond the last bound counts as longer than anything."""
    found, low_s = 0.0, 0.0
    for count, high_s in zip(counts, BOUNDS_S, strict=False):
        if most_s < high_s:
            return found + count * max(0.0, most_s - low_s) / (high_s - low_s)
        found, low_s = found + count, high_s
    return found


def quantile_s(counts: Sequence[int], share: float) -> float | None:
    """A time that `share` of those counted did not exceed, by the same rule; None of none, and the
    last bound where it lies beyond that."""
    wanted, low_s = share * sum(counts), 0.0
    if not sum(counts):
        return None
    for count, high_s in zip(counts, BOUNDS_S, strict=False):
        if count and wanted <= count:
            return low_s + (high_s - low_s) * wanted / count
        wanted, low_s = wanted - count, high_s
    return BOUNDS_S[-1]


class Endpoint(Wire):
    """A replica that answers. One that is `leaving` gets no new requests, and its router says how
    many it still has (Loads.leaving)."""

    job: JobId
    incarnation: Positive
    address: str  # host:port
    region: str
    revision: Positive
    leaving: bool = False


class Route(Wire):
    """How the requests of one service are to be treated.

    concurrency   requests that one replica takes at once; the others wait here, `queue_most` of
                  them and each `timeout_s` at most, and what is beyond that is shed
    promised_s    what nobody should wait longer than; None where nothing is promised
    canary        the revision that is on trial and gets `canary_share` (0 to 1) of the requests; 0
                  where none is, and then all endpoints are equal, whatever their revision
    """

    service: ServiceId
    name: str
    project: str
    concurrency: Positive
    queue_most: Natural
    timeout_s: Seconds
    promised_s: Seconds | None = None
    canary: Natural = 0
    canary_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    endpoints: tuple[Endpoint, ...] = ()


class Table(Wire):
    """All that a router goes by. Another `version` replaces the one before."""

    version: Natural
    routes: tuple[Route, ...] = ()


class LoadNote(Wire):
    """What one router saw of one revision of a service in its last span of `span_s`.

    revision   that served, or would have
    arrivals   requests that came: all of them, also those that were shed
    done       that were answered; failed: by a replica, badly or not at all; shed: by the router,
               for want of room or of time
    busy       how many there were on average, waiting and being served
    queued     that wait at the end of the span
    waits      until a replica took them, of those it took or that gave up
    latencies  from arrival to the last byte, of those done
    jumps      how uneven they came: half the squares of the changes from each second to the next,
               summed over the seconds that ended in the span; as much as the arrivals where
               requests come independently. None of a router that does not know this yet
    """

    service: ServiceId
    revision: Positive
    span_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
    arrivals: Natural = 0
    done: Natural = 0
    failed: Natural = 0
    shed: Natural = 0
    busy: Seconds = 0.0
    queued: Natural = 0
    waits: Counts = NONE
    latencies: Counts = NONE
    jumps: Seconds | None = None


class Loads(Wire):
    """One post of a router, each NOTE_S: the last span only. One that is lost is missing.

    leaving   requests that are still with each endpoint which it knows to be leaving, 0 included:
              when all routers say 0, the replica is stopped
    """

    router: Annotated[str, Field(min_length=1, max_length=128)]
    notes: Annotated[tuple[LoadNote, ...], Field(max_length=10_000)] = ()
    leaving: Annotated[dict[JobId, Natural], Field(max_length=10_000)] = Field(default_factory=dict)
