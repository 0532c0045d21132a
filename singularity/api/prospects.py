"""What is told to whoever watches the queue: when jobs start, and what would help them.

Both take many decisions, and pages ask every few seconds: what was found is told again for a while,
and no answer waits for more than a little of what is not known yet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Final

from singularity.primitives.model import Job, JobId
from singularity.scheduler.advice import Change, advise
from singularity.scheduler.eta import Eta
from singularity.scheduler.plan import Plan
from singularity.scheduler.policy import Policy
from singularity.scheduler.snapshot import Snapshot

from .estimates import Estimates

_RESTS: Final = 30.0  # times as long as it took to find
_ADVISES_S: Final = 0.25  # on the core, for one answer
_KEPT_S: Final = 60.0
_Known = tuple[float, int, Change | None]  # when it was found, for which version of the job


class Prospects:
    """Threads may share one; what two look for at once is looked for twice."""

    def __init__(self, estimates: Estimates) -> None:
        self._estimates = estimates
        self._lock = threading.Lock()
        self._etas: tuple[float, dict[JobId, Eta]] = (float("-inf"), {})
        self._changes: dict[JobId, _Known] = {}

    def etas(self, snapshot: Snapshot, policy: Policy) -> dict[JobId, Eta]:
        """Of the first in the queue, as they looked lately; seconds from now."""
        with self._lock:
            until_s, known = self._etas
        if snapshot.now_s < until_s:
            return known
        began_s = time.thread_time()
        known = self._estimates.outlook(snapshot, policy)
        until_s = snapshot.now_s + _RESTS * (time.thread_time() - began_s)
        with self._lock:
            self._etas = until_s, known
        return known

    def changes(
        self, snapshot: Snapshot, plan: Plan, jobs: Iterable[Job], policy: Policy
    ) -> dict[JobId, Change | None]:
        """The least change that lets each start, None where no single one does. Those that there
        was no time for are left out; one more of them is known with each answer, at the least."""
        began_s, found, looked = time.thread_time(), dict[JobId, Change | None](), False
        for job in jobs:
            at_s, version, change = self._changes.get(job.id, (float("-inf"), -1, None))
            if version != job.version or snapshot.now_s - at_s > _KEPT_S:
                if looked and time.thread_time() - began_s > _ADVISES_S:
                    continue
                change, looked = next(iter(advise(snapshot, plan, job, policy)), None), True
                with self._lock:
                    self._changes[job.id] = snapshot.now_s, job.version, change
            found[job.id] = change
        self._forget(snapshot.now_s)
        return found

    def _forget(self, now_s: float) -> None:
        with self._lock:
            old = [job for job, (at_s, *_) in self._changes.items() if now_s - at_s > 2 * _KEPT_S]
            for job in old:
                del self._changes[job]
