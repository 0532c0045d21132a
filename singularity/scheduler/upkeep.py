"""Maintenance: what it empties begins to leave in time, and comes back when the window is over."""

from __future__ import annotations

from singularity.primitives.drains import Drain
from singularity.primitives.maintenance import Maintenance, Window, drain_for, window
from singularity.primitives.model import Tier

from . import evacuate, exodus
from .orders import Close, Open, Order
from .policy import Policy
from .snapshot import Snapshot


def keep(snapshot: Snapshot, policy: Policy) -> tuple[Order, ...]:
    found: list[Order] = []
    for order in snapshot.drains:
        if order.until_s is not None and order.until_s <= snapshot.now_s:
            found.append(Close(order.id, "its time is over"))
    for each in snapshot.maintenance:
        there = window(each, snapshot.now_s)
        if there.opens_s - snapshot.now_s > policy.upkeep_ahead_s or in_force(snapshot, each):
            continue
        order = drain_for(each, there, snapshot.now_s)
        due = snapshot.now_s >= begins_s(snapshot, order, there, policy)
        if due and in_the_way(snapshot, order) is None:
            found.append(Open(order))
    return tuple(found)


def begins_s(snapshot: Snapshot, order: Drain, there: Window, policy: Policy) -> float:
    """When the drain has to begin to be done as the window opens: that all who are there now can
    move, and that who fits nowhere is told in time."""
    last_s = evacuate.notice_s(Tier.BASIC, policy)
    return there.opens_s - exodus.lead_s(snapshot, order, policy) - last_s


def in_force(snapshot: Snapshot, found: Maintenance) -> Drain | None:
    return next((d for d in snapshot.drains if d.upkeep == found.id), None)


def in_the_way(snapshot: Snapshot, order: Drain) -> Drain | None:
    """Another drain of some of the same nodes: it stays in force, and this one waits for its end.
    Where it covers all of them they are empty anyway."""
    mine = snapshot.inside(order.scope)
    others = (d for d in snapshot.drains if d.upkeep != order.upkeep)
    return next((d for d in others if (mine & snapshot.inside(d.scope)).any()), None)
