"""Jobs are moved together only where a whole node comes free for less than it is worth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.primitives.errors import Conflict, NotFound
from singularity.primitives.model import JobId
from singularity.primitives.nodes import Scope, ScopeKind
from singularity.primitives.rebalancing import Rebalancing
from singularity.scheduler.draft import Draft
from singularity.scheduler.orders import Settle
from singularity.scheduler.rebalance import Clearance, clearances
from tests.unit.fleets import POLICY, Planet, verbs


def scattered(layout: list[list[int]], **spec: Any) -> tuple[Planet, list[JobId]]:
    """One region of nodes of 4 devices; on each, jobs of so many, for longer than a quantum."""
    planet, jobs = Planet(nodes=len(layout), devices=4, regions=("us",)), []
    for number, sizes in enumerate(layout):
        node = f"us-{number}"
        for size in sizes:
            job = planet.submit(f"{node}-{len(jobs)}", size, **spec)
            planet.ledger.confine(job, Scope(ScopeKind.NODE, node), planet.now_s)
            planet.run(job)
            planet.ledger.confine(job, None, planet.now_s)
            jobs.append(job)
    planet.now_s += POLICY.quantum_s + 1
    return planet, jobs


def found(planet: Planet, scope: Scope | None = None) -> tuple[Clearance, ...]:
    return clearances(Draft(planet.ledger.snapshot(planet.now_s)), scope, POLICY)


def whole(planet: Planet) -> int:
    return sum(n.used == 0 for n in planet.ledger.nodes().values())


def order(planet: Planet, seconds: float = 3600.0) -> None:
    until_s = planet.now_s + seconds
    planet.ledger.order_rebalancing(Rebalancing("rebalance-1", planet.now_s, until_s))


def arrive(planet: Planet, *jobs: JobId) -> None:
    for job in jobs:
        planet.report(job, "dumped")
        planet.report(job, "running")


def test_the_emptier_of_two_nodes_is_cleared_into_the_other() -> None:
    planet, (_, lone) = scattered([[2], [1]])
    (clearance,) = found(planet)
    assert clearance.node.id == "us-1" and clearance.moves[0].job.id == lone
    assert [s.node for s in clearance.moves[0].target] == ["us-0"]
    assert clearance.worth_s == 4 * POLICY.relocation_pays_s > clearance.cost_s


def test_nothing_is_moved_where_no_node_comes_free() -> None:
    assert found(scattered([[3], [2]])[0]) == (), "it fits nowhere"
    assert found(scattered([[4], [], [2]])[0]) == (), "an empty node for an empty node"


def test_who_costs_more_than_it_frees_stays() -> None:
    planet, (_, lone) = scattered([[2], [1]])
    planet.change(lone, pause_s=2000.0, restore_s=2000.0)
    assert [c.node.id for c in found(planet)] == ["us-0"], "the other is cheaper"
    for job in planet.ledger.jobs():
        planet.change(job, pause_s=2000.0, restore_s=2000.0)
    assert found(planet) == ()


def test_who_came_just_now_is_left_alone() -> None:
    planet, jobs = scattered([[2], [1]])
    for job in jobs:
        planet.change(job, running_at_s=planet.now_s)
    assert found(planet) == ()


def test_an_order_carries_it_out_and_ends_by_itself() -> None:
    planet, jobs = scattered([[2], [1], [1], [2]])
    before = whole(planet)
    order(planet)
    plan = planet.tick()
    assert set(verbs(plan).values()) == {"migrate"} and plan.orders == ()
    assert "frees us-1 as a whole" in next(a.reason for a in plan.actions)
    assert planet.tick().orders == (), "moves are under way"
    arrive(planet, *verbs(plan))
    assert whole(planet) == before + 2
    (done,) = planet.tick().orders
    assert done == Settle("rebalance-1", "nothing is gained by further moves")
    planet.ledger.carry_out((done,), planet.now_s)
    with pytest.raises(NotFound):
        planet.ledger.settle_rebalancing("rebalance-1", planet.now_s)
    assert len(jobs) == 4


def test_no_order_lasts_longer_than_its_time_and_there_is_one_at_a_time() -> None:
    planet, _ = scattered([[2], [1]])
    order(planet, seconds=10.0)
    with pytest.raises(Conflict, match="wait until it is done, or stop it first"):
        order(planet)
    plan = planet.tick(11.0)
    assert not plan.actions and plan.orders == (Settle("rebalance-1", "its time is over"),)


def test_only_what_is_in_scope_is_cleared() -> None:
    planet, _ = scattered([[2], [1]])
    assert found(planet, Scope(ScopeKind.NODE, "us-3")) == ()
    assert len(found(planet, Scope(ScopeKind.CLUSTER, "us-a"))) == 1


@given(st.lists(st.lists(st.integers(1, 2), max_size=2), min_size=1, max_size=8))
@settings(deadline=None, max_examples=40)
def test_every_round_gains_whole_nodes_until_none_is_left(layout: list[list[int]]) -> None:
    planet, _ = scattered(layout)
    free, used = whole(planet), sum(n.used for n in planet.ledger.nodes().values())
    order(planet, seconds=1e9)
    for _ in range(10):
        promised = len(found(planet))
        plan = planet.tick()
        if plan.orders:
            break
        arrive(planet, *verbs(plan))
        assert whole(planet) == free + promised, "as it was foretold"
        free = whole(planet)
        planet.now_s += POLICY.quantum_s + 1
    else:
        raise AssertionError("it never ends")
    assert sum(n.used for n in planet.ledger.nodes().values()) == used
    assert found(planet) == ()
