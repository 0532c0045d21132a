"""How the nodes of one job may lie to each other, and to those of others."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Near(StrEnum):
    """Parts of a cluster, the smaller first."""

    NODE = "node"
    RACK = "rack"


@dataclass(frozen=True, slots=True)
class Topology:
    """A gang never leaves its cluster; this says more.

    same_rack  nor its rack
    prefer     it is put on one node, or into one rack, where one has room for all of it
    spread     it is put on as many nodes, or into as many racks, as evenly as there is room for
    apart      the name of a group in its project, no two of which are ever put on one node
    """

    same_rack: bool = False
    prefer: Near | None = None
    spread: Near | None = None
    apart: str = ""
