"""B1: packing shares of devices, on the lists of openb (Alibaba, 2023; FGD, ATC '23).

Pods arrive one by one until they have asked for 130 % of all devices, and never leave; one that
fits nowhere is dropped. FGD is run again here on the same arrivals, as it was published: integer
scores, ties to the first node. Then ours; then ours with elastic slices on all that it leaves.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from singularity.scheduler.fleet.fragments import (
    WHOLE,
    Demand,
    Scale,
    balance,
    fragmentation,
    mix_of,
)
from singularity.scheduler.fleet.shares import Host, Shares
from singularity.scheduler.fleet.slices import Count, Slices

LISTS = ("default", "cpu250", "gpushare40", "gpuspec33", "multigpu20")
PUBLISHED = dict(zip(LISTS, (95.39, 93.41, 94.15, 94.55, 95.65), strict=True))
ARRIVE, FIRST_SEED = 1.3, 42


@dataclass(frozen=True)
class Trace:
    hosts: list[Host]
    pods: list[Demand]

    @property
    def milli(self) -> int:
        return WHOLE * sum(h.devices for h in self.hosts)

    def arrivals(self, seed: int) -> list[Demand]:
        """Shuffled, then drawn with replacement, until the next would ask for more than 130 %."""
        rng = np.random.default_rng(seed)
        found = [self.pods[i] for i in rng.permutation(len(self.pods))]
        asked = sum(asks(pod) for pod in found)
        while asked > ARRIVE * self.milli:
            asked -= asks(found.pop(int(rng.integers(len(found)))))
        while asked + asks(pod := self.pods[rng.integers(len(self.pods))]) <= ARRIVE * self.milli:
            found.append(pod)
            asked += asks(pod)
        return found

    def permuted(self, seed: int) -> list[Host]:
        rng = np.random.default_rng(seed)
        return [self.hosts[i] for i in rng.permutation(len(self.hosts))]


def asks(pod: Demand) -> int:
    return pod.devices * pod.compute


@dataclass(frozen=True)
class Outcome:
    used: float  # of all devices, in per cent
    dropped: int
    us: float  # a decision, wall
    sliced: float = 0.0
    idle: float = 0.0  # milli in devices with less than a slice left
    events: Count | None = None


def read(data: Path, name: str) -> Trace:
    with (data / "openb_node_list_gpu_node.csv").open() as file:
        nodes = list(csv.DictReader(file))
    with (data / f"openb_pod_list_{name}.csv").open() as file:
        pods = sorted(csv.DictReader(file), key=lambda pod: pod["name"])
    models = sorted({node["model"] for node in nodes})
    hosts = [
        Host(int(n["cpu_milli"]), int(n["memory_mib"]), int(n["gpu"]), models.index(n["model"]))
        for n in nodes
    ]
    return Trace(hosts, [demand(pod, models) for pod in pods])


def demand(pod: dict[str, str], models: list[str]) -> Demand:
    """A pod as a demand. The lists know one number for a share: it is compute and memory alike."""
    devices, spec = int(pod["num_gpu"]), pod.get("gpu_spec") or ""
    kinds = sum(1 << models.index(m) for m in spec.split("|") if m in models)
    if not spec or not devices:
        kinds = (1 << len(models)) - 1
    milli = min(WHOLE, int(pod["gpu_milli"])) if devices else 0
    return Demand(int(pod["cpu_milli"]), int(pod["memory_mib"]), devices, milli, milli, kinds)


def run(trace: Trace, seed: int, scale: Scale, *, sliced: bool = False) -> Outcome:
    shares = Shares(trace.permuted(seed), mix_of(trace.pods), scale)
    slices = Slices(shares)
    arrivals = trace.arrivals(seed)
    used, dropped, took_ns = 0, 0, 0
    if sliced:
        slices.fill()
    for pod in arrivals:
        began_ns = time.perf_counter_ns()
        if spot := shares.find(pod):
            shares.take(spot)
        took_ns += time.perf_counter_ns() - began_ns
        dropped += spot is None
        used += asks(pod) if spot else 0
        if spot and sliced:
            slices.settle(spot.node)
    part = 100 / trace.milli
    us = took_ns / len(arrivals) / 1e3
    left = int(np.where(shares.compute < slices.least, shares.compute, 0).sum())
    if not sliced:
        return Outcome(used * part, dropped, us)
    return Outcome(used * part, dropped, us, slices.used() * part, left * part, slices.count)


def lines(data: Path, seeds: int) -> Iterator[str]:
    yield f"{'list':12}{'published':>10}{'FGD':>8}{'ours':>8}{'dropped FGD':>13}{'ours':>7}" + (
        f"{'fewer, a seed':>16}{'us':>6}{'+ slices':>10}{'dropped':>9}  what slices went through"
    )
    for name in LISTS:
        trace = read(data, name)
        range_ = range(FIRST_SEED, FIRST_SEED + seeds)
        published = fragmentation(mix_of(trace.pods))
        run(trace, 0, published), run(trace, 0, balance())  # compiled by now
        theirs = [run(trace, seed, published) for seed in range_]
        ours = [run(trace, seed, balance()) for seed in range_]
        full = [run(trace, seed, balance(), sliced=True) for seed in range_]
        fewer = [a.dropped - b.dropped for a, b in zip(theirs, ours, strict=True)]
        same = all(a.dropped == b.dropped for a, b in zip(ours, full, strict=True))
        events = [o.events for o in full if o.events]
        told = ", ".join(
            f"{what} {np.mean([getattr(e, what) for e in events]):.0f}"
            for what in ("begun", "resumed", "resized", "migrated", "evicted")
        )
        yield (
            f"{name:12}{PUBLISHED[name]:10.2f}{mean(theirs, 'used'):8.2f}{mean(ours, 'used'):8.2f}"
            f"{mean(theirs, 'dropped'):13.0f}{mean(ours, 'dropped'):7.0f}"
            f"{f'{min(fewer)} to {max(fewer)}':>16}{mean(ours, 'us'):6.0f}"
            f"{mean(full, 'used') + mean(full, 'sliced'):10.2f}"
            f"{'the same' if same else 'OTHERS':>9}  {told}"
        )


def mean(found: list[Outcome], what: str) -> float:
    return float(np.mean([getattr(o, what) for o in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="where the lists of openb are")
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    for line in lines(args.data, args.seeds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
