"""What it costs to ask: why a job waits and until when, and what would be if a region went.

A fleet of `--nodes` of 8 devices in 4 regions, full of jobs of every tier, and as many that wait.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from singularity.primitives.messages import Register
from singularity.primitives.model import Job, JobId, JobSpec, Tier
from singularity.primitives.nodes import NodeId, Scope, ScopeKind
from singularity.scheduler.advice import advise
from singularity.scheduler.decide import decide
from singularity.scheduler.durations import Durations, Ran
from singularity.scheduler.eta import forecast
from singularity.scheduler.explain import explain
from singularity.scheduler.policy import Policy
from singularity.scheduler.rehearsal import rehearse
from singularity.scheduler.sim.ledger import MemoryLedger
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.whatif import Changes, compare

POLICY = Policy()


def planet(nodes: int) -> Snapshot:
    ledger, rng = MemoryLedger(), np.random.Generator(np.random.PCG64(1))
    for i in range(nodes):
        region = f"r{i % 4}"
        where = {"region": region, "cluster": f"{region}-{i // 4 // 64}", "address": ""}
        ledger.register(Register(node=NodeId(f"n{i:05}"), device="sim", devices=8, **where), 0.0)
    wanted = 0
    while wanted < nodes * 8 * 1.5:
        devices = int(rng.choice([1, 2, 4, 8, 16]))
        tier, number = Tier(int(rng.integers(3))), len(ledger.jobs())
        sizes = {"ranks": devices, "devices": devices, "devices_max": devices}
        spec = JobSpec(
            f"job-{number}", ("x",), device="sim", devices_min=devices, tier=tier, **sizes
        )
        job = Job(JobId(f"j{number:06}"), spec, devices, submitted_at_s=float(number))
        ledger.submit(job)
        wanted += devices
    return rehearse(ledger.snapshot(1_000.0), POLICY)[0]


def seconds(what: Callable[[], object]) -> float:
    began_s = time.process_time()
    what()
    return time.process_time() - began_s


def measured(snapshot: Snapshot) -> tuple[int, list[float]]:
    """Jobs that wait, and CPU seconds of each question about the first of them."""
    plan = decide(snapshot, POLICY)
    waiting = [j for j in snapshot.jobs if j.id in plan.pending]
    known = Durations([Ran("default", "x", "train", 3_600.0)] * 30)
    away = Changes(without=(Scope(ScopeKind.REGION, "r0"),))
    return len(waiting), [
        seconds(lambda: decide(snapshot, POLICY)),
        seconds(lambda: explain(snapshot, plan, waiting[0], POLICY)),
        seconds(lambda: advise(snapshot, plan, waiting[0], POLICY)),
        seconds(lambda: forecast(snapshot, known, POLICY)),
        seconds(lambda: compare(snapshot, away, POLICY)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, nargs="*", default=[100, 1_000])
    asked = parser.parse_args()
    print("nodes   jobs  waiting  decide s  why s  advice s  estimate s  plan -region s")
    for nodes in asked.nodes:
        snapshot = planet(nodes)
        waiting, told = measured(snapshot)
        print(
            f"{nodes:>5} {len(snapshot.jobs):>6} {waiting:>8} {told[0]:>9.2f} {told[1]:>6.2f}"
            f" {told[2]:>9.2f} {told[3]:>11.2f} {told[4]:>15.2f}"
        )


if __name__ == "__main__":
    main()
