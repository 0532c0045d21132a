"""What it costs to divide devices of several types among many jobs by prices, and how far from the
best that is. CPU time of this one process, in ms."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from singularity.scheduler.goodput import Allotment, Floats, Ints, allot

SIZES = np.array([1, 2, 4, 8, 16, 32, 64, 128])
WANTED = [0.35, 0.15, 0.15, 0.15, 0.1, 0.05, 0.03, 0.02]  # the most that a job can use
TYPES, CONTENDED = 4, 0.6  # there are so many devices of what all jobs want together


def instance(jobs: int, seed: int = 1) -> tuple[Floats, Ints]:
    """Jobs whose speed differs between types and grows with devices to a power of 0.5 to 0.98."""
    rng = np.random.default_rng(seed)
    speed = rng.uniform(1, 5, (TYPES, jobs))
    speed /= speed.min(axis=0)
    power = rng.uniform(0.5, 0.98, jobs)
    most = rng.choice(SIZES, jobs, p=WANTED)
    weight = rng.choice([4.0, 2.0, 1.0], jobs, p=[0.1, 0.3, 0.6])
    grows = SIZES[:, None].astype(float) ** power
    utility = weight * np.sqrt(speed[:, None, :] * grows[None])
    utility[:, SIZES[:, None] > most] = 0.0
    capacity = np.full(TYPES, int(most.sum() * CONTENDED / TYPES))
    return utility, capacity


def timed(what: Callable[[], Allotment]) -> tuple[Allotment, float]:
    best_ms = np.inf
    for _ in range(3):
        began_s = time.process_time()
        found = what()
        best_ms = min(best_ms, 1e3 * (time.process_time() - began_s))
    return found, best_ms


def main() -> None:
    heads = "jobs", "devices", "cold ms", "warm ms", "below bound", "idle"
    print(("{:>12}" * 6).format(*heads))
    for jobs in (100, 1000, 10_000, 100_000):
        utility, capacity = instance(jobs)
        cold, cold_ms = timed(lambda u=utility, c=capacity: allot(u, SIZES, c))
        warm, warm_ms = timed(
            lambda u=utility, c=capacity, p=cold.prices: allot(u, SIZES, c, prices=p)
        )
        gap = 1.0 - warm.value / warm.bound
        idle = int(capacity.sum() - warm.size.sum())
        print(
            f"{jobs:12}{capacity.sum():12}{cold_ms:12.1f}{warm_ms:12.1f}{100 * gap:11.3f}%{idle:12}"
        )
        print(f"{'':36}cold: {100 * (1 - cold.value / cold.bound):.3f}% below its bound")


if __name__ == "__main__":
    main()
