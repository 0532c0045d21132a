"""Rounds of the scheduler when thousands of jobs wait: with and without quotas, on a full fleet, on
one with a third of it idle, and when a region is drained or has just been lost.

Nodes of 8 devices in 4 regions; jobs of 1 to 64 devices, of every tier and level, half of them
elastic, those that run with costs of their own. Milliseconds of CPU, the least of `--runs`; the
digest is of the whole plan with all its reasons, so two versions that decide alike show the same.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from singularity.primitives.drains import Drain
from singularity.primitives.holdings import divide
from singularity.primitives.model import Job, JobId, JobSpec, JobState, Shard, Tier
from singularity.primitives.nodes import ClusterId, Duty, Node, NodeId, RegionId, Scope, ScopeKind
from singularity.primitives.projects import Allotment, Project
from singularity.primitives.service import Account
from singularity.scheduler.decide import decide
from singularity.scheduler.plan import Plan
from singularity.scheduler.policy import Policy
from singularity.scheduler.resident import Resident
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.standing import check

DEVICES, REGIONS, NODES_OF_A_CLUSTER, NOW_S = 8, 4, 64, 1_000_000.0
ORGS, TEAMS = 3, 4
POLICY = Policy()


@dataclass(frozen=True)
class Case:
    name: str
    waiting: int = 5_000
    quotas: bool = True
    idle: float = 0.0  # part of the jobs that have just ended
    region: str = ""  # what has become of the first one


CASES = (
    Case("full", quotas=False),
    Case("full, quotas"),
    Case("full, quotas, twice as many", waiting=10_000),
    Case("full, quotas, four times", waiting=20_000),
    Case("a third idle", quotas=False, idle=0.33),
    Case("a third idle, quotas", idle=0.33),
    Case("idle, quotas", idle=1.0, waiting=15_000),
    Case("drained region, quotas", region="drained"),
    Case("drained region, quotas, a third idle", idle=0.33, region="drained"),
    Case("lost region, quotas", region="lost"),
)


def crowd(nodes: int, case: Case) -> Snapshot:
    rng = np.random.Generator(np.random.PCG64(7))
    running = [j for j in _running(rng, nodes) if rng.random() >= case.idle]
    used = np.zeros(nodes, dtype=np.int64)
    for job in running:
        for shard in job.placement:
            used[int(shard.node[1:])] += shard.devices
    duty = Duty.DRAINING if case.region == "drained" else Duty.READY
    made = []
    for n, taken in enumerate(used.tolist()):
        node = _node(n, nodes, taken)
        if node.region == "r0":
            node = replace(node, duty=duty, lost=case.region == "lost")
        made.append(node)
    first = ScopeKind.REGION, "r0"
    drains = (Drain("drain-1", Scope(*first), NOW_S - 60.0),) if case.region == "drained" else ()
    waiting = [_waiting(rng, number) for number in range(case.waiting)]
    resident = Resident()
    resident.apply(made, [*running, *waiting])
    found = resident.snapshot(NOW_S, drains)
    return replace(found, projects=tuple(_projects(nodes * DEVICES)) if case.quotas else ())


def _node(number: int, nodes: int, used: int) -> Node:
    region = f"r{number * REGIONS // nodes}"
    return Node(
        id=NodeId(f"n{number:06}"),
        region=RegionId(region),
        cluster=ClusterId(f"{region}-{number // NODES_OF_A_CLUSTER}"),
        device="h200",
        devices=DEVICES,
        used=used,
        epoch=1,
        rack=str(number // 16),
    )


def _running(rng: np.random.Generator, nodes: int) -> Iterator[Job]:
    """Jobs on all nodes, from the first to the last; every fourth elastic one is narrower than it
    wants to be."""
    at, used, number = 0, 0, 0
    while at < nodes:
        wanted = int(rng.choice([1, 2, 4, 8, 16], p=[0.25, 0.25, 0.2, 0.2, 0.1]))
        wanted = min(wanted, _left(at, used, nodes))
        narrow = wanted > 1 and rng.random() < 0.12
        left, shards = max(1, wanted // 2) if narrow else wanted, []
        while left and at < nodes:
            part = min(left, DEVICES - used)
            shards.append(Shard(NodeId(f"n{at:06}"), part))
            left, used = left - part, used + part
            at, used = (at + 1, 0) if used == DEVICES else (at, used)
        if left:  # the last nodes are not full
            return
        job = _job(rng, f"r{number:06}", wanted, elastic=narrow or rng.random() < 0.4)
        began_s = NOW_S - float(rng.uniform(10.0, 20_000.0))
        yield replace(
            job,
            state=JobState.RUNNING,
            placement=divide(tuple(shards), wanted),
            incarnation=1,
            since_s=began_s,
            started_at_s=began_s,
            running_at_s=began_s,
            pause_s=float(rng.uniform(1.0, 30.0)) if rng.random() < 0.5 else None,
        )
        number += 1


def _left(at: int, used: int, nodes: int) -> int:
    """Devices until the end of the cluster, for no gang lies in two."""
    here, end = _node(at, nodes, 0).cluster, at + 1
    while end < nodes and end < at + 2 and _node(end, nodes, 0).cluster == here:
        end += 1
    return (end - at) * DEVICES - used


def _waiting(rng: np.random.Generator, number: int) -> Job:
    sizes, parts = [1, 2, 4, 8, 16, 32, 64], [0.3, 0.2, 0.15, 0.15, 0.1, 0.06, 0.04]
    wanted = int(rng.choice(sizes, p=parts))
    job = _job(rng, f"w{number:06}", wanted, elastic=wanted > 1 and rng.random() < 0.5)
    regions = [(), ("r1", "r2"), ("r0",)][int(rng.choice(3, p=[0.8, 0.1, 0.1]))]
    job = replace(job, spec=replace(job.spec, regions=regions))
    if rng.random() < 0.2:  # ran before
        return replace(job, state=JobState.SUSPENDED, incarnation=1, since_s=NOW_S - 600.0)
    return replace(job, account=None)


def _job(rng: np.random.Generator, name: str, devices: int, *, elastic: bool) -> Job:
    spec = JobSpec(
        name=name,
        run=("train",),
        ranks=devices,
        device="h200",
        devices=devices,
        devices_min=max(1, devices // 4) if elastic else devices,
        devices_max=devices,
        tier=Tier(int(rng.choice(3, p=[0.1, 0.3, 0.6]))),
        project=f"team-{int(rng.integers(ORGS * TEAMS))}",
    )
    came_s = NOW_S - float(rng.uniform(0.0, 50_000.0))
    had = Account(NOW_S - 600.0, given_s=float(rng.lognormal(9.0, 2.0)))
    return Job(JobId(name), spec, devices, submitted_at_s=came_s, account=had)


def _projects(devices: int) -> Iterator[Project]:
    """Half of what there is is guaranteed to teams, a fifth more to what they are parts of; a
    third of the teams lends only half of its own, and a third borrows only as much as it has."""
    each = devices // (2 * ORGS * TEAMS)
    for org in range(ORGS):
        mine = Allotment("h200", each * TEAMS * 6 // 5)
        yield Project(f"org-{org}", allotments=(mine,))
    for team in range(ORGS * TEAMS):
        lend = each // 2 if team % 3 == 1 else None
        borrow = each if team % 3 == 2 else None
        said = (Allotment("h200", each, borrow, lend),)
        yield Project(f"team-{team}", f"org-{team % ORGS}", allotments=said)


def digest(plan: Plan) -> str:
    actions = [repr(replace(a, lost=frozenset())) + repr(sorted(a.lost)) for a in plan.actions]
    told = actions, sorted(plan.pending.items()), plan.orders
    return hashlib.sha256(repr(told).encode()).hexdigest()[:12]


def measure(nodes: int, case: Case, runs: int) -> None:
    snapshot, took = crowd(nodes, case), []
    for _ in range(runs):
        began_s = time.process_time()
        plan = decide(snapshot, POLICY)
        took.append((time.process_time() - began_s) * 1e3)
    assert check(snapshot, plan) == []
    running = sum(j.state is JobState.RUNNING for j in snapshot.jobs)
    print(
        f"{case.name:40}{nodes:7}{running:9}{case.waiting:9}{len(plan.actions):9}"
        f"{min(took):12.0f}  {digest(plan)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    asked = parser.parse_args()
    heads = "", "nodes", "running", "waiting", "actions", "decide ms"
    print("{:40}{:>7}{:>9}{:>9}{:>9}{:>12}  digest".format(*heads))
    for case in CASES:
        if asked.only in case.name:
            measure(asked.nodes, case, asked.runs)


if __name__ == "__main__":
    main()
