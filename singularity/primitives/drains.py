"""An operator's order that everything leaves a part of the planet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from .errors import Conflict
from .nodes import Duty, Node, NodeId, Scope
from .records import replace


class Leaving(StrEnum):
    """What happens to jobs that a drain finds.

    migrate           they move; what fits nowhere stays where it is until the deadline is near
    suspend           what fits nowhere is suspended at once, and goes on where room comes free
    stop-basic-first  so is all that is basic, that the rest may have the room
    """

    MIGRATE = "migrate"
    SUSPEND = "suspend"
    BASIC_FIRST = "stop-basic-first"


@dataclass(frozen=True, slots=True, order=True)
class Drain:
    """In force from `at_s` until it is undone, or until `until_s`. `moves_most` bounds how many of
    its jobs are on their way at a time, beside what the policy allows anybody; `paused`: none
    begins. `bytes_per_s` bounds what its moves carry: each takes up its share of that, and before
    `next_move_s` the next does not begin. `upkeep` is the maintenance that it makes room for.
    `cordoned` were it when the drain began, and are again when it ends."""

    id: str
    scope: Scope
    at_s: float = 0.0
    leaving: Leaving = Leaving.MIGRATE
    deadline_s: float | None = None
    moves_most: int | None = None
    paused: bool = False
    bytes_per_s: float | None = None
    next_move_s: float = 0.0
    until_s: float | None = None
    upkeep: str = ""
    cordoned: tuple[NodeId, ...] = ()


def standing(order: Drain, drains: Iterable[Drain], nodes: Iterable[Node]) -> Drain | None:
    """The one of `drains` that is the same as `order`, if there is one. Raises Conflict when one
    that is another covers some of the same nodes, for it could not be undone apart."""
    known = list(nodes)
    for other in drains:
        alike = replace(other, id=order.id, at_s=order.at_s, paused=order.paused)
        if replace(alike, next_move_s=order.next_move_s, cordoned=order.cordoned) == order:
            return other
        if any(other.scope.holds(n) and order.scope.holds(n) for n in known):
            place = f"{other.scope.kind}/{other.scope.id}"
            whose = f" for maintenance {other.upkeep}" if other.upkeep else ""
            detail = f"{place} is being drained by {other.id}{whose}; undo that first"
            raise Conflict(detail, drain=other.id, target=place)
    return None


def begun(order: Drain, nodes: Iterable[Node]) -> Drain:
    """The order as it comes into force over `nodes`."""
    found = sorted(n.id for n in nodes if order.scope.holds(n) and n.duty is Duty.CORDONED)
    return replace(order, cordoned=tuple(found))


def need_idle(node: Node, jobs: int, since_s: float) -> None:
    """Raises Conflict, saying what to do, where a node is still of use and may not be removed: it
    may get work, has `jobs`, or was heard of after `since_s`."""
    why = ""
    if not node.lost and node.duty is not Duty.DRAINING:
        why = f"may get work at any time; drain it first: singularity drain node/{node.id}"
    elif jobs:
        why = f"still has {jobs} jobs; wait until they have left: singularity drains --watch"
    elif not node.lost and node.heard_s > since_s:
        why = "is still heard of and would join again; stop its agent first"
    if why:
        raise Conflict(f"{node.id} {why}", node=node.id)


def booked(order: Drain, pace_s: float, now_s: float) -> Drain:
    """After a move began that takes up `pace_s` seconds of what the order may carry."""
    return replace(order, next_move_s=max(order.next_move_s, now_s) + pace_s)
