"""The desks of all services, as the table says, and what they count."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

from singularity.primitives.model import JobId
from singularity.primitives.routing import BOUNDS_S, LoadNote, Loads, Route, Table
from singularity.primitives.serving import ServiceId
from singularity.primitives.telemetry import Histogram, Labels, Metric, render

from .addressing import Name
from .desk import Desk
from .pool import Policy
from .tally import Counts


class Desks:
    """Used by one event loop."""

    def __init__(self, router: str, region: str, policy: Policy) -> None:
        self._router, self._region, self._policy = router, region, policy
        self._routes: dict[ServiceId, Route] = {}
        self._desks: dict[ServiceId, Desk] = {}
        self._names: dict[Name, Desk] = {}
        self.told = False  # whether there was a table yet

    def use(self, table: Table) -> None:
        self.told = True
        self._routes = {route.service: route for route in table.routes}
        for id_, route in self._routes.items():
            if id_ not in self._desks:
                self._desks[id_] = Desk(self._region, random.getrandbits(64), self._policy)
            self._desks[id_].tell(route)
        for id_, desk in list(self._desks.items()):
            if id_ not in self._routes:
                desk.tell(None)
                if desk.idle():
                    del self._desks[id_]
        self._names = {(r.project, r.name): self._desks[r.service] for r in table.routes}

    def find(self, name: Name) -> Desk | None:
        return self._names.get(name)

    def loads(self) -> Loads:
        """What came since this was last asked. Of those that are gone nobody wants to hear."""
        notes: list[LoadNote] = []
        leaving: dict[JobId, int] = {}
        for id_ in self._routes:
            notes += self._desks[id_].notes(id_)
            leaving |= self._desks[id_].leaving()
        return Loads(router=self._router, notes=tuple(notes), leaving=leaving)

    # -- numbers to scrape -----------------------------------------------------------------------

    def metrics(self, heard_s: float | None) -> str:
        """`heard_s` is when the control plane last answered."""
        now_s = asyncio.get_running_loop().time()
        silent_s = float("inf") if heard_s is None else now_s - heard_s
        counted = [(labels, counts) for labels, counts in self._counted()]
        waits = tuple((labels, c.waits, c.wait_s) for labels, c in counted)
        latencies = tuple((labels, c.latencies, c.latency_s) for labels, c in counted)
        return render(
            [
                Metric("router_silence_seconds", "gauge", _SILENCE, (({}, silent_s),)),
                Metric("router_requests_total", "counter", _REQUESTS, tuple(_outcomes(counted))),
                Histogram("router_wait_seconds", _WAITS, BOUNDS_S, waits),
                Histogram("router_latency_seconds", _LATENCIES, BOUNDS_S, latencies),
                *self._levels(),
            ]
        )

    def _counted(self) -> Iterator[tuple[Labels, Counts]]:
        for id_, route in self._routes.items():
            for revision, counts in self._desks[id_].tally.totals():
                yield {**_labels(route), "revision": str(revision)}, counts

    def _levels(self) -> list[Metric]:
        pools = [(_labels(route), self._desks[id_].pool) for id_, route in self._routes.items()]
        queued = tuple((labels, float(pool.queued)) for labels, pool in pools)
        busy = tuple((labels, float(pool.busy)) for labels, pool in pools)
        replicas = tuple((labels, float(len(pool.replicas))) for labels, pool in pools)
        return [
            Metric("router_queued", "gauge", "Requests that wait for a replica.", queued),
            Metric("router_busy", "gauge", "Requests that are with a replica.", busy),
            Metric("router_replicas", "gauge", "Replicas that are known.", replicas),
        ]


_SILENCE = "Since the control plane last answered."
_REQUESTS = "Requests that ended, and how."
_WAITS = "From a request's coming until a replica has it."
_LATENCIES = "From a request's coming until the last byte of its answer."


def _labels(route: Route) -> Labels:
    return {"project": route.project, "service": route.name}


def _outcomes(counted: list[tuple[Labels, Counts]]) -> Iterator[tuple[Labels, float]]:
    for labels, counts in counted:
        yield {**labels, "outcome": "done"}, counts.done
        yield {**labels, "outcome": "failed"}, counts.failed
        for why, number in counts.shed.items():
            yield {**labels, "outcome": why.value}, number
