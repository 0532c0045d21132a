"""The cluster is watched again and again, and less often the longer that is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from singularity.gpushare import watching
from singularity.gpushare.fleet import Fleet
from singularity.gpushare.watching import Watcher
from singularity.primitives.errors import Rejected


class Enough(Exception):
    """The test has seen what it wanted to."""


class Cluster:
    """It may be listed always, and watched for so many changes each time, then not at all."""

    def __init__(self, changes: list[int]) -> None:
        self._changes, self.listed = changes, 0

    async def all_of(self, _kind: Any, _namespace: Any) -> tuple[list[Any], str]:
        self.listed += 1
        return [], "1"

    async def changes(self, _kind: Any, _namespace: Any, _version: str) -> AsyncIterator[Any]:
        for _ in range(self._changes.pop(0)):
            yield "DELETED", watching.Pod()
        raise Rejected("you may list, and not watch")


def pauses(monkeypatch: pytest.MonkeyPatch, changes: list[int]) -> list[float]:
    """Between the tries, until there are no more `changes`."""
    found, cluster = list[float](), Cluster(list(changes))

    async def sleep(seconds: float) -> None:
        found.append(seconds)
        if len(found) == len(changes):
            raise Enough

    monkeypatch.setattr(asyncio, "sleep", sleep)
    watcher = Watcher(cast("Any", cluster), Fleet())
    with pytest.raises(Enough):
        asyncio.run(watcher._follow(watcher._kinds[0]))
    assert cluster.listed == len(changes) and not watcher.ready
    return found


def test_who_may_list_and_not_watch_does_not_list_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert pauses(monkeypatch, [0, 0, 0, 0]) == [0.2, 1.0, 5.0, 5.0]


def test_a_change_that_came_begins_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pauses(monkeypatch, [0, 0, 3, 0]) == [0.2, 1.0, 0.2, 1.0]
