"""What giving way costs: measured where it can be, told to whoever pays, and bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import POLICY, Planet, verbs

from singularity.api.story import tell
from singularity.primitives.model import Engine, Job, JobId, JobState, Tier
from singularity.primitives.service import charge
from singularity.scheduler.decide import decide
from singularity.scheduler.explain import explain
from singularity.scheduler.policy import Policy
from singularity.scheduler.price import away_s, of_leaving


def basics(planet: Planet, count: int, devices: int = 1) -> list[JobId]:
    found = [planet.submit(f"b{n}", devices, tier=Tier.BASIC) for n in range(count)]
    planet.run(*found)
    return found


def test_a_job_is_priced_by_its_own_cuts_and_starts() -> None:
    planet = Planet(nodes=1, regions=("us",))
    job = planet.submit("train", 4)
    planet.run(job)
    assert away_s(planet.job(job), POLICY) == (POLICY.move_cost_s, False)
    planet.ledger.request_checkpoint(job, planet.now_s)
    planet.tick()
    planet.report(job, "running", cut=True, seconds={"barrier": 1.0, "dump": 6.0, "store": 1.0})
    assert away_s(planet.job(job), POLICY) == (16.0, True), "the way back is like the way out"
    planet.change(job, state=JobState.STARTING, awaiting=planet.job(job).nodes)
    seconds = {"fetch": 20.0, "restore": 10.0, "reconnect": 2.0}
    planet.report(job, "running", seconds=seconds)
    found = planet.job(job)
    assert found.restore_s == 32.0
    assert of_leaving(found, planet.now_s, POLICY).device_s == (8.0 + 32.0) * 4


def test_a_gang_comes_back_when_its_slowest_node_does() -> None:
    planet = Planet(nodes=2, regions=("us",))
    job = planet.submit("wide", 8)
    planet.run(job)
    planet.ledger.request_checkpoint(job, planet.now_s)
    planet.tick()
    planet.report(job, "running", cut=True, seconds={"dump": 3.0})
    planet.change(job, state=JobState.STARTING, awaiting=planet.job(job).nodes)
    for node, took_s in zip(sorted(planet.job(job).nodes), (9.0, 4.0), strict=True):
        planet.say(job, node, "running", seconds={"restore": took_s})
    assert planet.job(job).restore_s == 9.0


@pytest.mark.parametrize(("engine", "lost_s"), [(Engine.RESTART, 100.0), (None, 0.0)])
def test_work_is_at_risk_only_where_nothing_is_kept(engine: Engine | None, lost_s: float) -> None:
    planet = Planet(nodes=1, regions=("us",))
    chain = {"engines": (engine,)} if engine else {}
    job = planet.submit("train", 2, **chain)
    planet.run(job)
    found = of_leaving(planet.job(job), planet.now_s + 100.0, POLICY)
    assert found.device_s == (POLICY.move_cost_s + lost_s) * 2


def test_the_cheapest_of_equals_gives_way_and_is_told_the_price() -> None:
    planet = Planet(nodes=1, regions=("us",))
    dear, cheap = basics(planet, 2, devices=2)
    planet.change(dear, pause_s=30.0, restore_s=30.0)
    planet.change(cheap, pause_s=2.0, restore_s=3.0)
    planet.submit("urgent", 2, tier=Tier.PREMIUM)
    plan = planet.tick()
    assert verbs(plan) == {cheap: "suspend"}
    assert plan.actions[0].price == 10.0
    paid = planet.job(cheap).taken
    assert paid is not None
    assert (paid.price, paid.times, paid.evicted_at_s) == (10.0, 1, planet.now_s)
    assert "for 10 device-seconds (5 s measured to leave and come back, × 2)" in paid.reason
    planet.report(cheap, "dumped")
    snapshot = planet.ledger.snapshot(planet.now_s)
    why = explain(snapshot, decide(snapshot, POLICY), planet.job(cheap), POLICY)
    assert "10 device-seconds" in {r.kind: r.detail for r in why.reasons}["taken"]


def test_many_small_jobs_go_where_they_cost_less_than_a_large_one_and_not_where_they_do_not() -> (
    None
):
    for pause_s, gone in ((1.0, 1), (60.0, 3)):
        planet = Planet(nodes=1, devices=8, regions=("us",))
        large = planet.submit("large", 4, tier=Tier.BASIC)
        small = [planet.submit(f"small-{n}", 1, tier=Tier.BASIC) for n in range(4)]
        planet.run(large, *small)
        planet.change(large, pause_s=pause_s / 2, restore_s=pause_s / 2)
        for job in small:
            planet.change(job, pause_s=10.0, restore_s=10.0)
        planet.submit("urgent", 3, tier=Tier.PREMIUM)
        assert len(planet.tick().actions) == gone


def test_the_history_of_the_victim_has_the_price_in_numbers() -> None:
    planet = Planet(nodes=1, regions=("us",))
    (job,) = basics(planet, 1)
    before = planet.job(job)
    taken = charge(None, planet.now_s, 12.3456, "gives 1 device", evicted=True)
    lines = tell(before, replace(before, taken=taken), "", planet.ledger.nodes(), planet.now_s)
    assert [(x.event, dict(x.facts)) for x in lines] == [
        ("taken", {"price": 12.346, "evicted": True})
    ]


def test_what_was_paid_adds_up() -> None:
    first = charge(None, 10.0, 5.0, "a", evicted=True)
    second = charge(first, 20.0, 2.0, "b", evicted=False)
    assert (second.times, second.paid, second.at_s) == (2, 7.0, 20.0)
    assert second.evicted_at_s == 10.0, "a resize is no eviction"


# ---------------------------------------------------------------- how much at once
BOUNDED = Policy(evictions_per_minute_max=3)


def stormed(planet: Planet) -> Job:
    """One urgent gang that needs the devices of all."""
    urgent = planet.submit("urgent", 4, tier=Tier.PREMIUM)
    plan = decide(planet.ledger.snapshot(planet.now_s), BOUNDED)
    planet.ledger.commit(plan, planet.now_s)
    return planet.job(urgent)


def bounded(planet: Planet, after_s: float) -> tuple[int, str]:
    """How many more are evicted after a while, and what the urgent job is told."""
    planet.now_s += after_s
    plan = decide(planet.ledger.snapshot(planet.now_s), BOUNDED)
    return len(plan.actions), plan.pending[JobId("urgent")][-1].detail


def test_no_more_are_evicted_within_a_minute_than_an_operator_was_asked_about() -> None:
    planet = Planet(nodes=1, regions=("us",))
    basics(planet, 4)
    stormed(planet)
    gone = [j for j in planet.ledger.jobs().values() if j.state is JobState.SUSPENDING]
    assert len(gone) == 3
    count, told = bounded(planet, 30.0)
    assert count == 0
    assert "singularity evictions --acknowledge" in told
    assert bounded(planet, 31.0)[0] == 1, "a minute later it goes on"


def test_an_operator_who_acknowledges_lets_it_go_on() -> None:
    planet = Planet(nodes=1, regions=("us",))
    basics(planet, 4)
    stormed(planet)
    planet.ledger.acknowledge("ada", planet.now_s + 1.0)
    assert bounded(planet, 2.0)[0] == 1


def test_sharing_more_tightly_is_no_eviction() -> None:
    planet = Planet(nodes=1, regions=("us",))
    planet.run(planet.submit("elastic", 4, devices_min=1, tier=Tier.BASIC))
    planet.submit("urgent", 2, tier=Tier.PREMIUM)
    none = Policy(evictions_per_minute_max=0)
    plan = decide(planet.ledger.snapshot(planet.now_s), none)
    assert verbs(plan) == {"elastic": "scale"}


# ---------------------------------------------------------------- equals move, and nobody loses
def scattered(quiet_s: float) -> Planet:
    """Two clusters with two devices free in each, and a standard gang that wants four."""
    planet = Planet(nodes=1, regions=("eu", "us"))
    jobs = [planet.submit(f"{region}-job", 2, regions=(region,)) for region in ("eu", "us")]
    planet.run(*jobs)
    for job in jobs:
        planet.change(job, spec=replace(planet.job(job).spec, regions=()))
    planet.now_s += quiet_s
    planet.submit("gang", 4)
    return planet


def test_an_equal_is_moved_out_of_the_way_of_a_gang_that_then_fits() -> None:
    planet = scattered(quiet_s=POLICY.quantum_s)
    plan = planet.tick()
    assert [str(a.verb) for a in plan.actions] == ["migrate"]
    moved = plan.actions[0]
    assert moved.price == POLICY.move_cost_s * 2
    assert moved.reason.startswith("makes room for gang (standard) for 10 device-seconds")
    assert plan.pending[JobId("gang")][-1].detail.startswith("devices are being moved out of its")
    assert planet.tick().actions == (), "what is on its way is waited for"
    planet.report(moved.job, "dumped")
    planet.report(moved.job, "running")
    assert verbs(planet.tick())["gang"] == "resume"


def test_who_came_just_now_is_not_moved() -> None:
    assert scattered(quiet_s=1.0).tick().actions == ()


def test_a_move_that_costs_more_than_it_gains_is_not_made() -> None:
    planet = scattered(quiet_s=POLICY.quantum_s)
    for name in ("eu-job", "us-job"):
        planet.change(JobId(name), pause_s=POLICY.relocation_pays_s * 2, restore_s=1.0)
    assert planet.tick().actions == ()


def test_the_more_urgent_are_never_moved_for_the_less_urgent() -> None:
    planet = scattered(quiet_s=POLICY.quantum_s)
    for name in ("eu-job", "us-job"):
        job = JobId(name)
        planet.change(job, spec=replace(planet.job(job).spec, tier=Tier.PREMIUM))
    assert planet.tick().actions == ()
