"""The part of the ledger that folds in what agents report."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from singularity.primitives import verbs
from singularity.primitives.errors import SingularityError
from singularity.primitives.faults import fault_of, noted
from singularity.primitives.holdings import hosts
from singularity.primitives.messages import Report
from singularity.primitives.model import ACTIVE, Job, JobId, JobState
from singularity.primitives.nodes import NodeId

from .books import Books, End, jobs_from, locking, nodes_from, these_jobs
from .bulk import begun
from .locks import jobs_of, lock_jobs, lock_nodes, locked_hosts
from .projects import locked_projects, projects_from

log = logging.getLogger(__name__)
_Jobs = Mapping[JobId, Job]


class SqlReports:
    """Of several reports in one transaction, each is folded in as it would be by itself."""

    _engine: Engine

    def record(self, report: Report, now_s: float) -> bool:
        """Fold one report in. True when the node need not repeat it."""
        return self._record([report], now_s, news=False)[0]

    def record_many(
        self, reports: Sequence[Report], now_s: float, *, news: bool = False
    ) -> list[bool]:
        """As each by itself, in their order, in one transaction. One that cannot be folded in is
        left out, with a line in the log, and harms no other. With `news` they are probably new.
        The loops are woken where anything has changed.

        Rows are free again when it is written, and not only when it is on the disk: whoever tells
        nodes that it is waits for database.synced() first.
        """
        try:
            return self._record(reports, now_s, news=news)
        except (AssertionError, IntegrityError, SingularityError):
            if len(reports) > 1:
                return [self.record_many([each], now_s)[0] for each in reports]
            log.exception("report", extra={"job": reports[0].job, "node": reports[0].node})
            return [False]

    def _record(self, reports: Sequence[Report], now_s: float, *, news: bool) -> list[bool]:
        known = self._fold_news(reports, now_s) if news else None
        if known is None:  # most of them are no news, or other jobs must be locked as well
            known = self._fold_changes(reports, now_s)
        return [verbs.settled(known.get(r.job), r) for r in reports]

    def _fold_news(self, reports: Sequence[Report], now_s: float) -> _Jobs | None:
        """The jobs since. All that may be wanted is locked by one message, and what follows from it
        is written by another; None, and nothing is done, where more must be locked."""
        told = {r.job for r in reports}
        moving = {r.job for r in reports if not _only_runs(r)}
        asked = [locking(these_jobs(told), "s")]
        if moving:
            asked += [locked_hosts(moving), locked_projects(moving)]
        with begun(self._engine, *asked) as (db, (of_jobs, *held)):
            known = jobs_from(of_jobs)
            if any(job.spec.aside for job in known.values()):
                return None
            nodes = nodes_from(held[0]) if held else {}
            projects = projects_from(held[1], ()) if held else ()
            there = {n for r in reports if r.job in known for n in _moves(known[r.job], r)}
            if missing := there - nodes.keys():
                nodes |= lock_nodes(db, missing)
            books = Books(db, known, nodes, projects)
            return _folded(books, reports, now_s, End(synced=False, rings=True))

    def _fold_changes(self, reports: Sequence[Report], now_s: float) -> _Jobs:
        """The same of reports of which most repeat what is known: those are seen without a lock,
        and change nothing."""
        told = {r.job for r in reports}
        with self._engine.begin() as db:
            known = jobs_of(db, told)
            moved = {r.job for r in reports if _changes(known.get(r.job), r, now_s)}
            if not moved:
                return known
            about = {a.of for job in moved if (a := known[job].spec.aside)}
            known |= lock_jobs(db, moved | about)
            mine = [r for r in reports if r.job in moved]
            nodes = lock_nodes(db, {n for r in mine for n in hosts(known[r.job])})
            return {**known, **_folded(Books(db, known, nodes), mine, now_s, End(rings=True))}


def _folded(books: Books, reports: Sequence[Report], now_s: float, end: End) -> _Jobs:
    """The jobs since; of those that are unknown nothing."""
    changed = False
    for report in reports:
        if (job := books.jobs.get(report.job)) is None:
            continue
        step = verbs.settle(job, report, now_s)
        if step.job == job:
            continue  # somebody else was first, or an earlier one of these
        books.write(job, step, report.reason, now_s, node=report.node)
        books.timed(job, report)
        if (fault := fault_of(job, step.job, report, now_s)) is not None:
            books.put(noted(books.nodes[report.node], fault))
        changed = True
    if changed:
        books.flush(end)
    return books.jobs


def _changes(job: Job | None, report: Report, now_s: float) -> bool:
    return job is not None and verbs.settle(job, report, now_s).job != job


def _only_runs(report: Report) -> bool:
    """Does it say that ranks run, and nothing else?"""
    more = report.cut or report.resize or report.corrupt or report.unfit or report.unable
    return report.phase == "running" and not more


def _moves(job: Job, report: Report) -> Collection[NodeId]:
    """The nodes on whose books the report may show: on none where a life begins to run."""
    begins = job.state is JobState.STARTING and not (job.target or job.resizing)
    if job.state not in ACTIVE or (begins and _only_runs(report)):
        return ()
    return set(hosts(job))
