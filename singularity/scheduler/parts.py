"""Devices that are given out in shares: who is on them, what is left, and where one more does the
least damage (fleet/fragments.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Final

import numpy as np

from singularity.primitives.holdings import spots
from singularity.primitives.model import TERMINAL, Job, JobId, Placement
from singularity.primitives.nodes import NodeId
from singularity.primitives.sharing import WHOLE_MILLI, DeviceShare

from .fleet.fragments import Demand, Mix, States, balance, mix_of, rate
from .snapshot import Snapshot

_HOST: Final = (1 << 20, 1 << 20)  # shares reserve nothing of the host
_NEW: Final = -1  # a device that is free as a whole
_KINDS: Final = 63  # a bit for each in a Demand
_State = tuple[tuple[int, int], ...]  # milli and bytes left of each device of a node


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a device that is given out in shares already, by its number."""

    index: int
    compute_milli: int
    memory_bytes: int

    def holds(self, share: DeviceShare) -> bool:
        return self.compute_milli >= share.compute_milli and self.memory_bytes >= share.memory_bytes


class Parts:
    """By row of the snapshot, as a plan that is being written leaves them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._on: dict[int, dict[int, dict[JobId, DeviceShare]]] = {}
        self._going: set[tuple[int, int, JobId]] = set()
        self._rated: dict[tuple[_State, int, DeviceShare], tuple[int, int]] = {}
        for job in snapshot.astir:
            if job.spec.share is not None:
                for node, indices in spots(job).items():
                    self._put(node, indices, job)

    @property
    def rows(self) -> list[int]:
        """Of nodes with such devices, in order."""
        return sorted(self._on)

    def neighbours(self, node: NodeId, index: int, of: Job) -> list[str]:
        """The other jobs that have or will have shares of a device: by name, in order, those of its
        project; the names of others are none of its owner's business."""
        jobs = self._on.get(self._snapshot.row[node], {}).get(index, {})
        specs = [self._snapshot.by_id[j].spec for j in jobs if j != of.id]
        found = sorted(s.name for s in specs if s.project == of.spec.project)
        others = len(specs) - len(found)
        return [*found, *([f"{others} of other projects"] if others else [])]

    def take(self, job: Job, placement: Placement) -> tuple[Counter[NodeId], Counter[NodeId]]:
        """Give the job its shares there; by node, the devices that were whole until now, and those
        that would have become whole, for all who are on them leave."""
        opened, kept = Counter[NodeId](), Counter[NodeId]()
        for shard in placement:
            row = self._snapshot.row[shard.node]
            known = self._on.get(row, {})
            for index in shard.indices:
                if index not in known:
                    opened[shard.node] += 1
                elif not self._others(row, index, (), soon=True):
                    kept[shard.node] += 1
            self._put(shard.node, shard.indices, job)
        return opened, kept

    def leave(self, job: Job, target: Placement) -> Counter[NodeId]:
        """The job is about to give up its shares for those in `target`; the devices that will be
        whole again by that, by node."""
        kept = {(s.node, index) for s in target for index in s.indices}
        found: Counter[NodeId] = Counter()
        for shard in job.placement:
            row = self._snapshot.row[shard.node]
            for index in shard.indices:
                if (shard.node, index) not in kept:
                    before = self._others(row, index, (), soon=True)
                    self._going.add((row, index, job.id))
                    after = self._others(row, index, (), soon=True)
                    found[shard.node] += bool(before) and not after
        return found

    def emptied(self, jobs: Collection[JobId], *, soon: bool) -> Counter[NodeId]:
        """Devices with nobody on them but these jobs and (`soon`) those that leave anyway."""
        found: Counter[NodeId] = Counter()
        for row in self.rows:
            for index in self._on[row]:
                if not self._others(row, index, jobs, soon=soon):
                    found[self._snapshot.nodes[row].id] += 1
        return found

    def left(self, row: int, jobs: Collection[JobId], *, soon: bool) -> list[Left]:
        """What the devices of a node have left for others when these jobs, and (`soon`) those that
        leave, have gone; without devices that are whole again then."""
        found = []
        for index in sorted(self._on.get(row, {})):
            if others := self._others(row, index, jobs, soon=soon):
                compute = WHOLE_MILLI - sum(s.compute_milli for s in others)
                memory = int(self._snapshot.memory[row]) - sum(s.memory_bytes for s in others)
                found.append(Left(index, compute, memory))
        return found

    def best(
        self, row: int, whole: int, left: Iterable[Left], share: DeviceShare
    ) -> tuple[int, int]:
        """How good the best device of a node is for one more share, the more the better; and its
        number, that of the first unused one where it is best to begin another. `whole` are free."""
        parts = sorted(left, key=lambda p: (p.compute_milli, p.memory_bytes, p.index))
        taken = int(self._snapshot.total[row]) - whole - len(parts)
        assert taken >= 0, (row, whole, parts)
        memory = int(self._snapshot.memory[row])
        new = [(WHOLE_MILLI, memory)] * whole
        state = (*((0, 0),) * taken, *((p.compute_milli, p.memory_bytes) for p in parts), *new)
        kind = int(self._snapshot.device[row]) % _KINDS
        if (known := self._rated.get((state, kind, share))) is None:
            known = self._rated[state, kind, share] = _rate(state, kind, share, self._mix)
        score, at = known[0], known[1] - taken
        return score, parts[at].index if 0 <= at < len(parts) else _NEW

    def settle(
        self, row: int, whole: int, left: Sequence[Left], share: DeviceShare, ranks: int
    ) -> tuple[int, ...]:
        """Devices of a node for so many ranks, each another, by their numbers; there must be so
        many with room."""
        found: list[int] = []
        known, rest = {p.index for p in left}, list(left)
        for _ in range(ranks):
            _, index = self.best(row, whole, rest, share)
            if index == _NEW:
                index = next(i for i in count() if i not in known and i not in found)
                whole -= 1
            rest = [p for p in rest if p.index != index]
            found.append(index)
        return tuple(found)

    @cached_property
    def _mix(self) -> Mix:
        """Typical work: what all jobs that have not ended ask of one node."""
        codes = {name: i % _KINDS for i, name in enumerate(self._snapshot.device_names)}
        demands = []
        for job in self._snapshot.jobs:
            spec = job.spec
            if job.state in TERMINAL or spec.device not in codes:
                continue
            kinds = 1 << codes[spec.device]
            if spec.share is not None:
                asked = spec.share.compute_milli, spec.share.memory_bytes
                demands.append(Demand(0, 0, 1, *asked, kinds))
            else:
                unit = max(1, spec.devices // spec.ranks)
                demands.append(Demand(0, 0, unit, WHOLE_MILLI, 0, kinds))
        return mix_of(demands or [Demand(0, 0, 1, WHOLE_MILLI, 0, 1)])

    def _others(
        self, row: int, index: int, jobs: Collection[JobId], *, soon: bool
    ) -> list[DeviceShare]:
        on = self._on[row][index].items()
        gone = self._going if soon else ()
        return [s for j, s in on if j not in jobs and (row, index, j) not in gone]

    def _put(self, node: NodeId, indices: Iterable[int], job: Job) -> None:
        assert job.spec.share is not None
        devices = self._on.setdefault(self._snapshot.row[node], {})
        for index in indices:
            devices.setdefault(index, {})[job.id] = job.spec.share


def _rate(state: _State, kind: int, share: DeviceShare, mix: Mix) -> tuple[int, int]:
    """The score of a node in this state for one more share, and which of its devices is best."""
    compute, memory = zip(*state, strict=True)
    states = States(
        np.array([_HOST], dtype=np.int64),
        np.array([compute], dtype=np.int64),
        np.array([memory], dtype=np.int64),
        np.array([len(state)], dtype=np.int64),
        np.array([kind], dtype=np.int64),
    )
    wanted = Demand(0, 0, 1, share.compute_milli, share.memory_bytes, 1 << kind)
    return rate(states, 0, wanted, mix, balance())
