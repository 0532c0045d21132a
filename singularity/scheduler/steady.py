"""Jobs that run as their owners want them. Unless somebody wants their devices, or their nodes are
to be left, nothing is to be found of them but that a checkpoint is due, and that is looked up for
all of them at once. Kept as jobs come and go; a property test holds it to looking at each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from singularity.primitives.engines import keeps_nothing
from singularity.primitives.model import Intent, Job, JobId, JobState
from singularity.primitives.nodes import NodeId

from .interval import last_s
from .lines import ById, stands
from .policy import Policy

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_NEARLY: Final = 1.0 - 1e-9  # sums are rounded otherwise here than where one job is looked at
_NOWHERE: Final = -1  # the row of a place that nobody has


def steady(job: Job) -> bool:
    """Is there nothing in it that a pass looks for, at any time?"""
    spec = job.spec
    if job.state is not JobState.RUNNING or job.intent is not Intent.RUN:
        return False
    special = spec.aside or spec.serving or spec.share or spec.topology.apart
    asked = job.confine or job.checkpoint_wanted or job.back_to or spec.max_duration_s
    gives = job.taken or job.loans or job.leaving_at_s is not None
    passing = job.target or job.resizing or job.dumping or job.exited
    return not (special or asked or gives or passing) and job.held == job.devices


@dataclass(frozen=True, slots=True, eq=False)
class Steady:
    """Of exactly the jobs `of`: the steady ones, by slots, and those `astir`, by id, which are the
    others without those that stand in lines.

    last_s, wish_s, pause_s  float64[S]  when the last checkpoint ended, what its owner wants from
                             there to the next (inf: none, nan: nothing), what one costs (nan:
                             unknown); by slot, of which some are nobody's
    slot, row                int64[P]  each node of each of them
    """

    of: tuple[Job, ...]
    astir: tuple[Job, ...]
    jobs: tuple[Job | None, ...]
    last_s: _Floats
    wish_s: _Floats
    pause_s: _Floats
    slot: _Ints
    row: _Ints

    def due(self, failures: _Ints, known_s: _Floats, now_s: float, policy: Policy) -> list[Job]:
        """All of which a checkpoint may be due, and hardly any other, as interval.is_due has it.
        `failures` and `known_s` by row of the snapshot."""
        rates = (1.0 + failures) / (policy.node_mtbf_s + np.maximum(0.0, now_s - known_s))
        rates = np.append(rates, 0.0)  # nowhere nothing fails
        rate = np.bincount(self.slot, weights=rates[self.row], minlength=len(self.jobs))
        cost_s = np.where(np.isnan(self.pause_s), policy.checkpoint_cost_s, self.pause_s)
        with np.errstate(divide="ignore", invalid="ignore"):
            best_s = np.where(cost_s > 0.0, np.sqrt(2.0 * cost_s / rate), 0.0)
        best_s = np.clip(best_s, policy.checkpoint_least_s, policy.checkpoint_most_s)
        every_s = np.where(np.isnan(self.wish_s), best_s, self.wish_s)
        found = (self.jobs[i] for i in np.flatnonzero(now_s - self.last_s >= every_s * _NEARLY))
        return [job for job in found if job is not None]


class Steadies:
    """Told of each job as it comes and goes."""

    def __init__(self) -> None:
        self._astir = ById()
        self._changed: dict[JobId, Job | None] = {}  # since the last picture
        self._begin({})

    def count(self, job: Job, sign: int) -> None:
        """It is there now (1), or as it was not any more (-1)."""
        if steady(job):
            self._changed[job.id] = job if sign > 0 else None
        elif not stands(job):
            self._astir.count(job, sign)

    def picture(self, jobs: tuple[Job, ...], row: Mapping[NodeId, int]) -> Steady:
        """Of the jobs that were counted, which are these, on nodes in these rows."""
        if row is not self._row:
            known: dict[JobId, Job | None] = {job.id: job for job in self._jobs if job is not None}
            self._changed = known | self._changed
            self._begin(row)
        for job_id, job in self._changed.items():
            if job_id in self._at:
                self._remove(job_id)
            if job is not None:
                self._put(job)
        self._changed = {}
        size, spots = len(self._jobs), self._places
        return Steady(
            of=jobs,
            astir=tuple(self._astir.jobs),
            jobs=tuple(self._jobs),
            last_s=self._last_s[:size].copy(),
            wish_s=self._wish_s[:size].copy(),
            pause_s=self._pause_s[:size].copy(),
            slot=self._slot[:spots].copy(),
            row=self._rows[:spots].copy(),
        )

    def _begin(self, row: Mapping[NodeId, int]) -> None:
        """With nobody."""
        self._row = row
        self._jobs: list[Job | None] = []
        self._at: dict[JobId, int] = {}
        self._spots: dict[int, list[int]] = {}  # of slots: where in `_rows` its nodes are
        self._free_slots, self._free_spots, self._places = list[int](), list[int](), 0
        self._last_s, self._wish_s, self._pause_s = (np.empty(64) for _ in range(3))
        self._slot, self._rows = (np.empty(64, dtype=np.int64) for _ in range(2))

    def _put(self, job: Job) -> None:
        if self._free_slots:
            slot = self._free_slots.pop()
        else:
            slot = len(self._jobs)
            self._jobs.append(None)
            if slot == len(self._last_s):
                arrays = self._last_s, self._wish_s, self._pause_s
                self._last_s, self._wish_s, self._pause_s = (np.resize(a, 2 * slot) for a in arrays)
        self._jobs[slot], self._at[job.id] = job, slot
        self._last_s[slot] = last_s(job)
        self._wish_s[slot] = _wish_s(job)
        self._pause_s[slot] = math.nan if job.pause_s is None else job.pause_s
        spots = self._spots[slot] = []
        for node in dict.fromkeys(shard.node for shard in job.placement):
            spots.append(self._spot())
            self._slot[spots[-1]], self._rows[spots[-1]] = slot, self._row[node]

    def _spot(self) -> int:
        if self._free_spots:
            return self._free_spots.pop()
        self._places += 1
        if self._places > len(self._rows):
            self._slot, self._rows = (np.resize(a, 2 * len(a)) for a in (self._slot, self._rows))
        return self._places - 1

    def _remove(self, job: JobId) -> None:
        slot = self._at.pop(job)
        self._jobs[slot], self._last_s[slot] = None, math.inf
        spots = self._spots.pop(slot)
        self._rows[spots] = _NOWHERE
        self._free_slots.append(slot)
        self._free_spots += spots


def _wish_s(job: Job) -> float:
    wish_s = job.spec.checkpoint_every_s
    if keeps_nothing(job) or wish_s == 0.0:
        return math.inf
    return math.nan if wish_s is None else wish_s
