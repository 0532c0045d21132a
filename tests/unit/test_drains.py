"""Drains: who leaves when, who may stay, and that what is foretold is what is done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from singularity.primitives.drains import Drain, Leaving
from singularity.primitives.errors import Conflict, NotFound
from singularity.primitives.messages import Report
from singularity.primitives.model import Checkpoint, JobId, JobState, ShardImage, Tier
from singularity.primitives.nodes import Duty, NodeId, Scope, ScopeKind
from singularity.scheduler.evacuate import How
from singularity.scheduler.exodus import Exodus, foresee
from tests.unit.fleets import POLICY, Planet, verbs

US, EU = Scope(ScopeKind.REGION, "us"), Scope(ScopeKind.REGION, "eu")
NOTICE_S = POLICY.drain_notice_s


def full(*tiers: Tier, room: bool = True) -> tuple[Planet, list[JobId]]:
    """Two nodes of 4 devices in `us`, with a job of 2 devices of each of `tiers`; `eu` has room."""
    planet = Planet(nodes=2, devices=4)
    jobs = [
        planet.submit(f"{i}-{tier.name.lower()}", 2, tier=tier, regions=("us",))
        for i, tier in enumerate(tiers)
    ]
    planet.run(*jobs)
    if room:
        for job in jobs:
            planet.change(job, spec=replace(planet.job(job).spec, regions=()))
    return planet, jobs


def order(planet: Planet, **found: Any) -> Drain:
    return planet.ledger.open_drain(Drain("drain-1", US, planet.now_s, **found), "somebody")


def foretold(planet: Planet, **found: Any) -> Exodus:
    drain = Drain("drain-1", US, planet.now_s, **found)
    return foresee(planet.ledger.snapshot(planet.now_s), drain, POLICY)


def test_all_move_and_the_most_urgent_first_within_the_limit() -> None:
    planet, (basic, premium, standard) = full(Tier.BASIC, Tier.PREMIUM, Tier.STANDARD)
    order(planet, moves_most=1)
    plan = planet.tick()
    assert verbs(plan) == {premium: "migrate"}
    assert "1 moves of drain-1" in plan.pending[standard][0].detail
    planet.report(premium, "dumped")
    assert verbs(planet.tick()) == {standard: "migrate"}, "the first has left its nodes"
    planet.report(standard, "dumped")
    assert verbs(planet.tick()) == {basic: "migrate"}


def test_a_paused_drain_begins_nothing_and_says_so_until_it_goes_on() -> None:
    planet, (job,) = full(Tier.STANDARD)
    drain = order(planet)
    planet.ledger.pause_drain(drain.id, paused=True, now_s=planet.now_s)
    plan = planet.tick()
    assert not plan.actions and plan.pending[job][0].detail == "drain-1 is paused"
    planet.ledger.pause_drain(drain.id, paused=False, now_s=planet.now_s)
    assert verbs(planet.tick()) == {job: "migrate"}


def test_a_job_that_cannot_be_cut_says_what_came_of_the_last_try() -> None:
    planet, (job,) = full(Tier.STANDARD)
    order(planet)
    planet.tick()
    said = {"job": job, "node": "us-0", "incarnation": 1, "phase": "running", "cut": 1}
    report = Report.model_validate({**said, "reason": "it has a socket open"})
    planet.ledger.record(report, planet.now_s)
    (reason,) = planet.tick(0.1).pending[job]
    told = "waits until it can be cut: checkpoint 1 failed: it has a socket open"
    assert (reason.kind, reason.detail) == ("drain", told)


def test_what_fits_nowhere_goes_tier_by_tier_as_the_deadline_comes() -> None:
    tiers = (Tier.PREMIUM, Tier.STANDARD, Tier.BASIC)
    planet, jobs = full(*tiers, room=False)
    began_s = planet.now_s
    order(planet, deadline_s=began_s + 10 * NOTICE_S)
    assert not planet.tick().actions
    for job, left in zip(reversed(jobs), (3, 2, 1), strict=True):
        planet.now_s = began_s + (10 - left) * NOTICE_S - 2.0
        assert not planet.tick(0.0).actions, "not yet"
        plan = planet.tick(3.0)
        assert verbs(plan) == {job: "suspend"}
        assert "to its deadline, and nowhere to go" in plan.actions[0].reason
        planet.report(job, "dumped")


def test_a_deadline_that_has_passed_lets_nobody_stay() -> None:
    planet, jobs = full(Tier.PREMIUM, Tier.BASIC, room=False)
    order(planet, deadline_s=planet.now_s + 5.0)
    plan = planet.tick(60.0)
    assert verbs(plan) == dict.fromkeys(jobs, "suspend")
    assert all("deadline has passed" in action.reason for action in plan.actions)


def test_to_suspend_is_to_wait_for_nobody() -> None:
    planet, (job,) = full(Tier.PREMIUM, room=False)
    order(planet, leaving=Leaving.SUSPEND)
    assert verbs(planet.tick()) == {job: "suspend"}
    planet.report(job, "dumped")
    assert planet.job(job).state is JobState.SUSPENDED
    assert not planet.tick().actions, "it does not come back to a place that is drained"


def test_basic_makes_way_first_also_where_it_would_fit() -> None:
    planet, (premium, basic) = full(Tier.PREMIUM, Tier.BASIC)
    order(planet, leaving=Leaving.BASIC_FIRST)
    assert verbs(planet.tick()) == {premium: "migrate", basic: "suspend"}


def test_undone_the_place_takes_work_again_and_who_is_on_the_way_goes_on() -> None:
    planet, (job,) = full(Tier.STANDARD)
    drain = order(planet)
    planet.tick()
    planet.ledger.close_drain(drain.id, planet.now_s)
    assert {n.duty for n in planet.ledger.nodes().values()} == {Duty.READY}
    planet.report(job, "dumped")
    assert planet.job(job).state is JobState.STARTING
    with pytest.raises(NotFound, match="drain-1"):
        planet.ledger.close_drain(drain.id, planet.now_s)


def test_who_was_cordoned_before_is_cordoned_again() -> None:
    planet, _ = full()
    planet.ledger.set_duty(Scope(ScopeKind.NODE, "us-0"), Duty.CORDONED, planet.now_s)
    drain = order(planet)
    assert planet.ledger.nodes()[NodeId("us-0")].duty is Duty.DRAINING
    planet.ledger.close_drain(drain.id, planet.now_s)
    duties = {n.id: n.duty for n in planet.ledger.nodes().values() if n.region == "us"}
    assert duties == {"us-0": Duty.CORDONED, "us-1": Duty.READY}


def test_the_same_order_twice_is_one_and_another_for_the_same_nodes_is_refused() -> None:
    planet, _ = full()
    first = order(planet)
    again = replace(first, id="drain-2", at_s=planet.now_s + 5.0)
    assert planet.ledger.open_drain(again) == first
    node = Scope(ScopeKind.NODE, "us-0")
    for other in (replace(again, scope=node), replace(again, moves_most=3)):
        with pytest.raises(Conflict, match="region/us is being drained by drain-1; undo that"):
            planet.ledger.open_drain(other)
    assert planet.ledger.open_drain(replace(again, scope=EU)).scope == EU


def measured(planet: Planet, job: JobId, raw_bytes: int) -> None:
    """As if its last checkpoint had been so large."""
    image = ShardImage(planet.job(job).placement[0].node, (0, 1), "d" * 64, 7, raw_bytes)
    planet.change(job, checkpoints=(Checkpoint(1, 1, 7, planet.now_s, (image,)),))


def test_moves_are_paced_to_what_the_drain_may_carry() -> None:
    planet, (premium, standard) = full(Tier.PREMIUM, Tier.STANDARD)
    measured(planet, premium, 600_000_000)
    drain = order(planet, bytes_per_s=20e6)
    plan = planet.tick()
    assert verbs(plan) == {premium: "migrate"}
    planet.report(premium, "dumped")
    (waits,) = planet.tick(10.0).pending[standard]
    assert waits.detail == f"{drain.id} carries no more than 20 MB/s; its next move is in 20 s"
    assert verbs(planet.tick(20.0)) == {standard: "migrate"}, "600 MB at 20 MB/s are 30 s"
    (order_now,) = planet.ledger.drains()
    assert order_now.next_move_s == planet.now_s + POLICY.image_bytes / 20e6, "it was never cut"


def test_a_plan_foretells_what_the_pace_makes_of_it() -> None:
    planet, jobs = full(Tier.PREMIUM, Tier.STANDARD)
    for job in jobs:
        measured(planet, job, 600_000_000)
    assert foretold(planet).ends_s == POLICY.move_cost_s
    found = foretold(planet, bytes_per_s=20e6)
    assert [d.begins_s for d in found.departures] == [0.0, 30.0]
    assert found.ends_s == 30.0 + POLICY.move_cost_s


# -- foresight -----------------------------------------------------------------------------------


def test_a_plan_changes_nothing_and_is_what_the_drain_then_does() -> None:
    planet, jobs = full(Tier.BASIC, Tier.PREMIUM, Tier.STANDARD)
    found = foretold(planet)
    assert not planet.tick().actions
    order(planet)
    done = {a.job: a.placement for a in planet.tick().actions}
    assert {d.job: d.fate.target for d in found.departures} == done
    assert set(done) == set(jobs)


def test_a_plan_tells_what_each_move_takes_and_when_it_begins() -> None:
    planet, (basic, premium) = full(Tier.BASIC, Tier.PREMIUM)
    planet.change(premium, pause_s=3.0)
    found = foretold(planet, moves_most=1)
    first, second = found.departures
    assert (first.job, first.begins_s, first.pause_s, first.debt_s) == (premium, 0.0, 3.0, 6.0)
    assert (second.job, second.begins_s, second.debt_s) == (basic, 3.0, 0.0)
    assert second.pause_s == POLICY.move_cost_s, "never measured"
    assert found.ends_s == 3.0 + POLICY.move_cost_s


def test_a_plan_says_who_cannot_leave_and_what_the_deadline_does_about_it() -> None:
    planet, (job,) = full(Tier.STANDARD, room=False)
    (stays,) = foretold(planet).departures
    assert stays.fate.how is How.STAY and "nowhere free" in stays.fate.reason
    assert foretold(planet).ends_s is None
    found = foretold(planet, deadline_s=planet.now_s + 10 * NOTICE_S)
    (goes,) = found.departures
    assert (goes.job, goes.fate.how, goes.begins_s) == (job, How.SUSPEND, 8 * NOTICE_S)
    assert found.ends_s == 8 * NOTICE_S + POLICY.move_cost_s
