"""A storm: a fleet, a crowd of jobs and a heap of faults, all drawn from one seed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from singularity.primitives.model import ACTIVE, Engine, Job, JobId, JobSpec, Tier
from singularity.primitives.nodes import NodeId, Scope, ScopeKind
from singularity.primitives.sharing import GIB, DeviceShare, Precedence
from singularity.primitives.tariffs import Tariff
from singularity.primitives.topology import Near, Topology
from singularity.scheduler.ledger import Ledger
from singularity.scheduler.policy import Policy

from . import asides, quotas
from .ledger import MemoryLedger
from .physics import Program
from .requests import Requests, balanced
from .world import Costs, World, fleet

JOBS = 40
NODES = 12
DEVICES = 8
CLUSTERS = ("eu-0", "us-1", "eu-2")
SERVICES = 2
FAULTS_UNTIL_S = 3_000.0
PATIENCE_S = 60_000.0
_SOON_S = 120.0  # until nodes have been told what nobody needs any more
_FAULTS = (
    ("crash", 6),
    ("restart", 20),
    ("isolate", 4),
    ("cut off", 1),
    ("drain", 3),
    ("rebalance", 4),
    ("tariff", 4),
    ("kill", 4),
    ("hang", 6),
    ("verify", 12),
)
_CHAINS = (
    (Engine.TRANSPARENT,),
    (Engine.TRANSPARENT, Engine.COOPERATIVE),
    (Engine.TRANSPARENT, Engine.COOPERATIVE, Engine.RESTART),
    (Engine.TRANSPARENT, Engine.RESTART),
    (Engine.COOPERATIVE,),
    (Engine.RESTART,),
)


def storm(seed: int, ledger: Ledger | None = None) -> World:
    """A world with everything that will befall it already in its future."""
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    world = World(
        fleet(NODES, DEVICES),
        seed=seed,
        costs=_weather(rng),
        policy=_mood(np.random.Generator(np.random.PCG64([seed, 4]))),
        ledger=ledger or MemoryLedger(),
    )
    places = np.random.Generator(np.random.PCG64([seed, 3]))
    for i in range(JOBS):
        job = _placed(places, _job(rng, i))
        world.at(float(rng.uniform(0, 2_000)), partial(world.submit, job))
    opens_s, cluster = float(places.uniform(900, 2_400)), CLUSTERS[int(places.integers(3))]
    world.at(float(places.uniform(0, 600)), partial(world.maintain, cluster, opens_s, 300.0))
    if seed % 2:
        for at_s in (1.0, *rng.uniform(0, FAULTS_UNTIL_S, 6)):
            world.at(float(at_s), partial(quotas.rethink, world))
    for what, times in _FAULTS:
        for _ in range(times):
            world.at(float(rng.uniform(0, FAULTS_UNTIL_S)), partial(_fault, world, what))
    world.at(FAULTS_UNTIL_S, world.calm)
    for later_s in (300.0, 1_000.0, 2_000.0):  # nodes are used in part by then
        world.at(FAULTS_UNTIL_S + later_s, partial(world.rebalance, 500.0))
    Requests(world, np.random.Generator(np.random.PCG64([seed, 2])), SERVICES, FAULTS_UNTIL_S)
    return world


def survive(world: World) -> None:
    """Run it to the end; raises AssertionError where a law is broken."""
    world.run(PATIENCE_S, jobs=JOBS)
    jobs = list(world.ledger.jobs().values())
    own = [j for j in jobs if j.spec.aside is None and j.spec.serving is None]
    left = {j.id: (j.state, j.message) for j in own if not _as_meant(j)}
    assert len(own) == JOBS and not left, left
    asides.all_told(world.ledger.jobs())
    assert not world.ledger.services(), "a service has not ended"
    world.run(world.now_s + _SOON_S)
    waiting = {m.node.id: sorted(m.warm) for m in world.machines.values() if m.warm}
    assert not waiting, f"replicas wait for services that have ended: {waiting}"
    balanced(jobs, world.ledger.loans())
    assert all(n.used == 0 and not n.parts for n in world.ledger.nodes().values()), (
        "devices were never given back"
    )


def _as_meant(job: Job) -> bool:
    code = Program.read(job.spec.run).code
    return job.state == ("failed" if code else "succeeded") and job.exit_code == code


def _weather(rng: np.random.Generator) -> Costs:
    """Each seed has its own: what one kind of weather hides another shows."""
    return Costs(
        plan_s=float(rng.choice([0.1, 8.0])),  # longer than a tick: plans overlap
        hop_s=float(rng.choice([0.05, 1.0])),
        late_s=float(rng.choice([30.0, 300.0])),
        drop=float(rng.choice([0.0, 0.05, 0.3])),
        repeat=float(rng.choice([0.0, 0.2])),
        late=float(rng.choice([0.0, 0.02, 0.2])),
        disk_full=float(rng.choice([0.0, 0.1])),
        rot=float(rng.choice([0.0, 0.1])),
        refuse=float(rng.choice([0.0, 0.1])),
        undumping=float(rng.choice([0.0, 0.2])),
        scarce=float(rng.choice([0.0, 0.2])),
    )


def _mood(rng: np.random.Generator) -> Policy:
    """Some planes let jobs of an hour make way for their equals, or move them, after a minute."""
    return Policy(quantum_s=60.0, level_first_s=600.0) if rng.random() < 0.6 else Policy()


def _job(rng: np.random.Generator, number: int) -> Job:
    devices = int(rng.choice([1, 2, 4, 8, 16]))
    ranks = int(rng.choice([1, devices, devices * 2])) if devices > 1 else int(rng.choice([1, 2]))
    program = Program(
        steps=int(rng.integers(3, 200)),
        step_s=float(rng.choice([2.0, 20.0])),
        free=ranks == 1 and bool(rng.random() < 0.5),
        code=3 if rng.random() < 0.05 else 0,
        carried=rng.random() < 0.8,
    )
    if ranks == 1:
        devices = min(devices, DEVICES)  # one rank's devices never straddle two nodes
    share = _share(rng)
    if share is not None:
        devices = ranks = 1 if program.free else min(devices, DEVICES)
    spec = JobSpec(
        name=f"job-{number}",
        run=program.line(),
        ranks=ranks,
        device="sim",
        devices=devices,
        devices_min=1 if rng.random() < 0.5 and ranks > 1 and share is None else devices,
        devices_max=devices,
        tier=Tier(int(rng.integers(3))),
        project=quotas.PROJECTS[number % 4],
        checkpoint_every_s=[None, 120.0, 600.0][int(rng.integers(3))],
        hang_after_s=[None, 300.0][int(rng.integers(2))],
        retry_infra=10_000,
        engines=_CHAINS[int(rng.integers(len(_CHAINS)))],
        share=share,
    )
    return Job(JobId(f"j{number:03}"), spec, devices)


def _placed(rng: np.random.Generator, job: Job) -> Job:
    """Some gangs say how near to each other their ranks are to be, and where their data are."""
    options: tuple[dict[str, Any], ...] = (
        {"same_node": True},
        {"topology": Topology(same_rack=True)},
        {"topology": Topology(prefer=Near.RACK)},
        {"topology": Topology(spread=Near.NODE)},
        {"topology": Topology(apart="group")},
        {"data": ("eu",)},
    )
    wanted = options[int(rng.integers(len(options)))]
    if rng.random() < 0.5 or ("same_node" in wanted and job.devices > DEVICES):
        return job
    return replace(job, spec=replace(job.spec, **wanted))


def _share(rng: np.random.Generator) -> DeviceShare | None:
    """Some jobs have only a part of each device."""
    milli, gib = int(rng.choice([100, 250, 400, 700])), int(rng.choice([1, 4, 10]))
    precedence = list(Precedence)[int(rng.integers(2))]
    return DeviceShare(milli, gib * GIB, precedence) if rng.random() < 0.4 else None


def _befall(world: World, what: str) -> None:
    """Something happens to the ranks of one job on one node. Only who asked for it to be noticed
    is made to hang: anybody else would hang for ever."""
    held = sorted(
        (machine.node.id, job)
        for machine in world.machines.values()
        for job, ranks in machine.ranks.items()
        if what == "kill" or (ranks.start.hang_after_s is not None and not ranks.program.free)
    )
    if held:
        node, job = held[int(world.rng.integers(len(held)))]
        machine = world.machines[node]
        machine.kill_ranks(job) if what == "kill" else machine.hang(job)


def _fault(world: World, what: str) -> None:
    """Aim where it hurts: mostly at a node in the middle of a change."""
    jobs = [j for j in world.ledger.jobs().values() if j.state in ACTIVE]
    busy = sorted({n for j in jobs for n in (*j.awaiting, *j.dumping)})
    if what in ("kill", "hang"):
        _befall(world, what)
        return
    nodes = busy if busy and world.chance(0.7) else sorted(world.machines)
    node = NodeId(nodes[int(world.rng.integers(len(nodes)))])
    seconds = float(world.rng.uniform(0, 200))
    match what:
        case "crash":
            world.crash(node, seconds)
        case "restart":
            world.restart(node, seconds / 4)
        case "verify":
            asides.ask(world)
        case "cut off":
            world.cut_off(world.machines[node].node.region, seconds)
        case "isolate":
            world.isolate(node, seconds)
        case "tariff":
            place = Scope(ScopeKind.CLUSTER, CLUSTERS[int(world.rng.integers(3))])
            world.ledger.set_tariff(Tariff(place, float(world.rng.uniform(0.0, 4.0)), 100.0))
        case "rebalance":
            world.rebalance(seconds * 5)
        case "drain":
            world.drain(node, seconds * 5)
