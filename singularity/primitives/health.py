"""How a node has been: what went wrong on it lately, and whether that keeps work away. Frozen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    LOST = "lost"  # it fell silent, or came back without its ranks
    RANKS = "ranks"  # ranks died there, and not by an exit of their own
    START = "start"
    RESTORE = "restore"
    DUMP = "dump"


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Something that went wrong on a node; `job` with which one, "" where it was with none."""

    at_s: float
    kind: FaultKind
    job: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Nothing new is placed on the node until `until_s`, or, with None, until an operator releases
    it. `drains`: what runs there leaves as well."""

    since_s: float
    until_s: float | None
    reason: str
    drains: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """`faults` are the last ones, oldest first; those until `forgiven_s` count no more. `sick` are
    devices that the node finds unwell, each with the reason. `times` it was quarantined in a row.
    """

    faults: tuple[Fault, ...] = ()
    sick: tuple[str, ...] = ()
    quarantine: Quarantine | None = None
    times: int = 0
    forgiven_s: float = 0.0


WELL = Health()
