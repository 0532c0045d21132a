"""B6 with B3: three services in three regions, and training on the same devices that lends them
and takes them back; beside the same with training that is suspended whole, and with devices that
are split once and for all.

    bench/lending.py --data DIR     DIR holds servegen/m-*.csv and pollux/philly_82k.csv

Each region has 16 nodes of 8. Its service is of the premium tier, and replicas answer 30 s after
their start, 5 s where they rested and wait in memory (bench/wake.py measures that); who gives
devices to it stands still for 30 s at each change, and who was suspended comes back 60 s after its
start. With fixed devices, each service has the fewest that keep as many of its requests in time,
and training goes on until its last job has ended. Training is every other job of the busiest two
weeks of the Philly trace, tiers by a hash of the name, on 1 to as many devices as it asks for. All
is decided by the production code.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from singularity.scheduler.policy import Policy
from singularity.scheduler.sim.compare import play
from singularity.scheduler.sim.loads import Queue, drawn
from singularity.scheduler.sim.outcomes import Run, scorecard
from singularity.scheduler.sim.replay import Costs
from singularity.scheduler.sim.traces import Arrival, Machines, Reading, Serves, Trace, read

POOLS = ("m-large", "m-mid", "m-small")
NODES, DEVICES = 16, 8
FIRST_DAY, WIDEST = 20, 32
COSTS = Costs(restart_s=60.0, ready_s=30.0, wake_s=5.0, stall_s=30.0, gap_s=1.0)
DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Fixed:
    """Devices that a service holds always, the fewest that keep as many of its requests in time,
    and the share that they keep."""

    devices: int
    in_time: float


def services(data: Path, days: float, seed: int) -> list[Serves]:
    found = []
    for name in POOLS:
        (serves,) = read(data / "servegen" / f"{name}.csv").services
        rates = serves.rates.upto(days * DAY_S)
        found.append(replace(serves, rates=rates, region=name, seed=seed))
    return found


def training(data: Path, days: float, every: int, *, elastic: bool) -> list[Arrival]:
    how = Reading(widest=WIDEST, elastic=elastic)
    jobs = read(data / "pollux" / "philly_82k.csv", how).jobs
    begins_s = FIRST_DAY * DAY_S
    mine = [job for job in jobs if 0.0 <= job.at_s - begins_s < days * DAY_S][::every]
    return [replace(job, at_s=job.at_s - begins_s) for job in mine]


def fleet(less: dict[str, int]) -> list[Machines]:
    """Whole nodes of every region, and what is left of one that a service has a part of."""
    found = []
    for name in POOLS:
        nodes, rest = divmod(NODES * DEVICES - less.get(name, 0), DEVICES)
        where = {"cluster": name, "region": name}
        found += [Machines(nodes, DEVICES, **where)] if nodes else []
        found += [Machines(1, rest, **where)] if rest else []
    return found


def fixed(serves: Serves, seed: int) -> Fixed:
    arrivals = drawn(serves.rates, seed).arrivals
    least, most = 1, NODES * DEVICES

    def kept(devices: int) -> float:
        queue = Queue(int(serves.wait_s))
        for came in arrivals.tolist():
            queue.second(came, devices * serves.per_replica)
        return 1.0 - queue.broken / float(arrivals.sum())

    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if kept(middle) >= serves.kept else (middle + 1, most)
    return Fixed(most, kept(most))


def used(run: Run, until_s: float) -> float:
    """Device-hours that training held by then."""
    ends = [*run.times_s[1:], math.inf]
    parts = zip(run.times_s, ends, run.busy, strict=True)
    return sum(busy * max(0.0, min(end, until_s) - at) for at, end, busy in parts) / 3600.0


def show(label: str, run: Run, took_s: float, held: dict[str, Fixed], days: float) -> None:
    card = scorecard(run)
    print(f"{label}  ({card.rounds} rounds, {took_s:.0f} s of CPU)")
    for name in POOLS:
        share = held[name].in_time if held else card.in_time[name]
        hours = held[name].devices * 24 * days if held else card.service_device_h[name]
        changes = 1 if held else card.scalings[name]
        woken = "" if held else f", {card.woken[name]:.1%} of starts where it rested"
        print(f"  {name:8}{share:10.4%} in time{hours:9.0f} device-hours{changes:7} changes{woken}")
    kept = ", ".join(
        f"{tier} {'-' if share is None else f'{share:.2%}'}" for tier, share in card.kept.items()
    )
    given = ", ".join(f"{tier} {share:.1%}" for tier, share in card.attained.items())
    jct = f"JCT {card.jct_h:.2f} h on average, {60 * card.jct_p50_h:.1f} min in the median"
    ended = f"{card.jobs - card.unfinished} of {card.jobs} jobs ended, {jct}"
    print(f"  training held {used(run, days * DAY_S):,.0f} device-hours by then; {ended}")
    print(f"  at the promise where demand fitted: {kept}; given it over their life: {given}")
    told = f"{card.resizes:.2f} resizes, {card.preemptions:.2f} preemptions"
    print(f"  a job: {told}, {card.migrations:.3f} moves", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--days", type=float, default=14.0)
    parser.add_argument("--every", type=int, default=2, help="of how many jobs one is taken")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["lends", "suspends", "fixed"])
    args = parser.parse_args()
    for way in ("lends", "suspends", "fixed"):
        if args.only in (None, way):
            one(way, args.data, args.days, (args.every, args.seed))
    return 0


def one(way: str, data: Path, days: float, drawn_by: tuple[int, int]) -> None:
    every, seed = drawn_by
    loads = services(data, days, seed)
    held = {s.name: fixed(s, seed) for s in loads} if way == "fixed" else {}
    machines = fleet({name: each.devices for name, each in held.items()})
    elastic = way != "suspends"
    widest = min(m.nodes * m.devices for m in machines)
    jobs = [
        job for job in training(data, days, every, elastic=elastic) if job.devices_min <= widest
    ]
    trace = Trace("B6 and B3", tuple(jobs), services=() if held else tuple(loads))
    began_s = time.process_time()
    (run,) = play(["singularity"], trace, machines, COSTS, Policy())
    took_s = time.process_time() - began_s
    label = {
        "lends": "training lends, and grows back",
        "suspends": "training is suspended whole",
        "fixed": "devices are split once",
    }[way]
    show(label, run, took_s, held, days)


if __name__ == "__main__":
    sys.exit(main())
