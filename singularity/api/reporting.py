"""The door for reports. What nodes tell within a few milliseconds is folded in together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

from singularity.primitives.clock import Clock
from singularity.primitives.errors import Unavailable
from singularity.primitives.messages import Report

from .applier import SqlLedger
from .intake import Waker

_WINDOW_S: Final = 0.002
_REPORTS_MOST: Final = 2000
_DEADLINE_S: Final = 30.0


@dataclass(slots=True)
class _Told:
    reports: Sequence[Report]
    news: bool
    answer: Future[list[bool]] = field(default_factory=Future)


class Desk:
    """Collects reports and folds them in together, in order. One thread; `record` may be called by
    many."""

    def __init__(
        self, ledger: SqlLedger, clock: Clock, waker: Waker, stop: threading.Event
    ) -> None:
        self._ledger, self._clock, self._waker, self._stop = ledger, clock, waker, stop
        self._told: SimpleQueue[_Told | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="desk", daemon=True)
        self._thread.start()

    def record(self, reports: Sequence[Report], *, news: bool) -> list[bool]:
        """Of each, whether the node need not repeat it. Durable on return. With `news` they are
        told for the first time, as far as the node knows. Raises Unavailable."""
        if not reports:
            return []
        told = _Told(reports, news)
        self._told.put(told)
        try:
            return told.answer.result(_DEADLINE_S)
        except TimeoutError:
            raise Unavailable("the database is slow; reports are repeated") from None

    def close(self) -> None:
        """After `stop` was set. What was told before is still written."""
        self._told.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set() or not self._told.empty():
            if batch := self._collect():
                self._write(batch)

    def _collect(self) -> list[_Told]:
        """What has come, and what comes within the window."""
        found = [self._told.get()]
        self._stop.wait(_WINDOW_S)
        while sum(len(t.reports) for t in found if t) < _REPORTS_MOST:
            try:
                found.append(self._told.get_nowait())
            except Empty:
                break
        return [told for told in found if told is not None]

    def _write(self, batch: list[_Told]) -> None:
        reports = [report for told in batch for report in told.reports]
        try:
            news = all(told.news for told in batch)
            done = self._ledger.record_many(reports, self._clock.now_s(), news=news)
        except Exception as error:  # whatever it is, those who told it tell it again
            for told in batch:
                told.answer.set_exception(error)
            return
        self._waker.wake()
        for told in batch:
            mine, done = done[: len(told.reports)], done[len(told.reports) :]
            told.answer.set_result(mine)
