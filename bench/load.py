"""An open-loop load: requests come when a Poisson process says so, whoever may be late to answer.

Every time is counted from the moment a request was meant to be sent, so that neither a service that
stalls nor a generator that lags looks better than it is (no coordinated omission). The rate follows
a curve of points `second:rate`, straight between them; arrivals are the same for the same seed.

    python bench/load.py --url http://127.0.0.1:8480/default/digits/classify --curve 0:5,20:50,60:5

Told to end (SIGTERM) it sends no more, waits for the answers, and tells of what it sent.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from random import Random

import aiohttp
import uvloop

PATIENCE_S = 60.0
Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One request, meant to be sent `meant_s` after the beginning.

    wait_s     until a replica had it: what we were late, and what the router says it waited
    latency_s  until the last byte of the answer
    status     of HTTP; 0 when there was no answer
    """

    meant_s: float
    wait_s: float
    latency_s: float
    status: int


def parse_curve(text: str) -> Curve:
    points = tuple(
        (float(at), float(rate)) for at, _, rate in (p.partition(":") for p in text.split(","))
    )
    if len(points) < 2 or any(a[0] >= b[0] for a, b in itertools.pairwise(points)):
        raise argparse.ArgumentTypeError("want second:rate,second:rate,... in rising order")
    return points


def rate_at(curve: Curve, at_s: float) -> float:
    for (from_s, low), (to_s, high) in itertools.pairwise(curve):
        if from_s <= at_s <= to_s:
            return low + (high - low) * (at_s - from_s) / (to_s - from_s)
    return 0.0


def arrivals(curve: Curve, seed: int) -> Iterator[float]:
    """A Poisson process of that rate, by thinning one of the highest."""
    random, most = Random(seed), max(rate for _, rate in curve)
    at_s = curve[0][0]
    while (at_s := at_s + random.expovariate(most)) < curve[-1][0]:
        if random.random() * most < rate_at(curve, at_s):
            yield at_s


class Load:
    def __init__(self, url: str, method: str, bodies: Sequence[bytes]) -> None:
        self._url, self._method = url, method
        self._bodies = itertools.cycle(bodies or [b""])
        self.answers: list[Answer] = []
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Send no more."""
        self._ended.set()

    async def run(
        self, times: Sequence[float], began: Callable[[float], object] = lambda _: None
    ) -> None:
        """`began` is told when, by the monotonic clock."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            began_s = time.monotonic()
            began(began_s)
            async with asyncio.TaskGroup() as group:
                for meant_s in times:
                    if await self._ended_within(began_s + meant_s - time.monotonic()):
                        break
                    group.create_task(self._ask(http, began_s, meant_s))

    async def _ended_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return self._ended.is_set()

    async def _ask(self, http: aiohttp.ClientSession, began_s: float, meant_s: float) -> None:
        late_s = time.monotonic() - began_s - meant_s
        status, queued_s = 0, 0.0
        try:
            body = next(self._bodies) or None
            async with http.request(self._method, self._url, data=body) as answer:
                await answer.read()
                status, queued_s = answer.status, queue_s(answer)
        except (aiohttp.ClientError, TimeoutError):
            pass  # status 0 says so
        took_s = time.monotonic() - began_s - meant_s
        wait_s = late_s + queued_s if status == 200 else took_s
        self.answers.append(Answer(meant_s, wait_s, took_s, status))


def queue_s(answer: aiohttp.ClientResponse) -> float:
    """How long the router says that the request waited (Server-Timing)."""
    for value in answer.headers.getall("Server-Timing", ()):
        name, _, duration = value.partition(";dur=")
        if name == "queue":
            return float(duration) / 1000
    return 0.0


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def write(path: Path, answers: Sequence[Answer]) -> None:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(f.name for f in fields(Answer))
        out.writerows(astuple(a) for a in answers)


def tell(answers: Sequence[Answer], span_s: float) -> None:
    good = [a for a in answers if a.status == 200]
    waits, latencies = [a.wait_s for a in good], [a.latency_s for a in good]
    print(f"{len(answers)} requests in {span_s:.0f} s, {len(answers) - len(good)} not answered")
    for name, values in (("wait", waits), ("latency", latencies)):
        p50, p99 = quantile(values, 0.5), quantile(values, 0.99)
        mean = statistics.fmean(values) if values else 0.0
        print(f"  {name:<8} p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, mean {mean * 1e3:.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--curve", type=parse_curve, required=True)
    parser.add_argument("--method", default="POST")
    parser.add_argument("--bodies", type=Path, help="one a line; sent in turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="CSV, a line for each request")
    args = parser.parse_args()
    bodies = args.bodies.read_bytes().splitlines() if args.bodies else []
    load = Load(args.url, args.method, bodies)
    times = list(arrivals(args.curve, args.seed))

    async def run() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.end)
        await load.run(times, lambda at_s: print(f"began at {at_s:.3f}", flush=True))

    uvloop.run(run())
    answers = sorted(load.answers, key=lambda a: a.meant_s)
    if args.out:
        write(args.out, answers)
    first_s, last_s = args.curve[0][0], args.curve[-1][0]
    if len(answers) < len(times):  # it was told to end
        last_s = max((a.meant_s for a in answers), default=first_s)
    tell(answers, last_s - first_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
