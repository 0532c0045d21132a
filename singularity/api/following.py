"""The planet, read by what changed since it was last read.

Every row that a transaction writes is noted with the number of that transaction (tables.change). A
reader remembers the oldest transaction that was still open when it looked: whatever it could not
see then was written by that one or a later one, in whatever order they commit. Of what those wrote
it leaves out what it has read already, for a transaction is seen as a whole or not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection, Engine, select

from singularity.primitives.model import TERMINAL, JobId
from singularity.primitives.nodes import NodeId
from singularity.scheduler.resident import Resident
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.traffic import Traffic

from . import tables as t
from .books import (
    OVER,
    Readings,
    jobs_from,
    load_jobs,
    load_nodes,
    nodes_from,
    these_jobs,
    these_nodes,
)
from .bulk import Question, ask, begun
from .drains import in_force
from .maintenance import planned
from .projects import PROJECTS, projects_from
from .rebalancing import ordered
from .tariffs import load_tariffs
from .traffic import traffic

_LIVES = t.job_state.c.state.not_in([str(s) for s in TERMINAL])
_NOW: Final = (
    "SELECT pg_snapshot_xmin(pg_current_snapshot())::text,"
    " pg_snapshot_xmin(pg_current_snapshot()) < %s::xid8"
)
_CHANGES: Final = (
    "SELECT what, id, by::text FROM change WHERE what IN ('job_state', 'node') AND by >= %s::xid8"
)
_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_NEVER: Final = str(2**63)  # a transaction that there will not be
# One question for what most planets have none of.
_THERE: Final = Question(
    "SELECT coalesce((SELECT max(at_s) FROM acknowledgement), 0), EXISTS (SELECT FROM drain),"
    " EXISTS (SELECT FROM maintenance), EXISTS (SELECT FROM rebalancing),"
    " EXISTS (SELECT FROM service), EXISTS (SELECT FROM tariff)"
)


class Follower:
    """Keeps a Resident. Threads may share it; one reads at a time."""

    def __init__(self, engine: Engine, readings: Readings | None = None) -> None:
        self._engine, self._lock = engine, threading.Lock()
        self._readings = readings or Readings()
        self._resident, self._seen = Resident(), ""
        self._read_by: dict[tuple[str, str], str] = {}  # who wrote what was read last, by row

    def snapshot(self, now_s: float) -> Snapshot:
        """One repeatable read, so nodes and jobs are of the same instant."""
        with self._lock:
            seen, self._seen = self._seen, ""  # what fails half-way begins anew
            now, changes = Question(_NOW, (seen or "0",)), Question(_CHANGES, (seen or _NEVER,))
            asked = now, changes, _THERE, *PROJECTS
            with begun(self._engine, *asked, begin=_BEGIN) as (db, answers):
                [(oldest, backwards)], written, [there], *known = answers
                if seen and not backwards:
                    self._follow(db, written)
                else:
                    self._begin(db)
                found = self._look(db, there, now_s)
            self._seen = oldest
            return replace(found, projects=tuple(projects_from(*known)))

    def _begin(self, db: Connection) -> None:
        """Read everything."""
        self._resident, self._read_by = Resident(), {}
        self._readings.forget()
        self._resident.apply(load_nodes(db, select(t.node)), load_jobs(db, _LIVES))

    def _look(self, db: Connection, there: Sequence[Any], now_s: float) -> Snapshot:
        if missing := self._resident.missing():
            (rows,) = ask(db, these_jobs(missing))
            self._resident.apply((), jobs_from(rows).values())
        acknowledged_s, drains, windows, order, services, tariffs = there
        found = self._resident.snapshot(now_s, in_force(db) if drains else (), acknowledged_s)
        return replace(
            found,
            maintenance=planned(db) if windows else (),
            rebalancing=ordered(db) if order else None,
            traffic=traffic(db, now_s) if services else Traffic(),
            tariffs=tuple(load_tariffs(db)) if tariffs else (),
        )

    def _follow(self, db: Connection, changes: Iterable[Sequence[Any]]) -> None:
        """Read what was written by transactions that were open then, or have begun since."""
        written = {(what, row): by for what, row, by in changes}
        fresh = [key for key, by in written.items() if self._read_by.get(key) != by]
        self._read_by = written
        if not fresh:
            return
        names = {NodeId(row) for what, row in fresh if what == "node"}
        ids = [JobId(row) for what, row in fresh if what == "job_state"]
        of_nodes, of_jobs = ask(db, these_nodes(names), these_jobs(ids))
        nodes = nodes_from(of_nodes)
        self._resident.remove(sorted(names - nodes.keys()))
        over = {JobId(row[0]) for row in of_jobs if row[1] in OVER}
        over -= self._resident.named
        self._readings.forget(over)
        self._resident.let_go(over)
        lives = (row for row in of_jobs if row[0] not in over)
        self._resident.apply(nodes.values(), self._readings.jobs_from(lives).values())
