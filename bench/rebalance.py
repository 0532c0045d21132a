"""What a rebalance would free, and at what price, on a fleet that has been in use for a while.

Jobs of 1, 2, 4 and 8 devices (8:4:2:1) come until the fleet is full, and half of them end, drawn at
random. All that are left have run for long enough to be moved; none was ever measured.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import replace

import numpy as np

from singularity.primitives.model import Job, JobId, JobSpec, JobState, Shard
from singularity.primitives.nodes import ClusterId, Node, NodeId, RegionId
from singularity.scheduler.draft import Draft
from singularity.scheduler.policy import Policy
from singularity.scheduler.rebalance import clearances
from singularity.scheduler.snapshot import Snapshot

NOW_S = 1e6
DEVICES = 8


def used_fleet(count: int, seed: int) -> Snapshot:
    """`count` nodes in clusters of 50, half of whose jobs have ended."""
    rng = np.random.Generator(np.random.PCG64(seed))
    free, jobs = [DEVICES] * count, []
    while True:
        size = int(rng.choice([1, 2, 4, 8], p=np.array([8, 4, 2, 1]) / 15))
        fits = [i for i, left in enumerate(free) if left >= size]
        if not fits:
            break
        row = min(fits, key=lambda i: (free[i], i))
        free[row] -= size
        jobs.append((row, size))
    kept = [job for job in jobs if rng.random() < 0.5]
    used = Counter[int]()
    for row, size in kept:
        used[row] += size
    nodes = [
        Node(
            NodeId(f"n{i:05}"), RegionId("r"), ClusterId(f"c{i // 50:03}"), "gpu", DEVICES, used[i]
        )
        for i in range(count)
    ]
    found = [job(i, f"n{row:05}", size) for i, (row, size) in enumerate(kept)]
    return Snapshot.build((replace(n, epoch=1) for n in nodes), found, NOW_S)


def job(number: int, node: str, size: int) -> Job:
    spec = JobSpec("job", ("x",), ranks=size, device="gpu", devices=size, devices_max=size)
    return Job(
        JobId(f"j{number:06}"),
        spec,
        size,
        state=JobState.RUNNING,
        incarnation=1,
        placement=(Shard(NodeId(node), size, tuple(range(size))),),
        running_at_s=0.0,
        started_at_s=0.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    print("nodes  used   whole before -> after   moves   costs / is worth, device-s   ms")
    for count in args.nodes:
        for seed in range(args.seeds):
            snapshot = used_fleet(count, seed)
            began_s = time.perf_counter()
            found = clearances(Draft(snapshot), None, Policy())
            took_ms = (time.perf_counter() - began_s) * 1e3
            whole = int((snapshot.free == snapshot.total).sum())
            moves = sum(len(c.moves) for c in found)
            cost_s, worth_s = sum(c.cost_s for c in found), sum(c.worth_s for c in found)
            used = 1 - float(snapshot.free.sum() / snapshot.total.sum())
            print(
                f"{count:5}  {used:4.0%}   {whole:5} -> {whole + len(found):5}          {moves:5}"
                f"   {cost_s:8.0f} / {worth_s:9.0f}            {took_ms:7.0f}"
            )


if __name__ == "__main__":
    main()
