"""How wide elastic jobs are: who gives devices to an equal that runs, when a change of size pays,
and for how long a job is left alone after one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import POLICY, Planet, verbs

from singularity.primitives.model import JobId, Tier
from singularity.scheduler.draft import Draft
from singularity.scheduler.elastic import short
from singularity.scheduler.sharing import rest_s, rested, valued

HOUR_S = 3600.0


def uneven() -> tuple[Planet, JobId, JobId]:
    """Two equals on one node of eight, seven devices for the first and one for the second."""
    planet = Planet(nodes=1, devices=8, regions=("us",))
    wide = planet.submit("wide", 8, devices_min=1, tier=Tier.BASIC)
    narrow = planet.submit("narrow", 8, devices_min=1, tier=Tier.BASIC)
    planet.ledger.resize(wide, 7, planet.now_s)
    planet.run(wide)
    planet.run(narrow)
    planet.ledger.resize(wide, 8, planet.now_s)
    assert (planet.job(wide).held, planet.job(narrow).held) == (7, 1)
    return planet, wide, narrow


def test_a_running_equal_becomes_wider_by_what_is_worth_more_there() -> None:
    planet, wide, narrow = uneven()
    plan = planet.tick(60.0)
    assert verbs(plan) == {wide: "scale"}
    assert "to equals, to which they are worth more, for" in plan.actions[0].reason
    planet.obey()
    assert verbs(planet.tick()) == {narrow: "scale"}
    planet.obey()
    assert (planet.job(wide).held, planet.job(narrow).held) == (4, 4)
    assert planet.tick(HOUR_S).actions == (), "and then both have as much"


def test_nobody_becomes_narrower_for_an_equal_while_somebody_waits_for_the_nodes() -> None:
    planet, wide, narrow = uneven()
    planet.submit("waits", 8, tier=Tier.PREMIUM, regions=("us",))
    planet.tick()
    planet.obey()
    assert "equals" not in planet.job(wide).message + planet.job(narrow).message


def test_a_change_that_stalls_for_longer_than_it_wins_is_not_made() -> None:
    planet, wide, _ = uneven()
    planet.change(wide, resize_refused=True, pause_s=50.0, restore_s=50.0)
    assert planet.tick(200.0).actions == (), "100 s, each way counted, and won back in 120"
    planet.change(wide, resize_refused=True, pause_s=1.0, restore_s=1.0)
    assert verbs(planet.tick()) == {wide: "scale"}


def test_the_same_stall_costs_more_of_a_job_that_is_expected_to_need_little() -> None:
    planet, wide, _ = uneven()
    planet.change(wide, resize_refused=True, pause_s=5.0, restore_s=5.0)
    for later_s, within_s in ((10.0, 90.0), (HOUR_S, POLICY.resize_pays_s)):
        planet.now_s += later_s
        draft = Draft(planet.ledger.snapshot(planet.now_s), POLICY)
        job = planet.job(wide)
        wider, now = (valued(draft, job, (d, d), POLICY)[d] for d in (8, 7))
        assert wider == pytest.approx(now * (8 / 7) ** 0.45 * (1.0 - 10.0 / within_s)), later_s


def test_what_is_left_alone_for_long_after_many_changes_fades() -> None:
    planet, wide, _ = uneven()
    job = replace(planet.job(wide), resize=6)
    at_s = job.running_at_s or 0.0
    assert rest_s(job, at_s + 60.0, POLICY) == POLICY.grow_after_s * 2**6
    assert rest_s(job, at_s + 3 * POLICY.quantum_s, POLICY) == POLICY.grow_after_s * 2**3
    assert rest_s(job, at_s + HOUR_S, POLICY) == POLICY.grow_after_s
    planet.change(wide, restore_s=30.0)
    for later_s, found in ((20.0, False), (11.0, True)):
        planet.now_s += later_s
        draft = Draft(planet.ledger.snapshot(planet.now_s), POLICY)
        assert rested(draft, planet.job(wide), 5.0) is found, "not sooner than it took to come back"


def test_what_is_owed_to_a_job_does_not_wait_for_that() -> None:
    planet, wide, _ = uneven()
    planet.change(wide, resize=7, resize_at_s=planet.now_s)
    planet.now_s += 2 * POLICY.grow_after_s
    draft = Draft(planet.ledger.snapshot(planet.now_s), POLICY)
    assert not short(draft, planet.job(wide), POLICY)
    assert short(draft, planet.job(wide), POLICY, owed=True)
