"""Parts of devices: where one more does the least damage.

Nodes in the same state are judged once. A state is the kind of a node and all that is left of it,
its devices in order of what is left of them; scores are kept by state and demand until no node is
in that state any more. Of equal scores the first node wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from importlib import import_module
from typing import Final

import numpy as np

from .fragments import NOWHERE, WHOLE, Demand, Mix, Scale, States, rate
from .layout import Ints

Rater = Callable[[States, Ints, Demand, Mix, Scale], tuple[Ints, Ints]]
_UNKNOWN: Final = NOWHERE - 1


def rate_plainly(
    states: States, rows: Ints, demand: Demand, mix: Mix, scale: Scale
) -> tuple[Ints, Ints]:
    found = [rate(states, int(row), demand, mix, scale) for row in rows]
    return (
        np.array([f[0] for f in found], dtype=np.int64),
        np.array([f[1] for f in found], dtype=np.int64),
    )


@cache
def rater() -> Rater:
    """Compiled where numba is installed and can keep what it compiles."""
    try:
        found = import_module("singularity.scheduler.fleet.sharekernels")
    except (ModuleNotFoundError, RuntimeError):
        return rate_plainly
    compiled: Rater = found.rate_all
    return compiled


@dataclass(frozen=True, slots=True)
class Host:
    """A node as it was bought: devices of one `kind`, a number from 0 to 62."""

    cpu_milli: int
    memory_mib: int
    devices: int
    kind: int


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a demand lies: the devices of a node, by their numbers there."""

    node: int
    devices: tuple[int, ...]
    demand: Demand


class Shares:
    """What is left of N nodes. Work is given a spot and gives it back; nothing is moved."""

    def __init__(
        self, hosts: Sequence[Host], mix: Mix, scale: Scale, by: Rater | None = None
    ) -> None:
        widest = max((h.devices for h in hosts), default=1) or 1
        self.host = np.array([(h.cpu_milli, h.memory_mib) for h in hosts], dtype=np.int64)
        self.width = np.array([h.devices for h in hosts], dtype=np.int64)
        self.kind = np.array([h.kind for h in hosts], dtype=np.int64)
        there = np.arange(widest)[None, :] < self.width[:, None]
        self.compute: Ints = np.where(there, WHOLE, 0).astype(np.int64)
        self.memory = self.compute.copy()
        self._mix, self._scale, self._by = mix, scale, by or rater()
        size = len(hosts)  # there are never more states than nodes
        self._states = States(
            np.zeros((size, 2), dtype=np.int64),
            np.zeros((size, widest), dtype=np.int64),
            np.zeros((size, widest), dtype=np.int64),
            np.zeros(size, dtype=np.int64),
            np.zeros(size, dtype=np.int64),
        )
        self._known: dict[bytes, int] = {}
        self._key: list[bytes] = [b""] * size
        self._members: list[list[int]] = [[] for _ in range(size)]
        self._count = np.zeros(size, dtype=np.int64)
        self._spare = list(range(size - 1, -1, -1))
        self._used = 0  # states from here on were never used
        self._state = np.full(size, -1, dtype=np.int64)
        self._asked: dict[Demand, int] = {}
        self._scores = np.full((8, size), _UNKNOWN)
        self._devices = np.zeros((8, size), dtype=np.int64)
        for node in range(size):
            self._enter(node)

    @property
    def states(self) -> int:
        """How many different states nodes are in."""
        return len(self._known)

    def find(self, demand: Demand) -> Spot | None:
        """The best spot, None if there is none. Nothing is taken."""
        scores, devices = self._rated(demand)
        best = int(scores.max(initial=_UNKNOWN))
        if best <= NOWHERE:
            return None
        node, state = min((self._first(int(s)), int(s)) for s in np.flatnonzero(scores == best))
        return Spot(node, self._chosen(node, int(devices[state]), demand), demand)

    def take(self, spot: Spot) -> None:
        self._change(spot, -1)

    def give(self, spot: Spot) -> None:
        self._change(spot, 1)

    def _change(self, spot: Spot, sign: int) -> None:
        node, demand, chosen = spot.node, spot.demand, list(spot.devices)
        self._leave(node)
        self.host[node] += (sign * demand.cpu_milli, sign * demand.memory_mib)
        self.compute[node, chosen] += sign * demand.compute
        self.memory[node, chosen] += sign * demand.memory
        left = self.host[node].min(), self.compute[node].min(), self.memory[node].min()
        assert min(left) >= 0, spot
        self._enter(node)

    # -- states ----------------------------------------------------------------------------------

    def _order(self, node: int) -> Ints:
        """The devices of the node, those with least left first."""
        width = int(self.width[node])
        return np.lexsort((self.memory[node, :width], self.compute[node, :width]))

    def _enter(self, node: int) -> None:
        order, width = self._order(node), int(self.width[node])
        compute, memory = self.compute[node, order], self.memory[node, order]
        head = np.array((self.kind[node], width, *self.host[node]), dtype=np.int64)
        key = head.tobytes() + compute.tobytes() + memory.tobytes()
        state = self._known.get(key)
        if state is None:
            state = self._known[key] = self._spare.pop()
            self._used = max(self._used, state + 1)
            self._key[state] = key
            self._states.host[state] = self.host[node]
            self._states.compute[state, :width] = compute
            self._states.memory[state, :width] = memory
            self._states.width[state], self._states.kind[state] = width, self.kind[node]
        self._state[node] = state
        self._count[state] += 1
        heappush(self._members[state], node)

    def _leave(self, node: int) -> None:
        state = int(self._state[node])
        self._state[node] = -1
        self._count[state] -= 1
        if self._count[state] == 0:
            del self._known[self._key[state]]
            self._members[state].clear()
            self._spare.append(state)
            self._scores[:, state] = _UNKNOWN

    def _first(self, state: int) -> int:
        members = self._members[state]
        while self._state[members[0]] != state:
            heappop(members)
        return members[0]

    # -- scores ----------------------------------------------------------------------------------

    def _rated(self, demand: Demand) -> tuple[Ints, Ints]:
        """Scores and first devices by state; states that no node is in have _UNKNOWN."""
        number = self._asked.setdefault(demand, len(self._asked))
        if number == len(self._scores):
            self._scores = np.vstack((self._scores, np.full_like(self._scores, _UNKNOWN)))
            self._devices = np.vstack((self._devices, np.zeros_like(self._devices)))
        scores = self._scores[number, : self._used]
        devices = self._devices[number, : self._used]
        rows = np.flatnonzero((scores == _UNKNOWN) & (self._count[: self._used] > 0))
        if len(rows):
            scores[rows], devices[rows] = self._by(
                self._states, rows, demand, self._mix, self._scale
            )
        return scores, devices

    def _chosen(self, node: int, first: int, demand: Demand) -> tuple[int, ...]:
        """The devices by their numbers on the node, from the first in order of what is left."""
        if not demand.devices:
            return ()
        order = self._order(node)[first:]
        fits = (self.compute[node, order] >= demand.compute) & (
            self.memory[node, order] >= demand.memory
        )
        return tuple(sorted(int(d) for d in order[fits][: demand.devices]))
