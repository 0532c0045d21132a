"""What operators did: each a row with actor, reason, before and after, kept for good.

A row is written in the transaction that makes it true. `before` and `after` are the facts that were
changed, so an operation can be undone while the facts are still as it left them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from singularity.primitives.errors import Conflict, NotFound
from singularity.primitives.operations import By

from . import tables as t
from .views import Json


@dataclass(frozen=True, slots=True)
class Deed:
    """What was done to `target` ("node/n0", "region/eu", "drain/…")."""

    verb: str
    target: str
    before: Json
    after: Json


def note(db: Connection, deed: Deed, by: By, now_s: float) -> None:
    """Write it down."""
    row = {
        "at_s": now_s,
        "actor": by.actor,
        "verb": deed.verb,
        "target": deed.target,
        "reason": by.reason,
        "before": deed.before,
        "after": deed.after,
        "undoes": by.undoes,
    }
    db.execute(insert(t.operation).values(row))


def operation(db: Connection, number: int) -> Json:
    """Raises NotFound."""
    found = db.execute(_listing().where(t.operation.c.id == number)).mappings().first()
    if found is None:
        raise NotFound(f"there is no operation {number}")
    return dict(found)


def operations(db: Connection, before: int | None, limit: int, target: str | None) -> list[Json]:
    """Newest first, those with numbers less than `before`."""
    query = _listing().order_by(t.operation.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(t.operation.c.id < before)
    if target is not None:
        query = query.where(t.operation.c.target == target)
    return [dict(row) for row in db.execute(query).mappings()]


def to_undo(db: Connection, number: int) -> Json:
    """An operation that was not undone yet, locked. Raises NotFound and Conflict."""
    db.execute(select(t.operation.c.id).where(t.operation.c.id == number).with_for_update())
    found = operation(db, number)
    if (by := found["undone_by"]) is not None:
        raise Conflict(f"operation {number} was undone by operation {by}", operation=number)
    return found


def refused(found: Json, why: str) -> Conflict:
    detail = f"operation {found['id']} ({found['verb']} {found['target']}) cannot be undone: {why}"
    return Conflict(detail, operation=found["id"])


def need_unchanged(found: Json, now: Json) -> None:
    """Raises Conflict when what the operation changed has been changed since."""
    differs = [f"{k} is {v!r} now" for k, v in now.items() if found["after"].get(k) != v]
    if differs:
        raise refused(found, f"the world has moved on: {', '.join(differs)}")


def _listing() -> Any:
    later = t.operation.alias("later")
    undone = select(later.c.id).where(later.c.undoes == t.operation.c.id).scalar_subquery()
    return select(t.operation, undone.label("undone_by"))
