"""The planet as last heard of: told which rows changed, it gives the snapshot that one built from
all rows would be. Cost follows what changed; what did not is shared with the snapshot before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace

import numpy as np

from singularity.primitives.drains import Drain
from singularity.primitives.health import WELL
from singularity.primitives.holdings import Tally
from singularity.primitives.model import TERMINAL, Job, JobId
from singularity.primitives.nodes import Node, NodeId

from .lines import Lines
from .snapshot import Flags, Ints, Snapshot, frozen
from .steady import Steadies


class Resident:
    """Living jobs, those that living ones name, and nodes; and the last snapshot of them."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, Job] = {}
        self._ids: list[JobId] = []  # in order, with the jobs beside them
        self._todo: list[Job] = []
        self._named: Counter[JobId] = Counter()
        self._ended: set[JobId] = set()
        self._nodes: dict[NodeId, Node] = {}
        self._held, self._lines, self._steadies = Tally(), Lines(), Steadies()
        self._last: Snapshot | None = None
        self._fresh: set[NodeId] = set()  # nodes that are not in the last snapshot as they are
        self._moved = True  # jobs, the same

    def apply(self, nodes: Iterable[Node], jobs: Iterable[Job]) -> None:
        """Rows as they are now. One that has not changed may come again."""
        for node in nodes:
            if self._nodes.get(node.id) != node:
                self._nodes[node.id] = node
                self._fresh.add(node.id)
        for job in jobs:
            if self._jobs.get(job.id) != job:
                self._drop(job.id)
                self._add(job)
                self._moved = True

    def remove(self, nodes: Iterable[NodeId]) -> None:
        """Nodes that are no more."""
        for node in nodes:
            if self._nodes.pop(node, None) is not None:
                self._fresh.discard(node)
                self._last = None  # every row after it moves up

    @property
    def named(self) -> AbstractSet[JobId]:
        """Jobs that living ones name."""
        return self._named.keys()

    def let_go(self, jobs: Iterable[JobId]) -> None:
        """Jobs that have ended and that nobody names, without knowing more of them."""
        for job in jobs:
            self._moved = self._moved or job in self._jobs
            self._drop(job)

    def missing(self) -> set[JobId]:
        """Jobs that living ones name and that were never heard of. Some may not exist."""
        return {job for job in self._named if job not in self._jobs}

    def snapshot(
        self, now_s: float, drains: Iterable[Drain] = (), acknowledged_s: float = 0.0
    ) -> Snapshot:
        """As Snapshot.build of all rows. Raises AssertionError when the books do not balance."""
        if self._moved:
            self._forget()
        last = self._last
        if last is None or any(self._is_new(last, node) for node in self._fresh):
            nodes, jobs = self._nodes.values(), self._jobs.values()
            built = Snapshot.build(nodes, jobs, now_s, drains, acknowledged_s)
            self._last = self._known(built)
        else:
            told = tuple(sorted(drains, key=lambda d: d.id))
            last = replace(last, now_s=now_s, drains=told, acknowledged_s=acknowledged_s)
            if self._moved:
                by_id = dict(self._jobs)
                todo = tuple(self._todo)
                last = self._known(replace(last, jobs=todo, by_id=by_id))
            self._last = self._renewed(last) if self._fresh else last
        self._fresh, self._moved = set(), False
        return self._last

    # -- jobs ------------------------------------------------------------------------------------

    def _add(self, job: Job) -> None:
        self._jobs[job.id] = job
        at = bisect_left(self._ids, job.id)
        self._ids.insert(at, job.id)
        self._todo.insert(at, job)
        self._count(job, 1)

    def _drop(self, job_id: JobId) -> None:
        if (job := self._jobs.pop(job_id, None)) is not None:
            at = bisect_left(self._ids, job_id)
            del self._ids[at], self._todo[at]
            self._count(job, -1)

    def _count(self, job: Job, sign: int) -> None:
        """Add or take away what the job holds and whom it names."""
        self._fresh |= self._held.add(job, sign)  # their books are compared again
        self._lines.count(job, sign)
        self._steadies.count(job, sign)
        if job.state in TERMINAL:
            (self._ended.add if sign > 0 else self._ended.discard)(job.id)
            return
        for other in job.spec.named:
            self._named[other] += sign
            if not self._named[other]:
                del self._named[other]

    def _known(self, seen: Snapshot) -> Snapshot:
        """With what is known of its jobs."""
        lined = self._lines.of(seen.jobs)
        return replace(seen, lined=lined, steady=self._steadies.picture(seen.jobs, seen.row))

    def _forget(self) -> None:
        """Let go of jobs that have ended and that nobody names."""
        for job in sorted(self._ended):
            if job not in self._named:
                self._drop(job)

    # -- nodes -----------------------------------------------------------------------------------

    def _is_new(self, last: Snapshot, node_id: NodeId) -> bool:
        """Is it elsewhere, or something else, than it was?"""
        node = self._nodes[node_id]
        if node_id not in last.row:
            return True
        before = last.nodes[last.row[node_id]]
        return _place(node) != _place(before)

    def _renewed(self, last: Snapshot) -> Snapshot:
        """The snapshot with nodes as they are now, none of which is new."""
        changed = [self._nodes[node] for node in sorted(self._fresh)]
        assert all(self._held.balances(n) for n in changed), "the books do not balance"
        rows = np.array([last.row[n.id] for n in changed], dtype=np.int64)
        nodes = list(last.nodes)
        for row, node in zip(rows.tolist(), changed, strict=True):
            nodes[row] = node
        free = last.free.copy()
        free[rows] = [n.devices - n.used for n in changed]
        ready = _with(last.ready, rows, [n.ready for n in changed])
        failures, known_s = last.failures.copy(), last.known_s.copy()
        failures[rows] = [n.failures for n in changed]
        known_s[rows] = [n.known_s for n in changed]
        fleet = last.fleet.copy()
        fleet.put(rows, np.where((ready & last.whole)[rows], free[rows], 0))
        return replace(
            last,
            nodes=tuple(nodes),
            free=frozen(free),
            ready=ready,
            lost=_with(last.lost, rows, [n.lost for n in changed]),
            draining=_with(last.draining, rows, [n.draining for n in changed]),
            ailing=_with(last.ailing, rows, [n.health != WELL for n in changed]),
            failures=frozen(failures),
            known_s=frozen(known_s),
            fleet=fleet,
        )


def _place(node: Node) -> tuple[object, ...]:
    what = node.device, node.devices, node.memory_bytes, node.preempts, node.whole
    return node.region, node.cluster, node.rack, *what


def _with(flags: Flags, rows: Ints, now: list[bool]) -> Flags:
    found = flags.copy()
    found[rows] = now
    return frozen(found)
