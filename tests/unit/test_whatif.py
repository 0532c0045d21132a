"""What would be: nothing changes where nothing is changed, and changes lead where they would."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from singularity.primitives.errors import InvalidSpec, NotFound
from singularity.primitives.model import Job, JobId, JobSpec, JobState, Tier
from singularity.primitives.nodes import Scope, ScopeKind
from singularity.scheduler.rehearsal import rehearse
from singularity.scheduler.standing import check
from singularity.scheduler.whatif import Changes, Outcome, compare
from tests.properties.test_quota_laws import QUOTAS, STEP, Quotas, happen, planet_of
from tests.unit.fleets import POLICY, Planet


def coming(name: str, devices: int, **spec: object) -> Job:
    sizes = {"ranks": devices, "devices": devices, "devices_min": devices, "devices_max": devices}
    found = JobSpec(name=name, run=("x",), **{**sizes, "tier": Tier.STANDARD, **spec})  # type: ignore[arg-type]
    return Job(JobId(name), found, devices, submitted_at_s=2_000.0)


def ask(planet: Planet, **changes: object) -> Outcome:
    snapshot = planet.ledger.snapshot(planet.now_s)
    return compare(snapshot, Changes(**changes), POLICY)  # type: ignore[arg-type]


def told(found: Outcome) -> dict[str, tuple[str, str, str]]:
    return {e.job.id: (e.what, e.before, e.after) for e in found.effects}


def busy() -> Planet:
    """Two regions of one cluster of 8: basic work fills `us`, `eu` is half idle."""
    planet = Planet(nodes=1, devices=8, regions=("us", "eu"))
    planet.run(planet.submit("wide", 8, tier=Tier.BASIC, regions=("us",)))
    planet.run(planet.submit("half", 4, regions=("eu",)))
    return planet


def test_a_job_that_fits_starts_and_disturbs_nobody() -> None:
    found = ask(busy(), jobs=(coming("new", 4),))
    assert told(found) == {"new": ("starts", "", "4 in eu-a")}
    assert (found.before.used, found.after.used) == (12, 16)
    assert found.paid == 0.0 and found.changed


def test_a_job_that_takes_from_others_tells_whom_and_at_what_price() -> None:
    found = ask(busy(), jobs=(coming("new", 8),))
    assert told(found) == {
        "new": ("starts", "", "8 in us-a"),
        "wide": ("stops", "8 in us-a", ""),
    }
    assert found.paid == pytest.approx(40.0)
    assert found.effects[1].reason.startswith("gives 8 devices to new (standard) for 40 device-s")


def test_a_job_that_never_fits_waits_with_its_reasons() -> None:
    found = ask(busy(), jobs=(coming("new", 16),))
    assert told(found) == {"new": ("waits", "", "")}
    assert "the best is eu-a with 4" in found.effects[0].reason
    assert found.after.wanted == 16 and dict(found.after.short) == {"premium": 0, "standard": 12}


def test_without_a_region_its_jobs_go_elsewhere_or_stop() -> None:
    planet = busy()
    planet.run(planet.submit("free", 2))
    home = next(iter(planet.job(JobId("free")).nodes))
    found = ask(planet, without=(Scope(ScopeKind.REGION, "eu"),))
    assert home.startswith("eu")
    assert told(found)["half"] == ("stops", "4 in eu-a", "")
    assert told(found)["free"] == ("moves", "2 in eu-a", "2 in us-a")
    assert told(found)["wide"][0] == "stops", "it is basic, and makes room"
    assert (found.before.devices, found.after.devices) == (16, 8)


def test_new_devices_start_what_waits() -> None:
    planet = busy()
    planet.submit("waits", 16)
    planet.tick()
    found = ask(planet, devices=("+16@eu-a",))
    assert told(found) == {"waits": ("starts", "", "16 in eu-a")}
    assert found.after.devices == 32


def test_a_quota_that_grows_starts_what_it_held_back() -> None:
    planet = busy()
    planet.project("team", 2, borrow=0)
    planet.submit("held-back", 4, project="team")
    planet.tick()
    assert told(ask(planet, quotas=(("team", "+1"),))) == {}
    found = ask(planet, quotas=(("team", "+2:cpu"),))
    assert told(found) == {"held-back": ("starts", "", "4 in eu-a")}


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"devices": ("8@us-a",)}, InvalidSpec, "is not understood"),
        ({"devices": ("+8@mars",)}, NotFound, "there is no cluster 'mars'.*eu-a, us-a"),
        ({"quotas": (("team", "+1"),)}, NotFound, "there is no project 'team'"),
        ({"quotas": (("default", "+1"),)}, InvalidSpec, "has a quota of no kind of device"),
    ],
)
def test_what_there_is_not_cannot_be_changed(
    changes: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ask(busy(), **changes)


_ALL_OF_A_LIMIT: Quotas = {"team": (1, 3, None)}
_IN_TURNS = [("team", 1, Tier.STANDARD, False), "round", ("x", 4, Tier.PREMIUM, False), "round"]


@given(QUOTAS, st.lists(STEP, max_size=14))
@example(_ALL_OF_A_LIMIT, _IN_TURNS)  # one claimed what the other took, for ever
@settings(deadline=None, max_examples=40)
def test_the_picture_comes_to_rest_and_nothing_differs_where_nothing_changes(
    quotas: Quotas, story: list[object]
) -> None:
    planet = planet_of(quotas)
    for number, step in enumerate(story):
        happen(planet, step, number)
    snapshot = planet.ledger.snapshot(planet.now_s)
    found = compare(snapshot, Changes(), POLICY)
    assert not found.changed and found.effects == ()
    rest, _, plan = rehearse(snapshot, POLICY)
    assert check(rest, replace(plan, actions=())) == []
    passing = (JobState.STARTING, JobState.SUSPENDING, JobState.STOPPING)
    assert not any(j.state in passing for j in rest.jobs)
    assert planet.ledger.snapshot(planet.now_s).jobs == snapshot.jobs, "nothing was done"
