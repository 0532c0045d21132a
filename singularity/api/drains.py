"""Drains in the database: orders in force, kept beside the duty of the nodes that they cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, update

from singularity.primitives.drains import Drain, Leaving, begun, standing
from singularity.primitives.errors import NotFound
from singularity.primitives.nodes import Duty, Node, NodeId, Scope, ScopeKind
from singularity.primitives.operations import PLANE, By

from . import tables as t
from .books import load_nodes
from .operations import Deed, note
from .views import scope_text

_AREA = {"region": t.node.c.region, "cluster": t.node.c.cluster, "node": t.node.c.id}
_SITS = t.shard.join(t.node, t.node.c.id == t.shard.c.node)


class SqlDrains:
    """The part of the ledger that keeps them. A drain and the duty of its nodes change together."""

    _engine: Engine

    def open_drain(self, drain: Drain, by: By = PLANE) -> Drain:
        """See scheduler.ledger.Ledger; notes the jobs that were there."""
        with self._engine.begin() as db:
            return opened(db, drain, by)

    def pause_drain(self, drain: str, *, paused: bool, now_s: float, by: By = PLANE) -> Drain:
        with self._engine.begin() as db:
            return held_up(db, drain, by, now_s, paused=paused)

    def close_drain(self, drain: str, now_s: float, by: By = PLANE) -> Drain:
        with self._engine.begin() as db:
            return closed(db, drain, by, now_s)

    def drains(self) -> list[Drain]:
        with self._engine.connect() as db:
            return in_force(db)


def opened(db: Connection, drain: Drain, by: By) -> Drain:
    """It in force, or the one that is the same. Raises Conflict where another is in the way."""
    # One opening at a time; whoever writes to a drain while it holds nodes is not in the way.
    db.exec_driver_sql("LOCK TABLE drain IN SHARE UPDATE EXCLUSIVE MODE")
    nodes = load_nodes(db, select(t.node))
    if (known := standing(drain, in_force(db), nodes)) is not None:
        return known
    drain = begun(drain, nodes)
    here = _AREA[drain.scope.kind] == drain.scope.id
    there = select(t.shard.c.job).select_from(_SITS).where(here).distinct()
    jobs = sorted(str(job) for (job,) in db.execute(there))
    asked = {"actor": by.actor, "reason": by.reason, "jobs": jobs}
    db.execute(insert(t.drain).values({**_row(drain), **asked}))
    set_duty(db, drain.scope, Duty.DRAINING)
    deed = Deed("drain", scope_text(drain.scope), {}, {"drain": drain.id})
    note(db, deed, by, drain.at_s)
    return drain


def held_up(db: Connection, drain: str, by: By, now_s: float, *, paused: bool) -> Drain:
    found = _changed(db, drain, paused=paused)
    verb = "pause" if paused else "go-on"
    note(db, Deed(verb, f"drain/{drain}", {"paused": not paused}, {"paused": paused}), by, now_s)
    return found


def closed(db: Connection, drain: str, by: By, now_s: float) -> Drain:
    """Its nodes take work again. The window that it was for, if any, is given up."""
    found = _changed(db, drain, ended_at_s=now_s)
    set_duty(db, found.scope, Duty.READY)
    for node in found.cordoned:
        set_duty(db, Scope(ScopeKind.NODE, node), Duty.CORDONED)
    if found.upkeep:
        mine = t.maintenance.c.id == found.upkeep
        db.execute(update(t.maintenance).where(mine).values(done_s=found.deadline_s))
    note(db, Deed("undrain", scope_text(found.scope), {"drain": drain}, {}), by, now_s)
    return found


def book(db: Connection, drain: str, pace_s: float, now_s: float) -> None:
    """See primitives.drains.booked."""
    later = func.greatest(t.drain.c.next_move_s, now_s) + pace_s
    db.execute(update(t.drain).where(t.drain.c.id == drain).values(next_move_s=later))


def in_force(db: Connection) -> list[Drain]:
    rows = db.execute(select(t.drain).where(t.drain.c.ended_at_s.is_(None))).mappings()
    return sorted(map(_drain, rows))


def one_in_force(db: Connection, drain: str) -> Drain:
    """Raises NotFound."""
    for found in in_force(db):
        if found.id == drain:
            return found
    raise NotFound(f"there is no drain {drain!r} in force")


@dataclass(frozen=True, slots=True)
class Record:
    """A drain as it was ordered, and how far it is: jobs that were there, that are there now."""

    drain: Drain
    actor: str
    reason: str
    ended_at_s: float | None
    jobs: tuple[str, ...]
    remaining: tuple[str, ...]


def record(db: Connection, drain: str) -> Record:
    """Also of one that has ended. Raises NotFound."""
    found = db.execute(select(t.drain).where(t.drain.c.id == drain)).mappings().first()
    if found is None:
        raise NotFound(f"there is no drain {drain!r}")
    return _record(db, found)


def records(db: Connection) -> list[Record]:
    """Of all in force, the oldest first."""
    query = select(t.drain).where(t.drain.c.ended_at_s.is_(None)).order_by(t.drain.c.at_s)
    return [_record(db, row) for row in list(db.execute(query).mappings())]


def _record(db: Connection, row: Any) -> Record:
    here = _AREA[row["scope_kind"]] == row["scope"]
    there = select(t.shard.c.job).select_from(_SITS).where(here).distinct()
    remaining = () if row["ended_at_s"] is not None else db.execute(there).scalars()
    return Record(
        drain=_drain(row),
        actor=row["actor"],
        reason=row["reason"],
        ended_at_s=row["ended_at_s"],
        jobs=tuple(row["jobs"]),
        remaining=tuple(sorted(map(str, remaining))),
    )


def _changed(db: Connection, drain: str, **values: object) -> Drain:
    mine = (t.drain.c.id == drain) & t.drain.c.ended_at_s.is_(None)
    found = db.execute(update(t.drain).where(mine).values(**values).returning(t.drain)).mappings()
    row = found.first()
    if row is None:
        raise NotFound(f"there is no drain {drain!r} in force")
    return _drain(row)


def inside(db: Connection, scope: Scope) -> list[Node]:
    """The nodes in `scope`, locked in id order."""
    query = select(t.node).where(_AREA[scope.kind] == scope.id).order_by(t.node.c.id)
    return load_nodes(db, query.with_for_update())


def set_duty(db: Connection, scope: Scope, duty: Duty) -> list[NodeId]:
    """Of the nodes in `scope`, which are locked in id order and returned so."""
    nodes = [node.id for node in inside(db, scope)]
    if nodes:
        db.execute(update(t.node).where(t.node.c.id.in_(nodes)).values(duty=int(duty)))
    return nodes


def _row(drain: Drain) -> dict[str, object]:
    return {
        "id": drain.id,
        "scope_kind": str(drain.scope.kind),
        "scope": drain.scope.id,
        "at_s": drain.at_s,
        "leaving": str(drain.leaving),
        "deadline_s": drain.deadline_s,
        "moves_most": drain.moves_most,
        "paused": drain.paused,
        "bytes_per_s": drain.bytes_per_s,
        "next_move_s": drain.next_move_s,
        "until_s": drain.until_s,
        "upkeep": drain.upkeep,
        "cordoned": list(drain.cordoned),
    }


def _drain(row: Any) -> Drain:
    return Drain(
        id=row["id"],
        scope=Scope(ScopeKind(row["scope_kind"]), row["scope"]),
        at_s=row["at_s"],
        leaving=Leaving(row["leaving"]),
        deadline_s=row["deadline_s"],
        moves_most=row["moves_most"],
        paused=row["paused"],
        bytes_per_s=row["bytes_per_s"],
        next_move_s=row["next_move_s"],
        until_s=row["until_s"],
        upkeep=row["upkeep"],
        cordoned=tuple(row["cordoned"]),
    )
