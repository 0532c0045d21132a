"""The door for reports. What nodes tell within a few milliseconds is folded in together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

from sqlalchemy import Engine

from singularity.primitives.clock import Clock
from singularity.primitives.errors import Unavailable
from singularity.primitives.messages import Report

from .applier import SqlLedger
from .database import synced

_WINDOW_S: Final = 0.002
_REPORTS_MOST: Final = 2000
_DEADLINE_S: Final = 30.0


def _slow() -> Unavailable:
    return Unavailable("the database is slow; reports are repeated")


@dataclass(slots=True)
class _Told:
    reports: Sequence[Report]
    news: bool
    answer: Future[list[bool]] = field(default_factory=Future)


class Desk:
    """Collects reports and folds them in together, in order; `record` may be called by many. One
    thread folds in, which wakes the loops, another waits for the disk meanwhile and answers: what
    has been decided on a report is written after it, so that it is lost where the report is."""

    def __init__(
        self, ledger: SqlLedger, engine: Engine, clock: Clock, stop: threading.Event
    ) -> None:
        self._ledger, self._engine, self._clock = ledger, engine, clock
        self._stop = stop
        self._told: SimpleQueue[_Told | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[_Told, list[bool]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=run, name="desk", daemon=True)
            for run in (self._run, self._answer)
        ]
        for thread in self._threads:
            thread.start()

    def record(self, reports: Sequence[Report], *, news: bool) -> list[bool]:
        """Of each, whether the node need not repeat it. Durable on return. With `news` they are
        told for the first time, as far as the node knows. Raises Unavailable."""
        if not reports:
            return []
        try:
            return self._tell(reports, news=news).result(_DEADLINE_S)
        except TimeoutError:
            raise _slow() from None

    async def recorded(self, reports: Sequence[Report], *, news: bool) -> list[bool]:
        """As `record`, for who waits in the event loop. Who gives up waiting takes nothing back."""
        if not reports:
            return []
        told = asyncio.wrap_future(self._tell(reports, news=news))
        try:
            return await asyncio.wait_for(asyncio.shield(told), _DEADLINE_S)
        except TimeoutError:
            raise _slow() from None

    def _tell(self, reports: Sequence[Report], *, news: bool) -> Future[list[bool]]:
        told = _Told(reports, news)
        self._told.put(told)
        return told.answer

    def close(self) -> None:
        """After `stop` was set. What was told before is still written."""
        self._told.put(None)
        self._threads[0].join()
        self._done.put(None)
        self._threads[1].join()

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
        """News apart: what heartbeats repeat is folded in another way. It may come after what is
        newer, as it may on its way here."""
        for news in (True, False):
            some = [told for told in batch if told.news is news]
            reports = [report for told in some for report in told.reports]
            try:
                done = self._folded(reports, news=news)
            except Exception as error:  # whatever it is, those who told it tell it again
                for told in some:
                    told.answer.set_exception(error)
                continue
            for told in some:
                mine, done = done[: len(told.reports)], done[len(told.reports) :]
                self._done.put((told, mine))

    def _folded(self, reports: list[Report], *, news: bool) -> list[bool]:
        return self._ledger.record_many(reports, self._clock.now_s(), news=news) if reports else []

    def _answer(self) -> None:
        """What was folded in, once it is on the disk; one wait for all that is."""
        goes_on = True
        while goes_on:
            found = [self._done.get()]
            with suppress(Empty):
                while True:
                    found.append(self._done.get_nowait())
            goes_on = None not in found
            folded = [each for each in found if each is not None]
            try:
                if folded:
                    synced(self._engine)
            except Exception as error:  # it may be lost: they tell it again
                for told, _ in folded:
                    told.answer.set_exception(error)
                continue
            for told, done in folded:
                told.answer.set_result(done)
