"""B6: a service under two weeks of production load, on devices that training gives and takes back.

    bench/services.py --data DIR     DIR holds servegen/m-{large,mid,small}.csv
                                     (github.com/alibaba/ServeGen, Apache-2.0, summed over clients)

128 devices; one serves 5 requests/s (m-large), or the same share of the mean of another trace.
Arrivals are negative-binomial by the second, with the rate and the index of dispersion (at most
50) of each ten minutes. More devices come 30 s after they are asked for (120 s: cold start on
devices that nobody lends), and every change stalls training for 30 s. A replica that has served
before waits in memory, and serves again after 5 s (bench/wake.py measures that, on processors).
The promise is a wait in the queue of at most 5 s. A queue serves who came first first, or first
those who are not late yet.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from singularity.scheduler.autoscale import Bounds, Demand, Scaling, size
from singularity.scheduler.policy import Policy
from singularity.scheduler.sim.loads import Queue, Requests, drawn
from singularity.scheduler.sim.traces import read

DEVICES, WAIT_S, EVERY_S, STALL_S = 128, 5, 2, 30
COLD_S, START_S, WAKE_S = 120, 30, 5  # until a device serves
KEPT, HOURS, RESIZES = 0.9999, 17_000.0, 1_500  # what m-large should come to


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests of a pool, and how many a second one device serves."""

    name: str
    per_device: float
    requests: Requests


def load(path: Path, seed: int) -> Trace:
    (service,) = read(path).services
    return Trace(path.stem, service.per_replica, drawn(service.rates, seed))


# (trace, second, devices there are or are coming, requests that count as waiting) -> devices
Sizer = Callable[[Trace, int, int, float], int]


def fixed() -> Sizer:
    return lambda *_: DEVICES


def reactive() -> Sizer:
    """Knative's way: a minute's mean at 70 %, panic at twice what there is, five minutes down."""
    wanted: list[int] = []

    def choose(trace: Trace, second: int, have: int, waiting: float) -> int:
        each = trace.per_device * 0.7
        now = math.ceil((trace.requests.stable[second] + waiting / 60.0) / each)
        burst = math.ceil(trace.requests.panic[second] / each)
        now = max(4, min(DEVICES, max(now, burst if burst >= 2 * have else 0)))
        wanted.append(now)
        return now if now > have else max(wanted[-300 // EVERY_S :])

    return choose


def ours(policy: Policy) -> Sizer:
    state = Scaling(replicas=DEVICES // 3)

    def choose(trace: Trace, second: int, have: int, waiting: float) -> int:
        nonlocal state
        bounds = Bounds(4, DEVICES, trace.per_device, float(WAIT_S))
        demand = Demand(
            stable=float(trace.requests.stable[second]),
            panic=float(trace.requests.panic[second]),
            queued=int(waiting),
            wait_s=waiting / (have * trace.per_device),
            spread=float(trace.requests.spread[second]),
        )
        state, _ = size(state, demand, bounds, float(second), policy)
        return state.replicas

    return choose


@dataclass(frozen=True, slots=True)
class Outcome:
    kept: float  # of all requests, that waited no longer than promised
    hours: float  # devices of the service, asked for or there
    stalled: float  # device-hours of training that changes have cost
    resizes: int


@dataclass(frozen=True, slots=True)
class Way:
    """Seconds until a device serves that never did, and one that has; in which order they serve."""

    name: str
    make: Callable[[], Sizer]
    start_s: int
    wake_s: int
    fresh_first: bool = False


def replay(trace: Trace, way: Way) -> Outcome:
    choose, fresh_first = way.make(), way.fresh_first
    queue, serving, resizes, seconds, stalled = Queue(WAIT_S, fresh_first), DEVICES // 3, 0, 0, 0.0
    warm = serving  # so many have served
    coming: list[tuple[int, int]] = []  # (second, devices from then on)
    arrivals = trace.requests.arrivals.tolist()
    for second, count in enumerate(arrivals):
        while coming and coming[0][0] <= second:
            serving = coming.pop(0)[1]
            warm = max(warm, serving)
        queue.second(count, serving * trace.per_device)
        have = coming[-1][1] if coming else serving
        if second % EVERY_S == 0:
            waits = queue.fresh if fresh_first else queue.waiting
            wanted = choose(trace, second, have, waits)
            if wanted > have:
                woken = min(wanted, warm)
                coming += [(second + way.wake_s, woken)] if woken > have else []
                coming += [(second + way.start_s, wanted)] if wanted > woken else []
                coming.sort()
            elif wanted < have:
                serving, coming = min(serving, wanted), [c for c in coming if c[1] <= wanted]
            if wanted != have:
                resizes += 1
                stalled += STALL_S * (DEVICES - max(wanted, have))
                have = wanted
        seconds += have
    total = float(trace.requests.arrivals.sum())
    return Outcome(1.0 - queue.broken / total, seconds / 3600, stalled / 3600, resizes)


WAYS = (
    Way("all devices, always", fixed, 0, 0),
    Way("reactive, cold start of 120 s", reactive, COLD_S, COLD_S),
    Way("reactive, training shrinks", reactive, START_S, START_S),
    Way("ours, first come first served", lambda: ours(Policy()), START_S, START_S),
    Way("ours, who is in time first", lambda: ours(Policy()), START_S, START_S, fresh_first=True),
    Way("ours, who rests is woken", lambda: ours(Policy()), START_S, WAKE_S, fresh_first=True),
)


def report(traces: list[Trace]) -> bool:
    """Prints one line for each way; does the last one meet the goal?"""
    met = False
    for way in WAYS:
        found = [replay(t, way) for t in traces]
        kept = fmean(o.kept for o in found)
        hours = fmean(o.hours for o in found)
        resizes = fmean(o.resizes for o in found)
        stalled = fmean(o.stalled for o in found)
        met = kept >= KEPT and hours <= HOURS and resizes < RESIZES
        print(
            f"  {way.name:30}{kept:10.4%} in time {hours:8.0f} device-hours "
            f"{resizes:6.0f} changes, {stalled:5.0f} device-hours of training stalled",
            flush=True,
        )
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--traces", nargs="+", default=["m-large", "m-mid", "m-small"])
    args = parser.parse_args()
    for name in args.traces:
        path = args.data / "servegen" / f"{name}.csv"
        if not path.is_file():
            parser.error(f"{path} is not there; the top of this file says where it is public")
        traces = [load(path, seed) for seed in range(args.seeds)]
        print(
            f"{name}: {traces[0].requests.arrivals.sum() / 1e6:.0f} M requests, {args.seeds} seeds"
        )
        verdict = "met" if report(traces) else "missed"
        print(f"  {KEPT:.2%} at {HOURS:,.0f} device-hours with {RESIZES:,} changes: {verdict}")


if __name__ == "__main__":
    main()
