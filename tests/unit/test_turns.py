"""Inside one tier: who had least goes first, who had more gives way, and devices are shared where
that is worth more. Between tiers: promises first."""

from __future__ import annotations

from dataclasses import replace

from fleets import POLICY, Planet, verbs

from singularity.primitives.model import JobId, JobState, Tier
from singularity.primitives.service import Account, Slice
from singularity.primitives.sla import SLICE_S
from singularity.scheduler.queueing import level, queue

LONG_S = 10 * 3600.0


def had(planet: Planet, job: JobId, device_s: float) -> None:
    """It was given so much in an earlier time."""
    account = planet.job(job).account or Account(planet.now_s)
    planet.change(job, account=replace(account, given_s=device_s))


def busy(tier: Tier = Tier.BASIC, device_s: float = LONG_S, **spec: int) -> tuple[Planet, JobId]:
    """One node of four devices, all held for half an hour by a job that had much before."""
    planet = Planet(nodes=1, regions=("us",))
    old = planet.submit("old", 4, tier=tier, **spec)
    planet.run(old)
    had(planet, old, device_s)
    planet.tick(1800.0)
    return planet, old


def test_levels_grow_with_what_a_job_had_and_shrink_with_waiting() -> None:
    planet = Planet()
    job = planet.submit("j", 4)
    now_s = planet.now_s
    for device_s, wanted in ((0.0, 0), (3599.0, 0), (3600.0, 1), (4 * 3600.0, 2), (15e6, 7)):
        had(planet, job, device_s)
        assert level(planet.job(job), now_s, POLICY) == wanted
    later_s = planet.job(job).since_s + 3 * POLICY.ageing_s
    assert level(planet.job(job), later_s, POLICY) == 4


def test_an_equal_that_had_more_makes_way_after_its_quantum() -> None:
    planet, old = busy()
    new = planet.submit("new", 2, tier=Tier.BASIC)
    plan = planet.tick()
    assert verbs(plan) == {old: "suspend"}
    assert "had less so far" in plan.actions[0].reason
    planet.report(old, "dumped")
    assert verbs(planet.tick()) == {new: "resume"}, "and what was freed is not taken back at once"


def test_nobody_makes_way_for_one_that_had_as_much_or_just_after_a_start() -> None:
    planet, old = busy()
    had(planet, planet.submit("new", 2, tier=Tier.BASIC), LONG_S)
    assert planet.tick().actions == ()
    planet, old = busy()
    planet.change(old, running_at_s=planet.now_s)
    planet.submit("new", 2, tier=Tier.BASIC)
    assert planet.tick().actions == ()


def test_who_is_before_others_by_waiting_alone_waits_for_a_longer_turn() -> None:
    """Two that had much took turns every ten minutes, as soon as one had waited for a day."""

    def aged(turn_s: float) -> tuple[Planet, JobId]:
        planet, old = busy()
        waits = planet.submit("aged", 2, tier=Tier.BASIC)
        had(planet, waits, LONG_S)
        planet.change(waits, since_s=planet.now_s - 2 * POLICY.ageing_s)
        planet.change(old, running_at_s=planet.now_s - turn_s)
        return planet, old

    planet, old = aged(POLICY.quantum_s)
    assert planet.tick().actions == ()
    planet.submit("new", 2, tier=Tier.BASIC)
    plan = planet.tick()
    assert verbs(plan) == {old: "suspend"} and "to new" in plan.actions[0].reason
    planet, old = aged(POLICY.turn_s)
    plan = planet.tick()
    assert verbs(plan) == {old: "suspend"} and "to aged" in plan.actions[0].reason


