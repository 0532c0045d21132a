"""The timeline: a row for each life of a job, written as it begins, runs, is resized and ends.

One transaction's changes are collected and written together; what happens to one life twice in it
becomes one row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, select

from singularity.primitives.messages import Report
from singularity.primitives.model import Job, JobId
from singularity.primitives.nodes import Node, NodeId

from . import tables as t
from .bulk import Json, Writes, among
from .story import end_of, resized, with_seconds

_Life = tuple[JobId, int]
_KEY = ("job", "incarnation")


class Lives:
    """What changed of them. Only who has locked a job's row says anything of its lives."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._new: dict[_Life, Json] = {}
        self._changed: dict[_Life, Json] = {}
        self._resizes: list[tuple[_Life, Json]] = []
        self._reports: list[Report] = []

    def tell(
        self, before: Job, after: Job, reason: str, nodes: Mapping[NodeId, Node], now_s: float
    ) -> None:
        """One step of a job."""
        if (end := end_of(before, after, nodes, now_s)) is not None:
            ended = {"ended_at_s": now_s, "end": end.end, "step_to": end.step, "lost_s": end.lost_s}
            self._change((after.id, end.incarnation), ended)
        life = after.id, after.incarnation
        if after.incarnation > before.incarnation:
            self._new[life] = _begun(after, reason, nodes, now_s)
        if after.running_at_s is not None and after.running_at_s != before.running_at_s:
            self._change(life, {"running_at_s": after.running_at_s})
        if resized(before, after):
            took_s = now_s - before.resize_at_s
            step = {"at_s": now_s, "devices": after.held, "seconds": took_s}
            self._resizes.append((life, step | {"reason": before.message}))

    def timed(self, report: Report) -> None:
        """Of a report that tells seconds: they belong to the life that it is about."""
        self._reports.append(report)

    def flush(self, writes: Writes) -> None:
        self._add_seconds()
        for life in self._new.keys() & self._changed.keys():
            self._new[life] |= self._changed.pop(life)
        writes.insert(t.incarnation, list(self._new.values()))
        alike: defaultdict[tuple[str, ...], list[Json]] = defaultdict(list)
        for (job, incarnation), change in self._changed.items():
            alike[tuple(sorted(change))].append({"job": job, "incarnation": incarnation, **change})
        for rows in alike.values():
            writes.update(t.incarnation, _KEY, rows)
        grown = [{"job": j, "incarnation": n, "resizes": [step]} for (j, n), step in self._resizes]
        for row in grown:  # one life may have been resized twice
            writes.run(_RESIZED, t.incarnation, [row])
        self._new, self._changed, self._resizes = {}, {}, []

    def _change(self, life: _Life, what: Json) -> None:
        self._changed[life] = self._changed.get(life, {}) | what

    def _add_seconds(self) -> None:
        """To what earlier reports of the same lives told."""
        if not self._reports:
            return
        row = t.incarnation.c
        jobs, lives = {r.job for r in self._reports}, {r.incarnation for r in self._reports}
        mine = among(row.job, jobs) & among(row.incarnation, lives)
        query = select(row.job, row.incarnation, row.seconds).where(mine)
        known = {(JobId(job), n): seconds for job, n, seconds in self._db.execute(query)}
        for report in self._reports:
            life = report.job, report.incarnation
            known[life] = with_seconds(known.get(life) or {}, report)
            self._change(life, {"seconds": known[life]})
        self._reports = []


_RESIZED: Final = """
UPDATE incarnation AS old SET resizes = old.resizes || new.resizes::jsonb
FROM {new} WHERE old.job = new.job AND old.incarnation = new.incarnation"""


def _begun(job: Job, reason: str, nodes: Mapping[NodeId, Node], now_s: float) -> Json:
    first = nodes[job.placement[0].node]
    return {
        "job": job.id,
        "incarnation": job.incarnation,
        "region": first.region,
        "cluster": first.cluster,
        "nodes": [s.node for s in job.placement],
        "devices": job.held,
        "step_from": job.origin.step if job.origin else 0,
        "step_to": None,
        "placed_at_s": now_s,
        "running_at_s": None,
        "ended_at_s": None,
        "reason": reason or job.message,
        "end": None,
        "lost_s": None,
        "seconds": {},
        "resizes": [],
    }
