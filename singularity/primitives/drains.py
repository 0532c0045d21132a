"""An operator's order that everything leaves a part of the planet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from .errors import Conflict
from .model import Node, Scope


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
    """In force from `at_s` until it is undone. `moves_most` bounds how many of its jobs are on
    their way at a time, beside what the policy allows anybody; `paused`: none begins."""

    id: str
    scope: Scope
    at_s: float = 0.0
    leaving: Leaving = Leaving.MIGRATE
    deadline_s: float | None = None
    moves_most: int | None = None
    paused: bool = False


def standing(order: Drain, drains: Iterable[Drain], nodes: Iterable[Node]) -> Drain | None:
    """The one of `drains` that is the same as `order`, if there is one. Raises Conflict when one
    that is another covers some of the same nodes, for it could not be undone apart."""
    known = list(nodes)
    for other in drains:
        if replace(other, id=order.id, at_s=order.at_s, paused=order.paused) == order:
            return other
        if any(other.scope.holds(n) and order.scope.holds(n) for n in known):
            place = f"{other.scope.kind}/{other.scope.id}"
            detail = f"{place} is being drained by {other.id}; undo that first"
            raise Conflict(detail, drain=other.id, target=place)
    return None