def test_who_is_not_given_more_than_the_promise_makes_way_for_no_equal() -> None:
    planet, old = busy(Tier.STANDARD)
    planet.submit("new", 2)
    number = int(planet.now_s // SLICE_S) - 1
    hour = Account(planet.now_s, (Slice(number, 2400.0, 1600.0),), LONG_S)
    planet.change(old, account=hour)
    assert planet.tick().actions == ()


def test_an_elastic_equal_becomes_narrower_and_is_not_suspended() -> None:
    planet, old = busy(devices_min=1)
    new = planet.submit("new", 2, tier=Tier.BASIC, devices_min=1)
    plan = planet.tick()
    assert verbs(plan) == {old: "scale"}
    assert "worth more" in plan.actions[0].reason
    planet.follow(old)
    assert verbs(planet.tick()) == {new: "resume"}
    assert (planet.job(old).held, planet.job(new).held) == (2, 2)


def test_nobody_becomes_narrower_than_its_tier_promises() -> None:
    planet, old = busy(Tier.STANDARD, devices_min=1)
    planet.change(old, account=Account(planet.now_s))
    planet.submit("new", 2, devices_min=1)
    plan = planet.tick()
    assert verbs(plan) == {old: "scale"}
    assert sum(s.devices for s in plan.actions[0].placement) == 3, "of 4, 70 % are promised"


def test_who_runs_on_less_than_promised_is_given_the_rest_before_others_start() -> None:
    planet = Planet(nodes=1, regions=("us",))
    first = planet.submit("first", 2, tier=Tier.PREMIUM)
    planet.run(first)
    narrow = planet.submit("narrow", 4, devices_min=1, tier=Tier.PREMIUM)
    planet.run(narrow)
    assert planet.job(narrow).held == 2, "equals do not give way, and it need not wait"
    planet.report(first, "exited", exit_code=0)
    planet.submit("basic", 2, tier=Tier.BASIC)
    assert verbs(planet.tick(60.0)) == {narrow: "scale"}


def test_who_runs_on_less_than_promised_takes_it_from_the_less_urgent() -> None:
    planet = Planet(nodes=1, regions=("us",))
    first = planet.submit("first", 2, tier=Tier.PREMIUM)
    narrow = planet.submit("narrow", 4, devices_min=1, tier=Tier.PREMIUM)
    planet.run(first)
    planet.tick()
    planet.report(narrow, "running")
    planet.report(first, "exited", exit_code=0)
    basic = planet.submit("basic", 2, tier=Tier.BASIC)
    planet.run(basic)
    assert planet.job(basic).held == 2 and planet.job(narrow).held == 2
    assert verbs(planet.tick(60.0)) == {basic: "suspend"}
    planet.report(basic, "dumped")
    assert verbs(planet.tick()) == {narrow: "scale"}


def test_idle_devices_go_where_they_gain_most() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    filler = planet.submit("filler", 2, tier=Tier.PREMIUM)
    planet.run(filler)
    first = planet.submit("first", 8, devices_min=1, tier=Tier.BASIC)
    second = planet.submit("second", 8, devices_min=1, tier=Tier.BASIC)
    planet.ledger.resize(first, 5, planet.now_s)
    planet.run(first)
    planet.run(second)
    assert (planet.job(first).held, planet.job(second).held) == (5, 1)
    planet.ledger.resize(first, 8, planet.now_s)
    planet.report(filler, "exited", exit_code=0)
    plan = planet.tick(60.0)
    wider = {a.job: sum(s.devices for s in a.placement) for a in plan.actions}
    assert wider == {second: 3}, "the third of the one is worth more than the sixth of the other"


def test_what_was_given_up_for_a_job_is_not_for_whoever_is_before_it_by_waiting() -> None:
    """The aged one got it, could be asked for it ten minutes later, and so on for ever."""
    planet, old = busy()
    aged = planet.submit("aged", 4, tier=Tier.BASIC)
    had(planet, aged, LONG_S)
    planet.change(aged, since_s=planet.now_s - 3 * POLICY.ageing_s)
    new = planet.submit("new", 4, tier=Tier.BASIC)
    had(planet, new, 3600.0)
    assert [j.id for j in queue(planet.ledger.snapshot(planet.now_s), POLICY)] == [aged, new]
    assert verbs(planet.tick()) == {old: "suspend"}
    planet.report(old, "dumped")
    assert verbs(planet.tick()) == {new: "resume"}
    assert queue(planet.ledger.snapshot(planet.now_s), POLICY)[0].id == aged


def test_who_waits_for_nodes_elsewhere_keeps_nobody_from_what_is_promised_at_home() -> None:
    planet = Planet(nodes=1, regions=("us", "eu"))
    far = planet.submit("far", 4, tier=Tier.PREMIUM, regions=("us",))
    first = planet.submit("first", 2, tier=Tier.PREMIUM, regions=("eu",))
    planet.run(far, first)
    narrow = planet.submit("narrow", 4, devices_min=1, tier=Tier.PREMIUM)
    planet.run(narrow)
    planet.report(first, "exited", exit_code=0)
    basic = planet.submit("basic", 2, tier=Tier.BASIC)
    planet.run(basic)
    waits = planet.submit("waits", 4, tier=Tier.PREMIUM, regions=("us",))
    assert planet.job(basic).held == 2 and planet.job(narrow).held == 2
    assert verbs(planet.tick(60.0)) == {basic: "suspend"}
    assert planet.job(waits).state is JobState.PENDING
