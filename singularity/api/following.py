"""The planet, read by what changed since it was last read.

Every row that a transaction writes is noted with the number of that transaction (tables.change). A
reader remembers the oldest transaction that was still open when it looked: whatever it could not
see then was written by that one or a later one, in whatever order they commit. Of what those wrote
it leaves out what it has read already, for a transaction is seen as a whole or not at all.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from sqlalchemy import Connection, Engine, select, text

from singularity.primitives.model import TERMINAL, JobId
from singularity.primitives.nodes import NodeId
from singularity.scheduler.resident import Resident
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.traffic import Traffic

from . import tables as t
from .books import load_jobs, load_nodes
from .bulk import among
from .drains import in_force
from .maintenance import planned
from .projects import load_projects
from .rebalancing import ordered
from .tariffs import load_tariffs
from .traffic import traffic

_LIVES = t.job_state.c.state.not_in([str(s) for s in TERMINAL])
_NOW = text(
    "SELECT pg_snapshot_xmin(pg_current_snapshot())::text,"
    " pg_snapshot_xmin(pg_current_snapshot()) < CAST(:seen AS xid8)"
)
_CHANGES = text(
    "SELECT what, id, by::text FROM change"
    " WHERE what IN ('job_state', 'node') AND by >= CAST(:seen AS xid8)"
)
# One question for what most planets have none of.
_THERE = text(
    "SELECT coalesce((SELECT max(at_s) FROM acknowledgement), 0), EXISTS (SELECT FROM drain),"
    " EXISTS (SELECT FROM maintenance), EXISTS (SELECT FROM rebalancing),"
    " EXISTS (SELECT FROM service), EXISTS (SELECT FROM tariff)"
)


class Follower:
    """Keeps a Resident. Threads may share it; one reads at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._lock = engine, threading.Lock()
        self._resident, self._seen = Resident(), ""
        self._read_by: dict[tuple[str, str], str] = {}  # who wrote what was read last, by row

    def snapshot(self, now_s: float) -> Snapshot:
        """One repeatable read, so nodes and jobs are of the same instant."""
        with self._lock:
            seen, self._seen = self._seen, ""  # what fails half-way begins anew
            with self._engine.connect() as db:
                db.execution_options(isolation_level="REPEATABLE READ")
                oldest, backwards = db.execute(_NOW, {"seen": seen or "0"}).one()
                found = self._read(db, "" if backwards else seen, now_s)
            self._seen = str(oldest)
            return found

    def _read(self, db: Connection, seen: str, now_s: float) -> Snapshot:
        if seen:
            self._follow(db, seen)
        else:
            self._resident, self._read_by = Resident(), {}
            self._resident.apply(load_nodes(db, select(t.node)), load_jobs(db, _LIVES))
        if missing := self._resident.missing():
            self._resident.apply((), load_jobs(db, among(t.job_state.c.id, missing)))
        acknowledged_s, *there = db.execute(_THERE).one()
        drains, windows, order, services, tariffs = there
        found = self._resident.snapshot(now_s, in_force(db) if drains else (), acknowledged_s)
        return replace(
            found,
            maintenance=planned(db) if windows else (),
            rebalancing=ordered(db) if order else None,
            traffic=traffic(db, now_s) if services else Traffic(),
            projects=tuple(load_projects(db)),
            tariffs=tuple(load_tariffs(db)) if tariffs else (),
        )

    def _follow(self, db: Connection, seen: str) -> None:
        """Read what was written by a transaction that was open then, or has begun since."""
        found = db.execute(_CHANGES, {"seen": seen})
        written = {(what, row): by for what, row, by in found}
        fresh = [key for key, by in written.items() if self._read_by.get(key) != by]
        self._read_by = written
        if names := {NodeId(row) for what, row in fresh if what == "node"}:
            nodes = load_nodes(db, select(t.node).where(among(t.node.c.id, names)))
            self._resident.remove(sorted(names - {node.id for node in nodes}))
            self._resident.apply(nodes, ())
        if ids := [JobId(row) for what, row in fresh if what == "job_state"]:
            self._resident.apply((), load_jobs(db, among(t.job_state.c.id, ids)))
