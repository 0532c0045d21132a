"""What a round wants done to facts, beside what it does to jobs: the next one finds it so."""

from __future__ import annotations

from dataclasses import dataclass, replace

from singularity.primitives import faults
from singularity.primitives.drains import Drain
from singularity.primitives.health import Quarantine
from singularity.primitives.nodes import Node, NodeId


@dataclass(frozen=True, slots=True)
class Isolate:
    """Quarantine a node that is not quarantined."""

    node: NodeId
    quarantine: Quarantine

    @property
    def reason(self) -> str:
        return self.quarantine.reason


@dataclass(frozen=True, slots=True)
class Readmit:
    """Let a node whose quarantine began at `since_s` take work again."""

    node: NodeId
    since_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Open:
    """Put a drain in force."""

    drain: Drain


@dataclass(frozen=True, slots=True)
class Close:
    """End a drain that has had its time."""

    drain: str
    reason: str


@dataclass(frozen=True, slots=True)
class Settle:
    """End a rebalancing."""

    rebalancing: str
    reason: str


Order = Isolate | Readmit | Open | Close | Settle


def judged(node: Node, order: Isolate | Readmit, now_s: float) -> Node:
    """The node after the order; as it is where the order is out of date."""
    there = node.health.quarantine
    match order:
        case Isolate() if there is None:
            return replace(node, health=faults.isolated(node.health, order.quarantine))
        case Readmit() if there is not None and there.since_s == order.since_s:
            return replace(node, health=faults.readmitted(node.health, now_s))
    return node
