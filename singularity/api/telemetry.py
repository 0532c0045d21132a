"""What the control plane says about itself: numbers to scrape."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Engine, text

from singularity.primitives.model import JobState
from singularity.primitives.telemetry import Metric, render


class Meter:
    """Counts what this process did; everything else is asked of the database when scraped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._violations = 0

    def request(self, method: str, status: int) -> None:
        with self._lock:
            self._requests[method, str(status)] += 1

    def scrape(self, engine: Engine, more: Sequence[Metric] = ()) -> str:
        """With `more` that others have measured."""
        found = gauges(engine)
        wrong = sum(value for _, value in found[-1].samples)
        with self._lock:
            self._violations += int(wrong)
            requests = tuple(
                ({"method": method, "status": status}, float(count))
                for (method, status), count in sorted(self._requests.items())
            )
            violations = float(self._violations)
        ours = [
            Metric("http_requests_total", "counter", "Requests answered.", requests),
            Metric(
                "invariant_violations_total",
                "counter",
                "Broken promises found when scraped.",
                (({}, violations),),
            ),
        ]
        return render([*found, *more, *ours])


# Each half by an index of its own, for the rows are long and most jobs ended long ago.
_ENDED: Final = "('succeeded', 'failed', 'cancelled')"
_JOBS: Final = f"""
SELECT state, count(*) FROM job_state WHERE state NOT IN {_ENDED} GROUP BY state UNION ALL
SELECT state, count(*) FROM job_state WHERE state IN {_ENDED} GROUP BY state"""
_NODES: Final = """
SELECT region, device, sum(devices), sum(used), count(*),
       count(*) FILTER (WHERE lost), count(*) FILTER (WHERE duty = 2),
       count(*) FILTER (WHERE jsonb_exists(health, 'quarantine'))
FROM node GROUP BY region, device ORDER BY region, device"""
_LOST: Final = """
SELECT (SELECT coalesce(sum(lost_s * devices), 0) FROM incarnation WHERE lost_s > 0)
     + (SELECT coalesce(sum(lost_device_s), 0) FROM forgotten)"""
_OUTBOX: Final = "SELECT count(*), coalesce(max(attempts), 0) FROM outbox"
_UNACCOUNTED: Final = """
SELECT coalesce(sum(abs(node.used - coalesce(held.devices, 0))), 0)
FROM node LEFT JOIN (SELECT node, sum(devices) AS devices FROM shard GROUP BY node) held
  ON held.node = node.id"""
_VIOLATED: Final = """
SELECT (SELECT count(*) FROM shard JOIN job_state s ON s.id = shard.job
        WHERE s.state IN ('succeeded', 'failed', 'cancelled'))
     + (SELECT count(*) FROM node WHERE used > devices)
     + (SELECT count(*) FROM incarnation i JOIN job_state s ON s.id = i.job
        WHERE i.ended_at_s IS NULL AND i.incarnation < s.incarnation)"""


def gauges(engine: Engine) -> list[Metric]:
    """The last one is what is wrong right now: unaccounted devices, and other broken promises."""
    with engine.connect() as db:
        jobs = {state: int(count) for state, count in db.execute(text(_JOBS))}
        areas = db.execute(text(_NODES)).all()
        lost_s = float(db.execute(text(_LOST)).scalar() or 0)
        depth, attempts = db.execute(text(_OUTBOX)).one()
        unaccounted = float(db.execute(text(_UNACCOUNTED)).scalar() or 0)
        violated = float(db.execute(text(_VIOLATED)).scalar() or 0)

    def by_area(name: str, help_: str, column: int) -> Metric:
        samples = [({"region": a[0], "device": a[1]}, float(a[column])) for a in areas]
        return Metric(name, "gauge", help_, tuple(samples))

    def one(name: str, kind: str, help_: str, value: float) -> Metric:
        return Metric(name, kind, help_, (({}, value),))

    states = tuple(({"state": str(s)}, float(jobs.get(s, 0))) for s in JobState)
    return [
        Metric("jobs", "gauge", "Jobs by state.", states),
        by_area("devices", "Accelerators.", 2),
        by_area("devices_used", "Accelerators held by jobs.", 3),
        by_area("nodes", "Nodes.", 4),
        by_area("nodes_lost", "Nodes that are not heard.", 5),
        by_area("nodes_draining", "Nodes being drained.", 6),
        by_area("nodes_quarantined", "Nodes not to be trusted for a while.", 7),
        one("work_lost_device_seconds_total", "counter", "Progress that was done twice.", lost_s),
        one("outbox_letters", "gauge", "Letters not acknowledged.", float(depth)),
        one("outbox_attempts_max", "gauge", "Most often that one was sent.", float(attempts)),
        one("unaccounted_devices", "gauge", "Held by nobody, or counted twice.", unaccounted),
        one("invariant_violations", "gauge", "Broken promises, now.", unaccounted + violated),
    ]
