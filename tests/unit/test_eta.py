"""When a waiting job will start, and what single change would let it start sooner."""

from __future__ import annotations

import pytest

from singularity.primitives.model import JobId, Tier
from singularity.scheduler.advice import Change, advise
from singularity.scheduler.durations import Durations, Ran
from singularity.scheduler.eta import Eta, draws, forecast
from tests.unit.fleets import POLICY, Planet

HOUR = [Ran("default", "any", "train", 3_600.0) for _ in range(20)]


def full(nodes: int = 1, **spec: object) -> Planet:
    """One region of 4 devices a node, all in use since 600 s."""
    planet = Planet(nodes=nodes, devices=4, regions=("us",))
    planet.run(*(planet.submit(f"runs-{n}", 4, **spec) for n in range(nodes)))
    planet.now_s += 600.0
    return planet


def ask(planet: Planet, known: list[Ran] = HOUR) -> dict[str, Eta]:
    found = forecast(planet.ledger.snapshot(planet.now_s), Durations(known), POLICY)
    return {str(job): eta for job, eta in found.items()}


def advice(planet: Planet, job: str, eta: Eta | None = None) -> dict[str, Change]:
    snapshot, plan = planet.ledger.snapshot(planet.now_s), planet.plan()
    found = advise(snapshot, plan, planet.job(JobId(job)), POLICY, eta)
    return {c.kind: c for c in found}


def test_it_starts_when_the_one_before_it_ends() -> None:
    planet = full()
    planet.submit("next", 4)
    planet.submit("last", 2)
    found = ask(planet)
    assert found["next"].p50_s == pytest.approx(3_000.0, abs=10.0)
    assert (found["next"].after, found["next"].p90_s) == ("runs-0", found["next"].p50_s)
    assert found["last"].p50_s == pytest.approx(6_600.0, abs=10.0)
    assert found["last"].after == "next"


def test_what_its_owner_allows_bounds_it() -> None:
    planet = full(max_duration_s=900.0)
    planet.submit("next", 4)
    assert ask(planet, [])["next"].p90_s == pytest.approx(300.0, abs=10.0)


def test_of_nobody_known_the_later_is_much_later() -> None:
    planet = full()
    planet.submit("next", 4)
    eta = ask(planet, [])["next"]
    assert eta.p50_s and eta.p90_s
    assert 500.0 < eta.p50_s < 800.0 and 4_000.0 < eta.p90_s < 8_000.0


def test_who_may_take_from_others_starts_soon() -> None:
    planet = full(tier=Tier.BASIC)
    planet.submit("urgent", 4, tier=Tier.PREMIUM)
    assert ask(planet)["urgent"].p90_s == POLICY.move_cost_s
    planet.change(JobId("runs-0"), pause_s=1.5)
    assert ask(planet)["urgent"].p90_s == 1.5, "as it was measured"


def test_a_quota_is_waited_for_too() -> None:
    planet = Planet(nodes=2, devices=4, regions=("us",))
    planet.project("team", 4, borrow=0)
    planet.run(planet.submit("runs", 4, project="team"))
    planet.now_s += 600.0
    planet.submit("held-back", 4, project="team")
    assert ask(planet)["held-back"].p50_s == pytest.approx(3_000.0, abs=10.0)


def test_what_never_fits_has_no_time() -> None:
    planet = full()
    planet.submit("too-wide", 64)
    assert ask(planet)["too-wide"] == Eta(None, None)


def test_draws_are_a_jobs_own_and_always_the_same() -> None:
    planet = full()
    one, two = planet.job(planet.submit("one", 1)), planet.job(planet.submit("two", 1))
    assert (draws(one) == draws(one)).all() and (draws(one) != draws(two)).any()
    assert sorted(draws(one)) == sorted(draws(two)), "evenly spread"


# ---------------------------------------------------------------- advice
def test_fewer_devices_another_region_or_tier_and_whom_to_wait_for() -> None:
    planet = Planet(nodes=1, devices=4)
    planet.run(planet.submit("holder", 3, regions=("us",)))
    planet.submit("job", 4, regions=("us",))
    found = advice(planet, "job", ask(planet)["job"])
    assert found["devices"].text == "devices 1: fits now"
    assert found["place"] == Change("place", "allow region eu: fits now", 0.0)
    assert found["tier"].text.startswith("tier premium: ~2.5 s (takes from 1 job, standard, ")
    assert found["wait"].text == "wait for holder: ~60 min"


def test_a_quota_that_binds_alone_may_be_raised() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("team", 2, borrow=0)
    planet.submit("job", 4, project="team")
    found = advice(planet, "job")
    assert found["quota"].text == "quota of team by 2 cpu: fits now"
    assert found["devices"].text == "devices 2: fits now"
    planet.run(planet.submit("others", 6, project="guests"))
    assert "quota" not in advice(planet, "job"), "then there would be no devices for it"


def test_another_region_may_be_worth_taking_from_its_jobs() -> None:
    planet = Planet(nodes=1, devices=4)
    planet.run(planet.submit("here", 4, regions=("us",)))
    planet.run(planet.submit("there", 4, regions=("eu",), tier=Tier.BASIC))
    planet.submit("job", 4, regions=("us",))
    text = advice(planet, "job")["place"].text
    assert text == "allow region eu: ~2.5 s (takes from 1 job, basic, 20 device-seconds)"


def test_who_waits_for_something_else_is_given_no_advice() -> None:
    planet = full()
    planet.submit("after", 1, after=(JobId("runs-0"),))
    assert advice(planet, "after") == {}
