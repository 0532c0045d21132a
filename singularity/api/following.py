"""The planet, read by what changed since it was last read.

Every row that a transaction writes is noted with the number of that transaction (tables.change). A
reader remembers the oldest transaction that was still open when it looked: whatever it could not
see then was written by that one or a later one, in whatever order they commit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine, Select, cast, select, text
from sqlalchemy.sql import ColumnElement

from singularity.primitives.model import TERMINAL, JobId
from singularity.scheduler.resident import Resident
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.traffic import Traffic

from . import tables as t
from .books import load_jobs, load_nodes
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
        if not seen:
            self._resident = Resident()
        nodes, jobs = select(t.node), _LIVES
        if seen:
            nodes = nodes.where(t.node.c.id.in_(_changed("node", seen)))
            jobs = t.job_state.c.id.in_(_changed("job_state", seen))
            self._resident.remove(db.execute(_removed(seen)).scalars())
        self._resident.apply(load_nodes(db, nodes), load_jobs(db, jobs))
        if missing := self._resident.missing():
            self._resident.apply((), load_jobs(db, _among(missing)))
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


def _changed(what: str, since: str) -> ColumnElement[str]:
    return _changed_ids(what, since).scalar_subquery()


def _changed_ids(what: str, since: str) -> Select[Any]:
    later = t.change.c.by >= cast(since, t.TransactionId)
    return select(t.change.c.id).where(t.change.c.what == what, later)


def _removed(since: str) -> Select[Any]:
    there = select(t.node.c.id).where(t.node.c.id == t.change.c.id).exists()
    return _changed_ids("node", since).where(~there)


def _among(ids: Iterable[JobId]) -> ColumnElement[bool]:
    return t.job_state.c.id.in_(sorted(ids))
