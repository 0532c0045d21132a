"""Quotas: who may start, who borrows, who gives back; and what may not be promised at all."""

from __future__ import annotations

from typing import Any

import pytest

from singularity.primitives.errors import InvalidSpec, NotFound
from singularity.primitives.model import Intent, JobId, JobState, Tier
from singularity.primitives.projects import HALF_LIFE_S, Allotment, Project, Usage, admitted
from singularity.scheduler.policy import Policy
from singularity.scheduler.queueing import queue
from tests.unit.fleets import Planet, verbs

CPU = {"cpu": 16}


def project(name: str, guaranteed: int = 0, parent: str = "", **said: Any) -> Project:
    return Project(name, parent, allotments=(Allotment("cpu", guaranteed, **said),))


def kinds(planet: Planet, job: str) -> dict[str, str]:
    return {r.kind: r.detail for r in planet.plan().pending[JobId(job)]}


# ---------------------------------------------------------------- what may not be promised
@pytest.mark.parametrize(
    ("new", "error", "said"),
    [
        (project("a", 17), InvalidSpec, "25 cpu devices would be guaranteed, and the fleet has 16"),
        (project("a", 9), InvalidSpec, "17 cpu devices would be guaranteed"),
        (project("a", 1, parent="nobody"), NotFound, "there is no project 'nobody'"),
        (project("part", 7, parent="team"), InvalidSpec, "11 cpu devices .* and team has 6"),
        (project("team", 2), InvalidSpec, "4 cpu devices would be guaranteed, and team has 2"),
        (project("team", 6, parent="x"), InvalidSpec, "themselves: team < x < team"),
        (project("a", 1, parent="a"), InvalidSpec, "themselves: a < a"),
        (project("a", -1), InvalidSpec, "guaranteed of a must be 0 cpu devices or more, not -1"),
        (project("a", 1, borrow=-2), InvalidSpec, "borrow of a must be 0"),
        (project("a", 2, lend=3), InvalidSpec, "a cannot lend 3 of 2 cpu devices"),
        (Project("a", allotments=(Allotment("h200", 1),)), InvalidSpec, "the fleet has 0"),
        (Project("a", weight=0.0), InvalidSpec, "the weight of a must be more than 0"),
    ],
)
def test_what_cannot_be_kept_is_refused(new: Project, error: type[Exception], said: str) -> None:
    known = [project("team", 6), project("x", 4, parent="team"), project("other", 2)]
    with pytest.raises(error, match=said):
        admitted(known, new, CPU)


def test_parts_have_what_their_team_has_where_nobody_said_how_much_that_is() -> None:
    known = admitted([Project("team")], project("x", 10, parent="team"), CPU).values()
    with pytest.raises(InvalidSpec, match="the fleet has 16"):
        admitted(known, project("y", 7, parent="team"), CPU)


def test_a_fleet_that_shrank_refuses_no_other_change() -> None:
    known = [project("a", 12)]
    assert admitted(known, Project("b", weight=2.0), {"cpu": 4})["b"].weight == 2.0


# ---------------------------------------------------------------- who may start
def test_a_project_holds_what_is_guaranteed_and_what_it_may_borrow() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("a", 2, borrow=2)
    for n in range(3):
        planet.submit(f"job-{n}", 2, project="a")
    planet.submit("free", 2, project="unlimited")
    assert verbs(planet.plan()) == dict.fromkeys(("job-0", "job-1", "free"), "resume")
    told = kinds(planet, "job-2")
    assert told["quota"].startswith("a is at 4 of 4 cpu (2 guaranteed, 2 borrowed at most)")
    assert "capacity" not in told, "there is room: only the quota binds"


def test_an_elastic_job_takes_what_its_quota_leaves() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("a", 3, borrow=0)
    job = planet.submit("job", 8, devices_min=1, project="a")
    planet.run(job)
    assert planet.job(job).held == 3
    planet.tick(100.0)
    assert planet.job(job).held == 3, "nor does it grow"
    planet.project("a", 5, borrow=0)
    planet.tick(100.0)
    assert sum(s.devices for s in planet.job(job).target) == 5


def test_a_team_shares_what_its_parts_may_borrow() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("team", 4, borrow=0)
    for name in ("x", "y"):
        planet.project(name, 2, parent="team")
        planet.submit(name, 3, project=name)
    assert list(verbs(planet.plan())) == ["x"], "y would bring the team to 6 of 4"
    planet.submit("y-small", 1, project="y")
    assert sorted(verbs(planet.plan())) == ["x", "y-small"]


