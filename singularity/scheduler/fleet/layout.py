"""The order of nodes in which every rack, cluster and region of one device type is one range.

Rows are as the caller has them (in id order); positions are sorted by device type, region, cluster,
rack and row. Domains of all levels share one numbering, racks first, so that one count matrix
serves all. A domain holds one device type only: whoever needs another type needs another domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)


class Level(IntEnum):
    """How near to each other the nodes of a gang are. The values index Layout.of."""

    NODE = -1
    RACK = 0
    CLUSTER = 1
    REGION = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """order      int64[N]     position -> row
    position   int64[N]     row -> position
    of         int32[3, N]  by Level: position -> domain
    start, end int64[D]     the positions of a domain
    first      the number of the first domain of each Level, and the number of all
    region, cluster, device  int32[D]  the codes that the rows had; cluster is -1 for a region
    """

    order: Ints
    position: Ints
    of: Codes
    start: Ints
    end: Ints
    first: tuple[int, int, int, int]
    region: Codes
    cluster: Codes
    device: Codes

    def domains(self, level: Level) -> tuple[int, int]:
        """The numbers of the domains of `level`, from and up to. NODE has none of its own: a gang
        on one node is looked for in the domains of its cluster."""
        at = max(int(level), 0) if level is not Level.NODE else int(Level.CLUSTER)
        return self.first[at], self.first[at + 1]


def lay_out(region: Codes, cluster: Codes, device: Codes, rack: Codes | None = None) -> Layout:
    """Sort N rows with these codes, int32[N] each. Without `rack`, a cluster is one rack."""
    rows = len(region)
    if rack is None:
        rack = np.zeros(rows, dtype=np.int32)
    order = np.lexsort((np.arange(rows), rack, cluster, region, device)).astype(np.int64)
    position = np.empty(rows, dtype=np.int64)
    position[order] = np.arange(rows)
    keys = [k[order] for k in (device, region, cluster, rack)]
    of, starts, first = [], [], [0]
    for depth in (4, 3, 2):  # rack, cluster, region: each by the keys down to it
        new = np.zeros(rows, dtype=np.bool_)
        new[:1] = True
        for key in keys[:depth]:
            new[1:] |= key[1:] != key[:-1]
        of.append((np.cumsum(new) - 1 + first[-1]).astype(np.int32))
        starts.append(np.flatnonzero(new))
        first.append(first[-1] + len(starts[-1]))
    start = np.concatenate(starts).astype(np.int64)
    end = np.concatenate([np.append(s[1:], rows) for s in starts]).astype(np.int64)
    found = keys[2][start].astype(np.int32)
    found[first[2] :] = -1
    return Layout(
        order=_frozen(order),
        position=_frozen(position),
        of=_frozen(np.array(of, dtype=np.int32).reshape(3, rows)),
        start=_frozen(start),
        end=_frozen(end),
        first=(first[0], first[1], first[2], first[3]),
        region=_frozen(keys[1][start].astype(np.int32)),
        cluster=_frozen(found),
        device=_frozen(keys[0][start].astype(np.int32)),
    )


def _frozen(array: npt.NDArray[T]) -> npt.NDArray[T]:
    array.flags.writeable = False
    return array
