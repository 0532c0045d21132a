"""Making room for urgent work: no more than is needed, no job starved, no plan too rough."""

from __future__ import annotations

from fleets import POLICY, Planet, verbs

from singularity.primitives.model import Goal, Intent, JobId, JobState, Tier
from singularity.primitives.service import Account, Slice
from singularity.primitives.sla import SLICE_S, near_promise
from singularity.scheduler.decide import decide
from singularity.scheduler.draft import Draft
from singularity.scheduler.explain import lacking
from singularity.scheduler.policy import Policy


def test_an_elastic_job_is_made_room_for_at_its_least_where_its_full_size_cannot_be() -> None:
    planet = Planet(nodes=1, regions=("us",))
    basic = planet.submit("basic", 4, tier=Tier.BASIC)
    planet.run(basic)
    urgent = planet.submit("urgent", 8, devices_min=2, tier=Tier.PREMIUM)
    assert verbs(planet.tick()) == {"basic": "suspend"}
    planet.report(basic, "dumped")
    assert verbs(planet.tick())["urgent"] == "resume"
    assert planet.job(urgent).held == 4


def test_nothing_is_reclaimed_when_the_same_plan_frees_enough() -> None:
    for what in ("cancel", "expire", "stop"):
        planet = Planet(nodes=1, regions=("us",))
        basic = planet.submit("basic", 2, tier=Tier.BASIC)
        leaving = planet.submit("leaving", 2, max_duration_s=5.0 if what == "expire" else None)
        planet.run(basic, *([] if what == "stop" else [leaving]))
        if what == "cancel":
            planet.ledger.intend(leaving, Intent.CANCEL, planet.now_s)
        planet.submit("urgent", 2, tier=Tier.PREMIUM)
        late_s = POLICY.start_deadline_s + 1.0 if what == "stop" else 10.0
        assert verbs(planet.tick(late_s)) == {"leaving": what}, what


def test_room_is_made_in_one_cluster_however_many_smaller_jobs_are_cheaper_elsewhere() -> None:
    planet = Planet(nodes=1, regions=tuple("abcdefghij"))
    small = [planet.submit(f"{n}-{r}", 1, tier=Tier.BASIC) for n in range(4) for r in "abcdefghij"]
    planet.run(*small)
    planet.submit("gang", 4, tier=Tier.PREMIUM)
    plan = planet.tick()
    clusters = {s.node for a in plan.actions for s in planet.job(a.job).placement}
    assert len(plan.actions) == 4, "exactly the victims of one cluster"
    assert len(clusters) == 1


def test_what_one_plan_may_not_take_the_next_ones_do() -> None:
    planet = Planet(nodes=3, regions=("us",))
    small = [planet.submit(f"s{n:02}", 1, tier=Tier.BASIC) for n in range(12)]
    planet.run(*small)
    urgent = planet.submit("urgent", 12, tier=Tier.PREMIUM)
    most = POLICY.preemptions_per_tick_max
    assert len(planet.tick().actions) == most
    assert len(planet.tick().actions) == len(small) - most
    assert planet.tick().actions == (), "and what is asked for is not asked for again"
    for job in small:
        planet.report(job, "dumped")
    assert verbs(planet.tick())[urgent] == "resume"


def test_the_bound_is_of_the_plan_and_not_of_each_waiting_job() -> None:
    planet = Planet(nodes=3, regions=("us",))
    planet.run(*[planet.submit(f"s{n:02}", 1, tier=Tier.BASIC) for n in range(12)])
    for n in range(3):
        planet.submit(f"urgent-{n}", 4, tier=Tier.PREMIUM)
    plan = decide(planet.ledger.snapshot(planet.now_s), Policy(preemptions_per_tick_max=5))
    assert len(plan.actions) == 5
    assert set(plan.pending) == {"urgent-0", "urgent-1", "urgent-2"}


def test_nobody_is_stopped_where_stopping_everybody_would_not_help() -> None:
    planet = Planet(nodes=1, regions=("us",))
    planet.run(
        planet.submit("equal", 2, tier=Tier.PREMIUM), planet.submit("basic", 2, tier=Tier.BASIC)
    )
    urgent = planet.submit("urgent", 4, tier=Tier.PREMIUM)
    plan = planet.tick()
    assert plan.actions == ()
    assert plan.pending[urgent][-1].detail == "no less urgent job could make room"


def test_the_least_urgent_give_way_even_where_the_more_urgent_are_cheaper() -> None:
    planet = Planet(nodes=1, devices=8, regions=("us",))
    standard, basic = planet.submit("standard", 4), planet.submit("basic", 4, tier=Tier.BASIC)
    planet.run(standard, basic)
    planet.submit("urgent", 3, tier=Tier.PREMIUM)
    assert verbs(planet.tick()) == {"basic": "suspend"}


