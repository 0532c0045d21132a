"""The service of the demo: what it is promised, who looks on, and what each event did to it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx
from rich.box import SIMPLE
from rich.table import Table

from examples.inference.asking import NAME, PROMISED, WAIT_MOST_S, Asked, waits

LOOK_S: Final = 0.3
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """At a moment of the monotonic clock: the jobs whose replicas take requests."""

    at_s: float
    ready: frozenset[str]


class Lookout(threading.Thread):
    """Looks at the replicas now and then, also while the demo waits for a command."""

    def __init__(self, http: httpx.Client) -> None:
        super().__init__(daemon=True)
        self._http, self._over = http, threading.Event()
        self.looks: list[Look] = []

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            with suppress(httpx.TransportError):  # the next look will do
                items = replicas(self._http)
                ready = frozenset(item["job"] for item in items if item["ready"])
                self.looks.append(Look(time.monotonic(), ready))

    def end(self) -> None:
        self._over.set()
        self.join()


def replicas(http: httpx.Client) -> list[Json]:
    found: list[Json] = http.get(f"/v1/services/{NAME}").json()["replicas"]["items"]
    return found


@contextmanager
def lookout(url: str, token: str) -> Iterator[Lookout]:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
        thread = Lookout(http)
        thread.start()
        try:
            yield thread
        finally:
            thread.end()


@dataclass(frozen=True, slots=True)
class Event:
    """From and until when, by the monotonic clock, and how many trainings it moved."""

    name: str
    from_s: float
    until_s: float
    moved: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """What one event did to the service. `least` is how few replicas took requests at a moment, and
    `new` how many took them at its end that had not at its beginning."""

    event: Event
    asked: tuple[Asked, ...]
    least: int
    new: int

    @property
    def kept(self) -> float:
        return sum(a.kept for a in self.asked) / len(self.asked)

    @property
    def failed(self) -> int:
        return sum(a.status != 200 for a in self.asked)

    @property
    def good(self) -> bool:
        """Was it as promised, and nobody without an answer?"""
        return self.kept >= PROMISED and not self.failed


def row(event: Event, asked: Sequence[Asked], looks: Sequence[Look], began_s: float) -> Row:
    """`began_s` is when the load began. Raises SystemExit where nobody asked or looked."""
    mine = tuple(a for a in asked if event.from_s <= began_s + a.meant_s < event.until_s)
    seen = [look.ready for look in looks if event.from_s <= look.at_s < event.until_s]
    if not mine or not seen:
        raise SystemExit(f"nobody asked, or nobody looked: {event.name}")
    return Row(event, mine, min(map(len, seen)), len(seen[-1] - seen[0]))


def table(rows: Sequence[Row]) -> Table:
    title = f"the service: {PROMISED:.0%} of the requests shall have a replica in {WAIT_MOST_S:g} s"
    found = Table(title=title, title_justify="left", box=SIMPLE, collapse_padding=True)
    found.add_column("", no_wrap=True)
    for name in ("s", "moved", "replicas", "new", "requests", "in time"):
        found.add_column(name, justify="right")
    for name in ("p50 ms", "p99 ms", "failed", "promise"):
        found.add_column(name, justify="right")
    for each in rows:
        p50_s, p99_s = waits(each.asked)
        found.add_row(
            each.event.name,
            f"{each.event.until_s - each.event.from_s:.0f}",
            str(each.event.moved),
            str(each.least),
            str(each.new),
            str(len(each.asked)),
            f"{each.kept:.1%}",
            f"{p50_s * 1e3:.0f}",
            f"{p99_s * 1e3:.0f}",
            str(each.failed),
            "kept" if each.good else "BROKEN",
        )
    return found


def failures(asked: Sequence[Asked]) -> str:
    """Of the requests without a good answer, how many had which status; 0 is a broken line."""
    found = Counter(a.status for a in asked if a.status != 200)
    return ", ".join(f"{count} × {status}" for status, count in sorted(found.items()))
