"""Reports are folded in whether or not whoever told them still waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from singularity.api import reporting
from singularity.api.reporting import Desk
from singularity.primitives.clock import SystemClock
from singularity.primitives.messages import Report
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId


class Slow:
    """A ledger that folds in when it is let."""

    def __init__(self) -> None:
        self.told: list[JobId] = []
        self.may = threading.Event()

    def record_many(
        self, reports: Sequence[Report], now_s: float, *, news: bool = False
    ) -> list[bool]:
        assert self.may.wait(30.0)
        self.told += [report.job for report in reports]
        return [True for _ in reports]


def _report(name: str) -> Report:
    return Report(job=JobId(name), node=NodeId("n"), incarnation=1, phase="running")


def test_who_gives_up_in_the_event_loop_takes_nothing_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporting, "synced", lambda engine: None)
    ledger, stop = Slow(), threading.Event()
    desk = Desk(ledger, None, SystemClock(), stop)  # type: ignore[arg-type]

    async def tell() -> list[bool]:
        first = asyncio.create_task(desk.recorded([_report("a")], news=True))
        await asyncio.sleep(0)  # it has told, and waits
        first.cancel()
        second = asyncio.create_task(desk.recorded([_report("b")], news=True))
        await asyncio.sleep(0)
        ledger.may.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert asyncio.run(tell()) == [True]
    assert ledger.told == ["a", "b"]
    assert desk.record([_report("c")], news=True) == [True]
    assert asyncio.run(desk.recorded([], news=True)) == []
    stop.set()
    desk.close()
