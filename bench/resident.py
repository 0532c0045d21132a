"""A round of the scheduler on a large planet: the snapshot from all rows and from what changed,
decide(), and the check of its plan. Nodes of 8 devices; jobs of 1 to 16 devices run on them, and
some wait. No database: rows are made here. Milliseconds are of CPU, of the round in the middle; the
worst is the first, which loads what is compiled. Memory is what this process has at most."""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from singularity.primitives.model import Job, JobId, JobSpec, JobState, Shard, Tier
from singularity.primitives.nodes import ClusterId, Node, NodeId, RegionId
from singularity.scheduler.decide import decide
from singularity.scheduler.policy import Policy
from singularity.scheduler.resident import Resident
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.standing import check

T = TypeVar("T")
DEVICES, NODES_OF_A_CLUSTER, ROUNDS = 8, 1000, 5
NOW_S = 10_000.0


def planet(nodes: int, jobs: int) -> tuple[list[Node], list[Job]]:
    """Jobs fill nodes from the first on; those of 16 devices take two nodes."""
    rng, used = np.random.default_rng(0), np.zeros(nodes, dtype=np.int64)
    running, at = [], 0
    for number in range(jobs):
        size = int(rng.choice([1, 2, 4, 8, 16], p=[0.3, 0.2, 0.2, 0.2, 0.1]))
        shards: list[Shard] = []
        for part in [min(size, DEVICES)] * max(1, size // DEVICES):
            while used[at] + part > DEVICES:
                at += 1
            shards.append(Shard(node_id(at), part, tuple(range(part))))
            used[at] += part
        running.append(job(number, size, tuple(shards)))
    made = [
        Node(
            id=node_id(n),
            region=RegionId(f"region-{n // (8 * NODES_OF_A_CLUSTER):02}"),
            cluster=ClusterId(f"cluster-{n // NODES_OF_A_CLUSTER:03}"),
            device="h200",
            devices=DEVICES,
            used=int(used[n]),
            epoch=1,
        )
        for n in range(nodes)
    ]
    return made, running


def node_id(number: int) -> NodeId:
    return NodeId(f"node-{number:06}")


def job(number: int, size: int, placement: tuple[Shard, ...]) -> Job:
    gang = {"ranks": size, "devices": size, "devices_min": size, "devices_max": size}
    spec = JobSpec(f"job-{number}", ("train",), device="h200", tier=Tier(number % 3), **gang)  # type: ignore[arg-type]
    state = JobState.RUNNING if placement else JobState.PENDING
    since_s = NOW_S - 1800.0 * (number % 997) / 997  # no checkpoint is due before half an hour
    return Job(
        id=JobId(f"j{number:07}"),
        spec=spec,
        devices=size,
        state=state,
        placement=placement,
        incarnation=int(bool(placement)),
        running_at_s=since_s if placement else None,
        started_at_s=since_s if placement else None,
    )


def timed(what: Callable[[], T]) -> tuple[T, float]:
    began_s = time.process_time()
    return what(), (time.process_time() - began_s) * 1e3


def measure(nodes: int, jobs: int, waiting: int) -> None:
    rows, running = planet(nodes, jobs)
    snapshot, full_ms = timed(lambda: Snapshot.build(rows, running, NOW_S))
    resident = Resident()
    resident.apply(rows, running)
    resident.snapshot(NOW_S)
    rounds, placed = [], 0
    for turn in range(ROUNDS):
        sizes = [2 ** (n % 6) for n in range(waiting)]
        fresh = [job(jobs + turn * waiting + n, size, ()) for n, size in enumerate(sizes)]
        here = [replace(n, seq=n.seq + 1 + turn) for n in rows[turn :: nodes // 10]]

        def follow(here: list[Node] = here, fresh: list[Job] = fresh) -> Snapshot:
            resident.apply(here, fresh)
            return resident.snapshot(NOW_S)

        snapshot, follow_ms = timed(follow)
        plan, decide_ms = timed(lambda seen=snapshot: decide(seen, Policy()))  # type: ignore[misc]
        broken, check_ms = timed(lambda seen=snapshot, made=plan: check(seen, made))  # type: ignore[misc]
        assert broken == []
        placed = len(plan.actions)
        rounds.append((follow_ms + decide_ms + check_ms, follow_ms, decide_ms, check_ms))
        resident.apply((), [replace(j, state=JobState.CANCELLED) for j in fresh])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{nodes:8}{jobs:8}{waiting:8}{placed:8}{full_ms:10.0f}"
        + "".join(f"{ms:10.1f}" for ms in statistics.median_low(rounds))
        + f"{max(rounds)[0]:10.1f}{peak:10.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, default=100, help="jobs that come between rounds")
    args = parser.parse_args()
    row = "{:>8}" * 4 + "{:>10}" * 7
    head = "nodes", "jobs", "waiting", "placed", "all rows", "round", "changed", "decide", "check"
    print(row.format(*head, "worst", "peak"))
    print(row.format("", "", "", "", *["ms"] * 6, "GiB"))
    for nodes, jobs in ((1_000, 800), (10_000, 8_000), (125_000, 100_000)):
        measure(nodes, jobs, args.waiting)


if __name__ == "__main__":
    main()
