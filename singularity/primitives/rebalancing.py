"""An operator's order to move jobs together, so that whole nodes come free."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import Conflict
from .nodes import Scope


@dataclass(frozen=True, slots=True, order=True)
class Rebalancing:
    """In force until nothing is gained any more, and no longer than `until_s`. `scope` None is the
    whole planet."""

    id: str
    at_s: float
    until_s: float
    scope: Scope | None = None


def need_none(found: Rebalancing | None) -> None:
    """Raises Conflict when there is one in force: two would undo each other's moves."""
    if found is not None:
        detail = f"{found.id} is in force; wait until it is done, or stop it first"
        raise Conflict(detail, rebalance=found.id)
