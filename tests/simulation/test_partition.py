"""A region is cut off from the control plane: its jobs go on where they are if that is short, go on
elsewhere if it is not, and nothing runs twice when the region is back."""

from __future__ import annotations

from functools import partial

import pytest

from singularity.primitives.model import TERMINAL, Job, JobId, JobSpec, JobState, Tier
from singularity.primitives.nodes import NodeId
from singularity.scheduler.policy import Policy
from singularity.scheduler.sim.ledger import MemoryLedger
from singularity.scheduler.sim.physics import Program
from singularity.scheduler.sim.world import Costs, World, fleet

CUT_OFF_S = 300.0
JOBS = ("home", "free", "far")


def world(seed: int) -> World:
    """Six nodes of 8 devices in clusters of eu and us, and jobs of both with checkpoints."""
    made = World(fleet(6), seed=seed, costs=Costs(), policy=Policy(), ledger=MemoryLedger())
    where = {"home": ("us",), "free": (), "far": ("eu",)}
    for number, name in enumerate(JOBS):
        spec = JobSpec(
            name=name,
            run=Program(steps=400, step_s=2.0).line(),
            ranks=4,
            device="sim",
            devices=4,
            devices_min=4,
            devices_max=4,
            tier=Tier.STANDARD,
            regions=where[name],
            checkpoint_every_s=60.0,
            retry_infra=100,
        )
        made.at(5.0 + number, partial(made.submit, Job(JobId(name), spec, 4)))
    made.run(CUT_OFF_S)
    assert all(job(made, name).state is JobState.RUNNING for name in JOBS)
    return made


def job(world: World, name: str) -> Job:
    return world.ledger.jobs()[JobId(name)]


def region(world: World, name: str) -> str:
    """Where its ranks are, as far as the control plane knows."""
    nodes = {world.machines[NodeId(n)].node.region for n in job(world, name).nodes}
    return ",".join(sorted(nodes))


def finished(world: World) -> bool:
    return all(job(world, name).state is JobState.SUCCEEDED for name in JOBS)


@pytest.mark.parametrize("seed", range(3))
def test_a_short_cut_is_no_reason_to_move_anything(seed: int) -> None:
    made = world(seed)
    before = {name: job(made, name).incarnation for name in JOBS}
    made.cut_off("us", 12.0)
    made.run(CUT_OFF_S + 60.0)
    assert {name: job(made, name).incarnation for name in JOBS} == before
    assert made.counts["lost"] == 0
    made.run(20_000.0, jobs=len(JOBS))
    assert finished(made)


@pytest.mark.parametrize("seed", range(3))
def test_past_the_lease_ranks_stand_still_and_go_on_when_it_is_over(seed: int) -> None:
    """After 15 s nobody may run any more, for after 30 s others may begin."""
    made = world(seed)
    before = job(made, "home").incarnation
    made.cut_off("us", 25.0)
    made.run(CUT_OFF_S + 90.0)
    assert made.counts["frozen"] > 0 and made.counts["lost"] == 0
    assert job(made, "home").incarnation == before, "it went on where it stood"
    made.run(20_000.0, jobs=len(JOBS))
    assert finished(made)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_cut_moves_what_may_move_and_nothing_runs_twice(seed: int) -> None:
    """That two lives of a job never both make progress is asserted at every step of theirs."""
    made = world(seed)
    there = region(made, "free")
    steps = {name: job(made, name).checkpoint for name in JOBS}
    made.cut_off(there, 400.0)
    made.run(CUT_OFF_S + 200.0)
    confined, untouched = ("home", "far") if there == "us" else ("far", "home")
    assert region(made, "free") not in ("", there), "it goes on elsewhere from its checkpoint"
    assert job(made, "free").state is JobState.RUNNING
    assert job(made, untouched).incarnation == 1
    assert job(made, confined).state not in TERMINAL | {JobState.RUNNING}, "it waits for its region"
    made.run(20_000.0, jobs=len(JOBS))
    assert finished(made)
    assert job(made, "free").incarnation == 2, "that its region came back is no reason to return"
    last = steps[confined]
    assert last is not None and job(made, confined).step >= last.step
    assert all(n.used == 0 for n in made.ledger.nodes().values())


def test_where_nobody_is_heard_nobody_is_lost() -> None:
    """Cut off from all regions, it is the control plane that is deaf."""
    made = world(0)
    before = {name: job(made, name).incarnation for name in JOBS}
    for name in ("us", "eu"):
        made.cut_off(name, 400.0)
    made.run(CUT_OFF_S + 600.0)
    assert made.counts["lost"] == 0
    assert {name: job(made, name).incarnation for name in JOBS} == before
    made.run(20_000.0, jobs=len(JOBS))
    assert finished(made)