def test_what_is_lacking_is_told_in_the_terms_in_which_it_is_sought() -> None:
    planet = Planet(nodes=2, devices=3, regions=("us",))
    close = planet.submit("close", 4, same_node=True)
    one_rank = planet.submit("one-rank", 4, ranks=1)
    wide = planet.submit("wide", 7)
    draft = Draft(planet.ledger.snapshot(planet.now_s))

    def detail(job: JobId) -> str:
        return lacking(draft, planet.job(job))[0].detail

    assert detail(close) == "no node has 4 cpu free for it; the best is us-0 with 3"
    assert detail(one_rank).startswith("no cluster has 4 cpu, 4 on one node each, free for it")
    assert detail(wide) == "no cluster has 7 cpu free for it; the best is us-a with 6"


def test_a_job_that_never_comes_up_is_tried_ever_less_often_and_at_last_fails() -> None:
    planet = Planet(nodes=1, regions=("us",))
    job = planet.submit("dud", 4, retry_infra=3)
    starts = []
    for _ in range(60):
        if planet.tick(POLICY.start_deadline_s + 1.0).actions and planet.job(job).placement:
            starts.append(planet.job(job).incarnation)
        if planet.job(job).state is JobState.STOPPING:
            planet.report(job, "stopped")
    found = planet.job(job)
    assert found.state is JobState.FAILED
    assert found.incarnation == 4, "three are excused, the fourth is not"
    assert "starting for more than" in found.message


def test_a_stop_said_again_keeps_what_it_is_for() -> None:
    planet = Planet(nodes=1, regions=("us",))
    job = planet.submit("crashes", 4)
    planet.run(job)
    planet.change(job, state=JobState.STOPPING, goal=Goal.FAIL, message="exited with code 3")
    planet.tick(POLICY.stop_deadline_s + 1.0)
    found = planet.job(job)
    assert (found.goal, found.message) == (Goal.FAIL, "exited with code 3")
    planet.report(job, "stopped")
    assert planet.job(job).state is JobState.FAILED


def test_the_exit_code_of_an_earlier_life_is_not_the_cause_of_a_later_end() -> None:
    planet = Planet(nodes=2, regions=("us",))
    job = planet.submit("long", 8, retry_user=1, max_duration_s=1_000.0)
    planet.run(job)
    planet.report(job, "exited", exit_code=1)
    planet.report(job, "stopped")
    assert planet.job(job).exit_code == 1
    planet.tick(60.0)
    planet.report(job, "running")
    assert planet.job(job).exit_code is None
    assert verbs(planet.tick(2_000.0)) == {"long": "expire"}
    planet.report(job, "lost")  # a node may break while it is being stopped
    assert planet.job(job).state is JobState.FAILED, "its time is up all the same"


def test_who_has_more_than_was_promised_gives_before_who_has_hardly_that() -> None:
    """The donor is dearer, and gives all the same: the other would fall below its promise."""
    planet = Planet(nodes=1, devices=4, regions=("us",))
    donor = planet.submit("donor", 2, checkpoint_every_s=0.0)
    near = planet.submit("near", 2, checkpoint_every_s=0.0)
    planet.run(donor, near)
    planet.now_s += 3_600.0
    planet.change(donor, pause_s=9.0)
    planet.change(near, pause_s=1.0)
    planet.submit("urgent", 2, tier=Tier.PREMIUM)
    assert verbs(planet.plan()) == {near: "suspend"}, "both have all they asked for"
    slices = (Slice(int(planet.now_s // SLICE_S), 1e9, 0.71e9),)
    planet.change(near, account=Account(planet.now_s, slices))
    assert near_promise(planet.job(near), planet.now_s)
    assert not near_promise(planet.job(donor), planet.now_s)
    assert verbs(planet.plan()) == {donor: "suspend"}


def test_nobody_shrinks_by_more_than_is_wanted_with_what_others_give() -> None:
    planet = Planet(nodes=2, devices=8, regions=("us",))
    first, second = (
        planet.submit(name, 8, devices_min=least, tier=Tier.BASIC)
        for name, least in (("first", 4), ("second", 2))
    )
    planet.run(first, second)
    planet.submit("urgent", 8, tier=Tier.PREMIUM)
    plan = planet.tick()
    assert verbs(plan) == dict.fromkeys((first, second), "scale")
    given = [planet.job(a.job).held - sum(s.devices for s in a.placement) for a in plan.actions]
    assert sum(given) == 8, given


def test_a_job_that_runs_on_too_little_does_not_move_out_of_its_own_way() -> None:
    """What it holds is its own already: it would win nothing, and be moved again and again."""
    planet = Planet(regions=())
    planet.join("us-0", "us")
    planet.submit("urgent", 2, tier=Tier.PREMIUM)
    planet.tick()
    short = planet.submit("short", 4, devices_min=1)
    planet.tick()
    planet.join("us-1", "us")
    planet.submit("rigid", 4, same_node=True)
    planet.tick()
    planet.obey()
    assert planet.job(short).held == 2
    planet.join("eu-0", "eu", 2)
    planet.join("eu-1", "eu", 4, whole=False)
    assert verbs(planet.tick(1_000.0)) == {}
