"""Placement of gangs on large fleets, through the door that the scheduler uses (`Fleet.find` and
`Fleet.take`, one call a gang): from nothing, and one release and placement at a time.

Nodes of 8 devices in clusters of about 1,000; gangs of 1 to 128 devices, the largest first, about
as many devices as there are. Goals of the core: 100,000 gangs on a million devices in 100 ms of
CPU, and 10 us at the 99th percentile for one more. What is printed includes Python around it.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from singularity.scheduler.fleet.gangs import Fleet, Gang, Rows
from singularity.scheduler.fleet.layout import Layout, lay_out
from singularity.scheduler.fleet.reference import Ranks

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SHARES = (0.45, 0.15, 0.12, 0.14, 0.06, 0.04, 0.025, 0.015)
FLEETS = ((1_000, 1_000), (10_000, 10_000), (125_000, 100_000))
AGAIN = 5_000  # releases and placements


def layout(nodes: int) -> Layout:
    clusters = max(4, nodes // 1000)
    cluster = (np.arange(nodes) * clusters // nodes).astype(np.int32)
    return lay_out((cluster // 8).astype(np.int32), cluster, np.zeros(nodes, dtype=np.int32))


def full_round(fleet: Fleet, gangs: list[Gang], allowed: Ranks) -> list[tuple[Gang, Rows]]:
    placed = []
    for gang in gangs:
        if rows := fleet.find(gang, allowed):
            fleet.take(rows)
            placed.append((gang, rows))
    return placed


def one_more(fleet: Fleet, placed: list[tuple[Gang, Rows]], allowed: Ranks) -> list[float]:
    """Microseconds of each: a gang leaves, and one like it comes."""
    rng, took_us = np.random.default_rng(1), []
    for number in rng.integers(len(placed), size=AGAIN):
        gang, rows = placed[int(number)]
        began_s = time.perf_counter()
        fleet.take([(row, -devices) for row, devices in rows])
        rows = fleet.find(gang, allowed)
        fleet.take(rows)
        took_us.append((time.perf_counter() - began_s) * 1e6)
        placed[int(number)] = gang, rows
    return took_us


def measure(nodes: int, jobs: int) -> tuple[float, float, float]:
    """CPU seconds of a full round, and p50 and p99 of one more in microseconds."""
    rng, where = np.random.default_rng(0), layout(nodes)
    sizes = np.sort(rng.choice(SIZES, jobs, p=SHARES))[::-1]
    gangs = [Gang(int(size)) for size in sizes]
    allowed = np.ones(len(where.start), dtype=np.uint8)
    free = np.full(nodes, 8, dtype=np.int64)
    full_round(Fleet.build(where, free, 8), gangs[-10:], allowed)  # compiled by now
    fleet = Fleet.build(where, free, 8)
    began_s = time.process_time()
    placed = full_round(fleet, gangs, allowed)
    round_s = time.process_time() - began_s
    used = 1.0 - float(fleet.free.sum()) / (8 * nodes)
    took_us = one_more(fleet, placed, allowed)
    p50, p99 = (float(x) for x in np.percentile(took_us, (50, 99)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{nodes:>7,} nodes, {jobs:>7,} gangs: {len(placed):,} placed on {used:.1%} of the devices "
        f"in {round_s:.2f} s of CPU, {round_s / jobs * 1e6:.1f} us each; one more: "
        f"p50 {p50:.1f} us, p99 {p99:.1f} us; {memory:.0f} MB"
    )
    return round_s, p50, p99


def plot(found: dict[int, tuple[float, float, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    nodes = sorted(found)
    for label, part in (("p50", 1), ("p99", 2)):
        axes.plot(nodes, [found[n][part] for n in nodes], marker="o", label=label)
    axes.set(xscale="log", xlabel="nodes of 8 devices", ylabel="us, one more gang", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--plot", type=Path, help="a PNG of how it grows; needs matplotlib")
    args = parser.parse_args()
    found = {nodes: measure(nodes, jobs) for nodes, jobs in FLEETS}
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
