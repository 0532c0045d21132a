"""Maintenance windows in the database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from singularity.primitives.drains import Leaving
from singularity.primitives.errors import NotFound
from singularity.primitives.maintenance import Maintenance
from singularity.primitives.nodes import Scope, ScopeKind
from singularity.primitives.operations import PLANE, By

from . import tables as t
from .operations import Deed, note
from .views import scope_text


class SqlMaintenance:
    """The part of the ledger that keeps them."""

    _engine: Engine

    def plan_maintenance(self, found: Maintenance, now_s: float, by: By = PLANE) -> None:
        with self._engine.begin() as db:
            added(db, found, by, now_s)

    def drop_maintenance(self, maintenance: str, now_s: float, by: By = PLANE) -> None:
        with self._engine.begin() as db:
            dropped(db, maintenance, by, now_s)

    def skip_maintenance(
        self, maintenance: str, done_s: float, now_s: float, by: By = PLANE
    ) -> None:
        with self._engine.begin() as db:
            skipped(db, maintenance, done_s, by, now_s)


def planned(db: Connection) -> tuple[Maintenance, ...]:
    """All, in the order of their ids."""
    query = select(t.maintenance).where(t.maintenance.c.dropped_at_s.is_(None))
    rows = db.execute(query.order_by(t.maintenance.c.id)).mappings()
    return tuple(map(_maintenance, rows))


def one_planned(db: Connection, maintenance: str) -> Maintenance:
    """Locked. Raises NotFound."""
    mine = (t.maintenance.c.id == maintenance) & t.maintenance.c.dropped_at_s.is_(None)
    found = db.execute(select(t.maintenance).where(mine).with_for_update()).mappings().first()
    if found is None:
        near = [m.id for m in planned(db)]
        raise NotFound(f"there is no maintenance {maintenance!r}", near=near)
    return _maintenance(found)


def added(db: Connection, found: Maintenance, by: By, now_s: float) -> None:
    db.execute(insert(t.maintenance).values(_row(found)))
    deed = Deed("maintenance-add", scope_text(found.scope), {}, {"maintenance": found.id})
    note(db, deed, by, now_s)


def restored(db: Connection, maintenance: str, by: By, now_s: float) -> None:
    """One that was dropped, as it was."""
    mine = t.maintenance.c.id == maintenance
    back = update(t.maintenance).where(mine).values(dropped_at_s=None).returning(t.maintenance)
    found = _maintenance(db.execute(back).mappings().one())
    deed = Deed("maintenance-add", scope_text(found.scope), {}, {"maintenance": maintenance})
    note(db, deed, by, now_s)


def dropped(db: Connection, maintenance: str, by: By, now_s: float) -> None:
    found = one_planned(db, maintenance)
    mine = t.maintenance.c.id == maintenance
    db.execute(update(t.maintenance).where(mine).values(dropped_at_s=now_s))
    deed = Deed("maintenance-rm", scope_text(found.scope), {"maintenance": maintenance}, {})
    note(db, deed, by, now_s)


def skipped(db: Connection, maintenance: str, done_s: float, by: By, now_s: float) -> None:
    found = one_planned(db, maintenance)
    mine = t.maintenance.c.id == maintenance
    db.execute(update(t.maintenance).where(mine).values(done_s=done_s))
    facts = {"done_s": found.done_s}, {"done_s": done_s}
    note(db, Deed("maintenance-skip", f"maintenance/{maintenance}", *facts), by, now_s)


def _row(found: Maintenance) -> dict[str, object]:
    return {
        "id": found.id,
        "scope_kind": str(found.scope.kind),
        "scope": found.scope.id,
        "every": found.every,
        "length_s": found.length_s,
        "leaving": str(found.leaving),
        "moves_most": found.moves_most,
        "bytes_per_s": found.bytes_per_s,
        "done_s": found.done_s,
        "dropped_at_s": None,
    }


def _maintenance(row: Any) -> Maintenance:
    return Maintenance(
        id=row["id"],
        scope=Scope(ScopeKind(row["scope_kind"]), row["scope"]),
        every=row["every"],
        length_s=row["length_s"],
        leaving=Leaving(row["leaving"]),
        moves_most=row["moves_most"],
        bytes_per_s=row["bytes_per_s"],
        done_s=row["done_s"],
    )
