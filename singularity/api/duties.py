"""What operators, and the plane in their place, let be done with nodes; and how that is undone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, delete, select, update

from singularity.primitives.drains import need_idle
from singularity.primitives.errors import Conflict, NotFound
from singularity.primitives.faults import steered
from singularity.primitives.health import Quarantine
from singularity.primitives.nodes import Duty, Node, NodeId, Scope, ScopeKind
from singularity.primitives.operations import PLANE, By
from singularity.scheduler.orders import Close, Isolate, Open, Order, Readmit, Settle, judged

from . import drains, maintenance, operations
from . import tables as t
from .books import load_nodes
from .drains import SqlDrains
from .lease import Lease
from .maintenance import SqlMaintenance
from .operations import Deed, note
from .rebalancing import SqlRebalancing, settled
from .rows import node_row
from .views import Json

_QUARANTINE: TypeAdapter[Quarantine | None] = TypeAdapter(Quarantine | None)


class SqlDuties(SqlDrains, SqlMaintenance, SqlRebalancing):
    """The part of the ledger that changes what nodes are for."""

    _engine: Engine
    _lease: Lease | None

    def set_duty(self, scope: Scope, duty: Duty, now_s: float, by: By = PLANE) -> list[NodeId]:
        """Cordon or put back what is in `scope`; the nodes that it concerns."""
        with self._engine.begin() as db:
            before = drains.inside(db, scope)
            found = drains.set_duty(db, scope, duty)
            verb = "cordon" if duty is Duty.CORDONED else "uncordon"
            for node in before if by is not PLANE else ():
                if node.duty is not duty:
                    _note(db, verb, node, replace(node, duty=duty), (by, now_s))
            return found

    def quarantine(
        self, node: NodeId, quarantine: Quarantine | None, now_s: float, by: By = PLANE
    ) -> Node:
        with self._engine.begin() as db:
            found = _locked(db, node)
            after = steered(found, quarantine, now_s)
            _put(db, after)
            _note(db, "quarantine" if quarantine else "release", found, after, (by, now_s))
            return after

    def examine(self, node: NodeId, sick: tuple[str, ...]) -> None:
        """See scheduler.ledger.Ledger. Most say what is known: those are seen without a lock."""
        mine = select(t.node).where(t.node.c.id == node)
        with self._engine.begin() as db:
            if any(n.health.sick != sick for n in load_nodes(db, mine)):
                found = _locked(db, node)
                _put(db, replace(found, health=replace(found.health, sick=sick)))

    def carry_out(self, orders: Sequence[Order], now_s: float) -> None:
        for order in orders:
            # What was decided on may be out of date: then there is nothing to do.
            with suppress(Conflict, NotFound), self._engine.begin() as db:
                if self._lease is not None:
                    self._lease.guard(db)
                _carry_out(db, order, now_s)

    def remove_node(self, node: NodeId, now_s: float, quiet_s: float, by: By = PLANE) -> None:
        """See scheduler.ledger.Ledger."""
        with self._engine.begin() as db:
            found = _locked(db, node)
            jobs = db.execute(select(t.shard.c.job).where(t.shard.c.node == node)).scalars().all()
            need_idle(found, len(jobs), now_s - quiet_s)
            gone = replace(by, reason=f"{node} is removed")
            for order in drains.in_force(db):
                if order.scope == Scope(ScopeKind.NODE, node):
                    drains.closed(db, order.id, gone, now_s)
            _forget(db, found, now_s)
            before = {"region": found.region, "cluster": found.cluster, "devices": found.devices}
            note(db, Deed("remove", f"node/{node}", before, {}), by, now_s)

    def undo(self, number: int, by: By, now_s: float) -> None:
        """Take an operation back. Raises NotFound, and Conflict where there is no way back or what
        it changed has been changed since."""
        with self._engine.begin() as db:
            found = operations.to_undo(db, number)
            try:
                _undo(db, found, replace(by, undoes=number), now_s)
            except NotFound as gone:  # what it is about
                raise operations.refused(found, gone.detail) from gone


_NO_WAY_BACK = {
    "undrain": "jobs may have come meanwhile; order the drain again",
    "remove": "a node comes back by joining again: start its agent",
    "acknowledge": "what was evicted since then is gone",
}


def _undo(db: Connection, found: Json, by: By, now_s: float) -> None:
    match found["verb"]:
        case "cordon" | "uncordon" | "quarantine" | "release":
            _restore(db, found, by, now_s)
        case "drain":
            drains.closed(db, found["after"]["drain"], by, now_s)
        case "pause" | "go-on":
            drain = str(found["target"]).removeprefix("drain/")
            paused = drains.one_in_force(db, drain).paused
            operations.need_unchanged(found, {"paused": paused})
            drains.held_up(db, drain, by, now_s, paused=not paused)
        case "rebalance":
            settled(db, found["after"]["rebalancing"], by, now_s)
        case "maintenance-add":
            maintenance.dropped(db, found["after"]["maintenance"], by, now_s)
        case "maintenance-rm":
            maintenance.restored(db, found["before"]["maintenance"], by, now_s)
        case "maintenance-skip":
            _unskip(db, found, by, now_s)
        case verb:
            raise operations.refused(found, _NO_WAY_BACK.get(verb, "there is no way back"))


def _locked(db: Connection, node: NodeId) -> Node:
    """Raises NotFound."""
    found = load_nodes(db, select(t.node).where(t.node.c.id == node).with_for_update())
    if not found:
        raise NotFound(f"there is no node {node!r}", node=node)
    return found[0]


def _put(db: Connection, node: Node) -> None:
    db.execute(update(t.node).where(t.node.c.id == node.id).values(node_row(node)))


def _facts(node: Node) -> Json:
    """Of a node, what operations change."""
    kept = _QUARANTINE.dump_python(node.health.quarantine, mode="json")
    return {"duty": node.duty.name.lower(), "quarantine": kept}


def _note(db: Connection, verb: str, before: Node, after: Node, said: tuple[By, float]) -> None:
    was, now = _facts(before), _facts(after)
    changed = [name for name in was if was[name] != now[name]]
    deed = Deed(verb, f"node/{before.id}", *({k: x[k] for k in changed} for x in (was, now)))
    note(db, deed, *said)


def _carry_out(db: Connection, order: Order, now_s: float) -> None:
    match order:
        case Isolate() | Readmit():
            found = _locked(db, order.node)
            if (after := judged(found, order, now_s)) != found:
                _put(db, after)
                verb = "quarantine" if isinstance(order, Isolate) else "release"
                _note(db, verb, found, after, (replace(PLANE, reason=order.reason), now_s))
        case Open(drain):
            drains.opened(db, drain, replace(PLANE, reason=f"maintenance {drain.upkeep}"))
        case Close(drain_id, reason):
            drains.closed(db, drain_id, replace(PLANE, reason=reason), now_s)
        case Settle(rebalancing, reason):
            settled(db, rebalancing, replace(PLANE, reason=reason), now_s)


def _forget(db: Connection, node: Node, now_s: float) -> None:
    """Every row of the node, and of places that are empty without it. Those who follow the fleet
    are told by the note that a trigger leaves."""
    for table in (t.outbox, t.node_log, t.device, t.inventory):
        db.execute(delete(table).where(table.c.node == node.id))
    db.execute(update(t.token).where(t.token.c.node == node.id).values(revoked_at_s=now_s))
    db.execute(delete(t.node).where(t.node.c.id == node.id))
    for table, mine in ((t.cluster, t.node.c.cluster), (t.region, t.node.c.region)):
        name = node.cluster if table is t.cluster else node.region
        used = select(t.node.c.id).where(mine == name).exists()
        db.execute(delete(table).where(table.c.id == name, ~used))


def _restore(db: Connection, found: Json, by: By, now_s: float) -> None:
    """Write what was there before, unless something else has been written since."""
    node = _locked(db, NodeId(str(found["target"]).removeprefix("node/")))
    now = _facts(node)
    operations.need_unchanged(found, {name: now[name] for name in found["after"]})
    changes: dict[str, Any] = {}
    if "duty" in found["before"]:
        changes["duty"] = Duty[found["before"]["duty"].upper()]
    if "quarantine" in found["before"]:
        kept = _QUARANTINE.validate_python(found["before"]["quarantine"])
        changes["health"] = replace(node.health, quarantine=kept)
    after = replace(node, **changes)
    _put(db, after)
    verbs = {"cordon": "uncordon", "uncordon": "cordon", "quarantine": "release"}
    _note(db, verbs.get(found["verb"], "quarantine"), node, after, (by, now_s))


def _unskip(db: Connection, found: Json, by: By, now_s: float) -> None:
    name = str(found["target"]).removeprefix("maintenance/")
    planned = maintenance.one_planned(db, name)
    operations.need_unchanged(found, {"done_s": planned.done_s})
    maintenance.skipped(db, name, found["before"]["done_s"], by, now_s)
