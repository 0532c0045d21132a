"""What one service's requests came to at this router: the last span for the control plane, and all
of it for whoever scrapes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from singularity.primitives.routing import NONE, LoadNote, bucket
from singularity.primitives.serving import ServiceId

from .pool import Why


@dataclass(slots=True)
class Counts:
    """Of one revision; what each is, LoadNote says."""

    arrivals: int = 0
    done: int = 0
    failed: int = 0
    shed: dict[Why, int] = field(default_factory=lambda: dict.fromkeys(Why, 0))
    waits: list[int] = field(default_factory=lambda: list(NONE))
    latencies: list[int] = field(default_factory=lambda: list(NONE))
    wait_s: float = 0.0
    latency_s: float = 0.0

    def wait(self, seconds: float) -> None:
        self.waits[bucket(seconds)] += 1
        self.wait_s += seconds

    def finish(self, seconds: float) -> None:
        self.done += 1
        self.latencies[bucket(seconds)] += 1
        self.latency_s += seconds

    def add(self, other: Counts) -> None:
        self.arrivals += other.arrivals
        self.done += other.done
        self.failed += other.failed
        self.shed = {why: n + other.shed[why] for why, n in self.shed.items()}
        self.waits = [a + b for a, b in zip(self.waits, other.waits, strict=True)]
        self.latencies = [a + b for a, b in zip(self.latencies, other.latencies, strict=True)]
        self.wait_s += other.wait_s
        self.latency_s += other.latency_s


class Jumps:
    """How uneven requests come: see LoadNote.jumps. By changes and not by distances from a mean, so
    that a load which rises steadily is not taken for one that comes in swarms."""

    def __init__(self, now_s: float) -> None:
        self._second, self._count = math.floor(now_s), 0
        self._before: int | None = None  # in the second before; None while none was seen whole
        self._whole = False
        self._sum = 0.0

    def came(self, now_s: float) -> None:
        self._pass(now_s)
        self._count += 1

    def cut(self, now_s: float) -> float:
        """Of the seconds that have ended since this was last asked."""
        self._pass(now_s)
        found, self._sum = self._sum, 0.0
        return found

    def _pass(self, now_s: float) -> None:
        passed = math.floor(now_s) - self._second
        if passed < 1:
            return
        if self._before is not None:
            self._sum += (self._count - self._before) ** 2 / 2
        if passed > 1 and self._whole:  # then a second without any followed
            self._sum += self._count**2 / 2
        if passed > 1:
            self._before = 0
        elif self._whole:
            self._before = self._count
        self._second, self._count, self._whole = self._second + passed, 0, True


class Tally:
    """Counts by revision. `level` says how many requests there are now; the mean over a span is
    weighed by time."""

    def __init__(self, now_s: float) -> None:
        self._span: dict[int, Counts] = defaultdict(Counts)
        self._total: dict[int, Counts] = defaultdict(Counts)
        self._since_s = self._level_s = now_s
        self._level, self._area = 0, 0.0
        self._jumps = Jumps(now_s)

    def came(self, revision: int, now_s: float) -> None:
        self.of(revision).arrivals += 1
        self._jumps.came(now_s)

    def of(self, revision: int) -> Counts:
        """Where to count what happens now."""
        return self._span[revision]

    def level(self, requests: int, now_s: float) -> None:
        self._area += self._level * (now_s - self._level_s)
        self._level, self._level_s = requests, now_s

    def totals(self) -> Iterator[tuple[int, Counts]]:
        """Since the router began, by revision."""
        for revision in sorted({*self._span, *self._total}):
            both = Counts()
            both.add(self._total[revision])
            both.add(self._span[revision])
            yield revision, both

    def cut(self, service: ServiceId, revision: int, queued: int, now_s: float) -> list[LoadNote]:
        """The notes of the span that ends now; the next one begins. What is no revision's own,
        how many there are and wait and how they come, is said of `revision`."""
        self.level(self._level, now_s)
        span_s = max(now_s - self._since_s, 1e-6)
        self.of(revision)
        jumps = self._jumps.cut(now_s)
        notes = [
            LoadNote(
                service=service,
                revision=number,
                span_s=span_s,
                arrivals=counts.arrivals,
                done=counts.done,
                failed=counts.failed,
                shed=sum(counts.shed.values()),
                busy=self._area / span_s if number == revision else 0.0,
                queued=queued if number == revision else 0,
                waits=tuple(counts.waits),
                latencies=tuple(counts.latencies),
                jumps=jumps if number == revision else 0.0,
            )
            for number, counts in sorted(self._span.items())
        ]
        for number, counts in self._span.items():
            self._total[number].add(counts)
        self._span.clear()
        self._since_s, self._area = now_s, 0.0
        return notes