def test_what_is_not_lent_stays_idle() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("owner", 6, lend=2)
    planet.submit("guest", 5, project="guests")
    assert kinds(planet, "guest")["quota"].startswith("4 of 8 idle cpu are not lent")
    planet.submit("guest-small", 4, project="guests")
    planet.submit("mine", 4, project="owner")
    assert sorted(verbs(planet.plan())) == ["guest-small", "mine"]


def test_within_a_project_the_more_urgent_takes_what_the_quota_allows() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("a", 4, borrow=0)
    low = planet.submit("low", 4, project="a", tier=Tier.BASIC)
    planet.run(low)
    planet.submit("high", 4, project="a", tier=Tier.PREMIUM)
    planet.submit("others", 4, project="b", tier=Tier.BASIC)
    assert verbs(planet.plan()) == {"low": "suspend", "others": "resume"}


def test_who_gives_quota_may_run_where_the_other_may_not() -> None:
    planet = Planet(nodes=1, devices=4)
    planet.project("a", 4, borrow=0)
    planet.run(planet.submit("low", 4, project="a", tier=Tier.BASIC, regions=("us",)))
    planet.submit("high", 2, project="a", tier=Tier.PREMIUM, regions=("eu",))
    assert verbs(planet.plan()) == {"low": "suspend"}
    planet = Planet(nodes=1, devices=4)
    planet.project("a", 4, borrow=0)
    shrinks = {"devices_min": 1, "tier": Tier.BASIC, "regions": ("us",)}
    planet.run(planet.submit("low", 4, project="a", **shrinks))
    planet.submit("high", 2, project="a", tier=Tier.PREMIUM, regions=("eu",))
    (action,) = planet.plan().actions
    assert (action.verb, sum(s.devices for s in action.placement)) == ("scale", 2)


def test_behind_a_limit_only_those_that_it_is_for_wait() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("a", 2, borrow=0)
    planet.run(planet.submit("first", 1, project="a", tier=Tier.PREMIUM))
    planet.submit("wide", 2, project="a", tier=Tier.PREMIUM)
    planet.submit("mine", 1, project="a", tier=Tier.BASIC)
    planet.submit("others", 1, project="b", tier=Tier.BASIC)
    assert verbs(planet.plan()) == {"others": "resume"}
    assert kinds(planet, "mine") == {"order": "wide (premium) is before it and waits too"}


def test_who_waits_behind_one_at_its_limit_keeps_no_devices_from_others() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("team", 6, borrow=0)
    planet.project("y", 3, parent="team")
    planet.project("x", parent="team")
    planet.submit("first", 4, project="x", tier=Tier.PREMIUM)
    planet.tick()  # it starts, and so gives nothing back yet
    planet.submit("wide", 3, project="y")
    planet.submit("mine", 1, project="x", tier=Tier.BASIC)  # within the guarantee of the team
    planet.submit("others", 1, project="free")
    assert verbs(planet.plan()) == {"others": "resume"}
    assert kinds(planet, "mine")["order"].startswith("wide of another project (standard)")


@pytest.mark.parametrize("governed", [False, True])
def test_who_is_before_a_job_is_named_to_its_own_project_only(governed: bool) -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    if governed:
        planet.project("a", 2)
    planet.run(planet.submit("first", 8, project="a", tier=Tier.PREMIUM))
    planet.submit("wide", 8, project="a", tier=Tier.PREMIUM)
    for project in "ab":
        planet.submit(f"of-{project}", 1, project=project, tier=Tier.STANDARD)
    assert kinds(planet, "of-a")["order"].startswith("wide (premium) is before it")
    assert kinds(planet, "of-b")["order"].startswith("wide of another project (premium) is before")


# ---------------------------------------------------------------- who gives back
def lent() -> Planet:
    """A full cluster of 8: of 6 that are `owner`'s it has none, and `guests` have all."""
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("owner", 6)
    planet.run(*(planet.submit(f"guest-{n}", 4, project="guests") for n in range(2)))
    return planet


