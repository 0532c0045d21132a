"""Estimates of when waiting jobs start: made once for each life, kept, and held against what came.

That a life began is in the timeline already; here is only what was expected of it.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Double, Engine, cast, delete, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError

from singularity.primitives.model import TERMINAL, WAITING, JobId, JobState, Kind
from singularity.scheduler.durations import Durations, Ran, running
from singularity.scheduler.eta import Eta, forecast
from singularity.scheduler.plan import Plan
from singularity.scheduler.policy import Policy
from singularity.scheduler.snapshot import Snapshot

from . import tables as t
from .bulk import among

log = logging.getLogger(__name__)

_EVERY_S: Final = 5.0
_RESTS: Final = 30.0  # times as long as it computed: a round waits for the interpreter meanwhile
_KNOWN_S: Final = 60.0  # durations are read again after that
_JOBS_MOST: Final = 2_000  # the newest that have ended
_KEPT_S: Final = 30 * 86400.0
LAST: Final = 100


@dataclass(frozen=True, slots=True)
class Calibration:
    """Of the last `made` estimates whose time has come, for how many the job had started by then:
    of the p50 about half should hold, of the p90 nine of ten."""

    made: int
    p50_held: int
    p90_held: int


class Noter:
    """Keeps estimates beside whoever decides: forty replays of a long queue take a while, and
    nobody waits for them. It computes a thirtieth of the time at most, and what comes meanwhile is
    left out but for the last."""

    def __init__(self, estimates: Estimates, stop: threading.Event) -> None:
        self._estimates, self._stop = estimates, stop
        self._last: tuple[Snapshot, Plan, Policy] | None = None
        self._rung = threading.Event()
        threading.Thread(target=self._run, name="estimates", daemon=True).start()

    def note(self, snapshot: Snapshot, plan: Plan, policy: Policy) -> None:
        if plan.pending:
            self._last = snapshot, plan, policy
            self._rung.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._rung.wait(_EVERY_S) and (last := self._last) is not None:
                self._rung.clear()
                began_s = time.thread_time()
                try:
                    self._estimates.note(*last)
                except DBAPIError as error:  # the next round has them again
                    log.warning("no estimates", extra={"reason": str(error.orig).strip()})
                self._stop.wait(max(_EVERY_S, _RESTS * (time.thread_time() - began_s)))


class Estimates:
    """Threads may share one; what two read at once is read twice."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ended: tuple[Ran, ...] = ()
        self._read_s = self._noted_s = float("-inf")

    def note(self, snapshot: Snapshot, plan: Plan, policy: Policy) -> int:
        """Keep an estimate of each life that waits and has none, now and then; how many."""
        if snapshot.now_s - self._noted_s < _EVERY_S:
            return 0
        self._noted_s = snapshot.now_s
        waiting = [snapshot.by_id[job] for job in plan.pending if job in snapshot.by_id]
        lives = {(j.id, j.incarnation + 1) for j in waiting if j.state in WAITING}
        if not (lives := lives - self._known(snapshot, {job for job, _ in lives})):
            return 0
        found = forecast(snapshot, self._durations(snapshot), policy)
        rows = [
            {
                "job": job,
                "incarnation": incarnation,
                "made_at_s": snapshot.now_s,
                "p50_at_s": snapshot.now_s + eta.p50_s,
                "p90_at_s": snapshot.now_s + eta.p90_s,
            }
            for job, incarnation in sorted(lives)
            if (eta := found.get(job)) and eta.p50_s is not None and eta.p90_s is not None
        ]
        with self._engine.begin() as db:
            old = t.estimate.c.made_at_s < snapshot.now_s - _KEPT_S
            db.execute(delete(t.estimate).where(old))
            if rows:
                db.execute(upsert(t.estimate).on_conflict_do_nothing(), rows)
        return len(rows)

    def of(self, snapshot: Snapshot, job: JobId, policy: Policy) -> Eta | None:
        """When the job will start, as it looks now; None for one that does not queue."""
        return forecast(snapshot, self._durations(snapshot), policy, job).get(job)

    def outlook(self, snapshot: Snapshot, policy: Policy) -> dict[JobId, Eta]:
        """As `of`, of each of the first in the queue."""
        return forecast(snapshot, self._durations(snapshot), policy)

    def calibration(self, now_s: float, last: int = LAST) -> Calibration:
        """A job that still waits when it should have started is one that did not hold."""
        made, began = t.estimate.c, t.incarnation.c
        same = (began.job == made.job) & (began.incarnation == made.incarnation)
        state = t.job_state.c.state
        late = state.in_([str(s) for s in WAITING]) & (made.p90_at_s < now_s)
        query = (
            select(made.p50_at_s, made.p90_at_s, began.placed_at_s)
            .join(t.job_state, t.job_state.c.id == made.job)
            .join(t.incarnation, same, isouter=True)
            .where(began.placed_at_s.is_not(None) | late)
            .order_by(made.made_at_s.desc(), made.job)
            .limit(last)
        )
        with self._engine.connect() as db:
            rows = db.execute(query).all()
        held = [(p50, p90, at) for p50, p90, at in rows if at is not None]
        return Calibration(
            made=len(rows),
            p50_held=sum(at <= p50 for p50, _, at in held),
            p90_held=sum(at <= p90 for _, p90, at in held),
        )

    def _known(self, snapshot: Snapshot, jobs: set[JobId]) -> set[tuple[JobId, int]]:
        query = select(t.estimate.c.job, t.estimate.c.incarnation)
        with self._engine.connect() as db:
            rows = db.execute(query.where(among(t.estimate.c.job, jobs)))
            return {(JobId(job), incarnation) for job, incarnation in rows}

    def _durations(self, snapshot: Snapshot) -> Durations:
        if snapshot.now_s - self._read_s > _KNOWN_S:
            self._ended, self._read_s = self._read(), snapshot.now_s
        return Durations((*self._ended, *running(snapshot.jobs, snapshot.now_s)))

    def _read(self) -> tuple[Ran, ...]:
        """The newest jobs that have ended, and had begun."""
        job, state = t.job.c, t.job_state.c
        began, over = (
            cast(state.body[name].astext, Double) for name in ("started_at_s", "since_s")
        )
        query = (
            select(job.project, job.name, job.kind, state.state, over - began)
            .join(t.job_state, state.id == job.id)
            .where(state.state.in_([str(s) for s in TERMINAL]), began.is_not(None))
            .where(job.kind != str(Kind.VERIFY))
            .order_by(job.id.desc())
            .limit(_JOBS_MOST)
        )
        with self._engine.connect() as db:
            return tuple(
                Ran(project, name, kind, float(seconds), ended != JobState.CANCELLED)
                for project, name, kind, ended, seconds in db.execute(query)
            )
