"""B4: how long placement takes from a thousand nodes to 125,000. `--plot FILE` draws it, where
matplotlib is installed. Seconds are of CPU, in this one process; the compiler is warm."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from singularity.scheduler.fleet import kernels
from singularity.scheduler.fleet.gangs import Fleet, Gang
from singularity.scheduler.fleet.layout import Layout, Level, lay_out
from singularity.scheduler.fleet.reference import Picks, Want

DEVICES, NODES_OF_A_CLUSTER, RACK = 8, 1000, 16
SIZES = np.array([1, 2, 4, 8, 16, 32, 64, 128])
SHARES = [0.45, 0.15, 0.12, 0.14, 0.06, 0.04, 0.025, 0.015]
SMALL, SMALL_SHARES = np.array([1, 2]), [0.8, 0.2]  # a million jobs on a million devices
CHANGES, ROUNDS = 20_000, 5
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Figures:
    nodes: int
    jobs: int
    build_ms: float
    round_ms: float
    arrival_ms: float
    change_us: tuple[float, float]
    called_us: tuple[float, float]
    door_ms: float
    placed: int
    used: float
    index_mib: float


def planet(nodes: int) -> Layout:
    """Clusters of a thousand nodes, racks of 16, eight clusters a region."""
    row = np.arange(nodes)
    cluster = row * max(4, nodes // NODES_OF_A_CLUSTER) // nodes
    codes = (cluster // 8, cluster, np.zeros(nodes), row // RACK)
    region, cluster, kind, rack = (c.astype(np.int32) for c in codes)
    return lay_out(region, cluster, kind, rack)


def cpu_ms(what: Callable[[], object]) -> float:
    began_s = time.process_time()
    what()
    return (time.process_time() - began_s) * 1e3


def jobs_of(jobs: int, rng: np.random.Generator) -> Ints:
    if jobs >= 1_000_000:
        return rng.choice(SMALL, jobs, p=SMALL_SHARES).astype(np.int64)
    return rng.choice(SIZES, jobs, p=SHARES).astype(np.int64)


def measure(nodes: int, jobs: int) -> Figures:
    rng, layout = np.random.default_rng(0), planet(nodes)
    whole = np.full(nodes, DEVICES, dtype=np.int64)
    low, high = layout.domains(Level.CLUSTER)
    want = Want(0, 1, False, low, high)
    allowed = np.ones(len(layout.start), dtype=np.uint8)
    arriving = jobs_of(jobs, rng)
    sizes = np.sort(arriving)[::-1].copy()
    by = kernels

    def full(order: Ints) -> tuple[Fleet, Ints, Picks]:
        fleet = Fleet.build(layout, whole, DEVICES)
        return fleet, *by.place_all(fleet.index, allowed, order, want)

    full(sizes[:10])
    build_ms = min(cpu_ms(lambda: Fleet.build(layout, whole, DEVICES)) for _ in range(ROUNDS))
    round_ms = min(cpu_ms(lambda: full(sizes)) for _ in range(ROUNDS))
    arrival_ms = min(cpu_ms(lambda: full(arriving)) for _ in range(ROUNDS))
    fleet, ends, picks = full(sizes)
    placed = int((np.diff(ends) > 0).sum())
    used = 1 - fleet.free.sum() / (nodes * DEVICES)
    change_us = changes(fleet, allowed, want, (sizes, ends, picks), rng)
    index = fleet.index
    parts = (index.free, index.of, index.tally, index.room, index.words, index.tops)
    mib = sum(p.nbytes for p in parts) / 2**20
    called = calls(fleet, allowed, rng)
    door_ms = cpu_ms(lambda: door(Fleet.build(layout, whole, DEVICES), sizes, allowed))
    return Figures(
        nodes, jobs, build_ms, round_ms, arrival_ms, change_us, called, door_ms, placed, used, mib
    )


def door(fleet: Fleet, sizes: Ints, allowed: npt.NDArray[np.uint8]) -> None:
    """A round as decide() does it: one call a gang."""
    for size in sizes.tolist():
        fleet.take(fleet.find(Gang(size), allowed))


def changes(
    fleet: Fleet,
    allowed: npt.NDArray[np.uint8],
    want: Want,
    held: tuple[Ints, Ints, Picks],
    rng: np.random.Generator,
) -> tuple[float, float]:
    """p50 and p99 of one gang leaving and one of the same size coming, each timed on its own, with
    the time that reading the clock takes left in."""
    sizes, ends, (positions, devices) = held
    placed = np.flatnonzero(np.diff(ends) > 0)
    now = {
        int(g): (positions[ends[g] : ends[g + 1]], devices[ends[g] : ends[g + 1]]) for g in placed
    }
    took, out = [], (np.empty(128, dtype=np.int64), np.empty(128, dtype=np.int64))
    for gang in rng.choice(placed, CHANGES).tolist():
        asked, mine = want._replace(units=int(sizes[gang])), now[gang]
        began_ns = time.perf_counter_ns()
        count = kernels.churn(fleet.index, allowed, asked, mine, out)
        took.append((time.perf_counter_ns() - began_ns) / 1e3)
        now[gang] = out[0][:count].copy(), out[1][:count].copy()
    return tuple(np.percentile(took[100:], (50, 99)).tolist())  # type: ignore[return-value]


def calls(
    fleet: Fleet, allowed: npt.NDArray[np.uint8], rng: np.random.Generator
) -> tuple[float, float]:
    """p50 and p99 of Fleet.find, take and give back, as decide() calls them."""
    took = []
    for size in rng.choice(SIZES, 2000, p=SHARES).tolist():
        began_ns = time.perf_counter_ns()
        found = fleet.find(Gang(size), allowed)
        fleet.take(found)
        took.append((time.perf_counter_ns() - began_ns) / 1e3)
        fleet.take([(row, -more) for row, more in found])
    return tuple(np.percentile(took, (50, 99)).tolist())  # type: ignore[return-value]


def draw(found: list[Figures], path: Path) -> None:
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        print("no matplotlib here: nothing is drawn", file=sys.stderr)
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    grows = [f for f in found if f.jobs < 1_000_000]
    nodes = [f.nodes for f in grows]
    left.loglog(nodes, [f.round_ms for f in grows], "o-", label="largest first")
    left.loglog(nodes, [f.arrival_ms for f in grows], "s--", label="as they arrive")
    left.set(xlabel="nodes of 8 devices", ylabel="CPU ms", title="a full round, 0.8 gangs a node")
    right.semilogx(nodes, [f.change_us[0] for f in grows], "o-", label="p50")
    right.semilogx(nodes, [f.change_us[1] for f in grows], "s--", label="p99")
    right.set(xlabel="nodes of 8 devices", ylabel="µs", title="one gang leaves, one comes")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.legend()
        axes.grid(True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, help="write a PNG")
    args = parser.parse_args()
    found = []
    head = "nodes", "jobs", "placed", "used %", "build", "round", "arriving", "by call"
    wide = "change p50/p99 us", "call p50/p99 us", "index MiB"
    print(("{:>9}" * 8 + "{:>18}" * 3).format(*head, *wide))
    for nodes, jobs in ((1000, 800), (10_000, 8_000), (125_000, 100_000), (125_000, 1_000_000)):
        f = measure(nodes, jobs)
        found.append(f)
        change, called = (f"{p[0]:.1f} / {p[1]:.1f}" for p in (f.change_us, f.called_us))
        print(
            f"{f.nodes:9}{f.jobs:9}{f.placed:9}{100 * f.used:9.2f}{f.build_ms:9.2f}"
            f"{f.round_ms:9.2f}{f.arrival_ms:9.2f}{f.door_ms:9.0f}"
            f"{change:>18}{called:>18}{f.index_mib:18.2f}",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process {peak:.0f} MiB")
    if args.plot:
        draw(found, args.plot)


if __name__ == "__main__":
    main()