def test_a_lender_takes_back_from_who_is_as_urgent_or_more() -> None:
    planet = lent()
    planet.submit("mine", 4, project="owner", tier=Tier.BASIC)
    plan = planet.tick()
    assert list(verbs(plan).values()) == ["suspend"]
    assert "gives 4 devices to mine of another project (basic) for" in plan.actions[0].reason
    planet.obey()
    planet.run(JobId("mine"))
    assert planet.job(JobId("mine")).state is JobState.RUNNING
    assert verbs(planet.tick()) == {}, "who gave back asks for nothing that is not its own"


def test_more_than_its_own_nobody_takes_from_equals() -> None:
    planet = lent()
    planet.submit("mine", 8, project="owner")
    assert verbs(planet.plan()) == {}
    assert kinds(planet, "mine")["quota"] == "+8 needs borrowing 2 (allowed)"


def test_an_elastic_lender_takes_its_own_and_no_more() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("owner", 6)
    planet.run(*(planet.submit(f"guest-{n}", 1, project="guests") for n in range(8)))
    planet.submit("mine", 8, devices_min=1, project="owner")
    assert list(verbs(planet.plan()).values()) == ["suspend"] * 6


def test_what_is_guaranteed_is_not_for_those_who_borrow_however_urgent() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("owner", 4)
    planet.run(planet.submit("mine", 4, project="owner", tier=Tier.BASIC))
    planet.run(planet.submit("theirs", 4, project="guests", tier=Tier.BASIC))
    planet.submit("urgent", 8, project="guests", tier=Tier.PREMIUM)
    assert verbs(planet.plan()) == {}
    planet.submit("urgent-small", 4, project="guests", tier=Tier.PREMIUM)
    planet.ledger.intend(JobId("urgent"), Intent.CANCEL, planet.now_s)
    planet.tick()
    assert verbs(planet.plan()) == {} and planet.job(JobId("theirs")).state is JobState.SUSPENDING


def test_borrowed_devices_are_taken_before_less_urgent_ones() -> None:
    """`owner` may take from the basic job of `other`, for it is less urgent; but that is within its
    guarantee, and the premium guest is not."""
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("owner", 4)
    planet.project("other", 4)
    planet.run(planet.submit("at-home", 4, project="other", tier=Tier.BASIC))
    planet.run(planet.submit("guest", 4, project="guests", tier=Tier.PREMIUM))
    planet.submit("mine", 4, project="owner")
    assert verbs(planet.plan()) == {"guest": "suspend"}


def test_who_lends_within_a_team_takes_from_the_team_first() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("team", 4)
    planet.project("x", 2, parent="team")
    planet.project("y", 2, parent="team")
    planet.run(planet.submit("y-job", 4, project="y"))
    planet.run(planet.submit("guest", 4, project="guests"))
    planet.submit("x-job", 2, project="x")
    assert len(verbs(planet.plan())) == 1


def test_an_elastic_job_takes_its_own_and_borrows_only_where_nobody_else_wants() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("one", 2)
    planet.project("two", 6)
    planet.submit("elastic", 8, devices_min=1, project="one")
    (alone,) = planet.plan().actions
    assert sum(s.devices for s in alone.placement) == 8
    planet.submit("rigid", 6, project="two")
    held = {a.job: sum(s.devices for s in a.placement) for a in planet.plan().actions}
    assert held == {"elastic": 2, "rigid": 6}


# ---------------------------------------------------------------- fair share
def test_what_was_used_is_worth_half_after_a_half_life() -> None:
    used = Usage().changed("cpu", 10, 0.0).changed("cpu", -10, 60.0)
    assert used.device_s == pytest.approx(600.0, rel=1e-3)
    assert used.until(60.0 + HALF_LIFE_S) == pytest.approx(used.device_s / 2)
    forever = Usage((("cpu", 10),), 0.0, 0.0).until(100 * HALF_LIFE_S)
    assert forever == pytest.approx(10 * HALF_LIFE_S / 0.6931472), "it has a bound"


def test_of_two_projects_the_one_that_used_less_by_its_weight_is_next() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    planet.project("heavy", weight=10.0)
    for name in ("light", "heavy"):
        planet.run(planet.submit(f"{name}-ran", 4, project=name))
    for name in ("light", "heavy"):
        planet.submit(f"{name}-next", 4, project=name)
    planet.now_s += 5_000.0

    def order() -> list[str]:
        snapshot = planet.ledger.snapshot(planet.now_s)
        return [j.spec.name for j in queue(snapshot, Policy())]

    assert order() == ["heavy-next", "light-next"]
    planet.project("heavy", weight=0.5)
    assert order() == ["light-next", "heavy-next"]
