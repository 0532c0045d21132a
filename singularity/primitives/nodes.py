"""Nodes, and the parts of the planet that have names. Frozen, comparable, free of I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NewType

from .health import WELL, Health
from .sharing import Part

NodeId = NewType("NodeId", str)
ClusterId = NewType("ClusterId", str)
RegionId = NewType("RegionId", str)


class ScopeKind(StrEnum):
    REGION = "region"
    CLUSTER = "cluster"
    NODE = "node"


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """A named part of the planet: where a drain applies or a job is confined to."""

    kind: ScopeKind
    id: str

    def holds(self, node: Node) -> bool:
        match self.kind:
            case ScopeKind.REGION:
                return node.region == self.id
            case ScopeKind.CLUSTER:
                return node.cluster == self.id
            case ScopeKind.NODE:
                return node.id == self.id


class Duty(IntEnum):
    """What an operator lets the scheduler do with a node."""

    READY = 0
    CORDONED = 1  # keeps what it runs, takes nothing new
    DRAINING = 2  # takes nothing new, and what it runs is moved away


@dataclass(frozen=True, slots=True)
class Node:
    """One machine with `devices` accelerators of one kind, of `memory_bytes` each; 0 where it gives
    out no shares of them. Where it `preempts`, real-time shares can be had; where devices are not
    `whole`, nothing but shares.

    `used` are the devices that nobody else can have as a whole: those taken, and those of which
    there are `parts`, in order, given out in shares.
    `epoch` counts admissions; `seq` is the last letter written to the node in this epoch.
    Together they order everything we ever say to it. `heard_s` is the database's time.
    `failures` counts how often it was lost, or came back without its ranks, since `known_s`.
    """

    id: NodeId
    region: RegionId
    cluster: ClusterId
    device: str
    devices: int
    used: int = 0
    duty: Duty = Duty.READY
    lost: bool = False
    heard_s: float = 0.0
    epoch: int = 0
    seq: int = 0
    address: str = ""
    known_s: float = 0.0
    failures: int = 0
    rack: str = ""  # of its cluster
    health: Health = WELL
    memory_bytes: int = 0
    preempts: bool = False
    whole: bool = True
    parts: tuple[Part, ...] = ()

    @property
    def ready(self) -> bool:
        """May new work be placed here?"""
        open_to = self.epoch > 0 and not self.lost and self.duty is Duty.READY
        return open_to and self.health.quarantine is None

    @property
    def draining(self) -> bool:
        """Is what runs here to leave?"""
        kept_away = self.health.quarantine
        return self.duty is Duty.DRAINING or (kept_away is not None and kept_away.drains)
