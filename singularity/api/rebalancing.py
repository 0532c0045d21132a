"""The rebalancing in force, in the database."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, insert, select, update

from singularity.primitives.errors import NotFound
from singularity.primitives.nodes import Scope, ScopeKind
from singularity.primitives.operations import PLANE, By
from singularity.primitives.rebalancing import Rebalancing, need_none

from . import tables as t
from .operations import Deed, note
from .views import scope_text


class SqlRebalancing:
    """The part of the ledger that keeps it."""

    _engine: Engine

    def order_rebalancing(self, found: Rebalancing, by: By = PLANE) -> None:
        row = {
            "id": found.id,
            "at_s": found.at_s,
            "until_s": found.until_s,
            "scope_kind": str(found.scope.kind) if found.scope else None,
            "scope": found.scope.id if found.scope else None,
        }
        where = scope_text(found.scope) if found.scope else "planet"
        with self._engine.begin() as db:
            db.exec_driver_sql("LOCK TABLE rebalancing IN SHARE ROW EXCLUSIVE MODE")
            need_none(ordered(db))
            db.execute(insert(t.rebalancing).values(row))
            note(db, Deed("rebalance", where, {}, {"rebalancing": found.id}), by, found.at_s)

    def settle_rebalancing(self, rebalancing: str, now_s: float, by: By = PLANE) -> None:
        with self._engine.begin() as db:
            settled(db, rebalancing, by, now_s)


def ordered(db: Connection) -> Rebalancing | None:
    """The one in force."""
    query = select(t.rebalancing).where(t.rebalancing.c.ended_at_s.is_(None))
    row = db.execute(query).mappings().first()
    if row is None:
        return None
    scope = Scope(ScopeKind(row["scope_kind"]), row["scope"]) if row["scope"] else None
    return Rebalancing(row["id"], row["at_s"], row["until_s"], scope)


def settled(db: Connection, rebalancing: str, by: By, now_s: float) -> None:
    """Raises NotFound unless it is in force."""
    mine = (t.rebalancing.c.id == rebalancing) & t.rebalancing.c.ended_at_s.is_(None)
    if not db.execute(update(t.rebalancing).where(mine).values(ended_at_s=now_s)).rowcount:
        raise NotFound(f"there is no rebalancing {rebalancing!r} in force")
    deed = Deed("rebalance-end", f"rebalancing/{rebalancing}", {}, {})
    note(db, deed, by, now_s)
