"""Parts of devices: what may be asked for, where it goes, and how the books stay true."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import GIB, POLICY, Planet, share, verbs

from singularity.primitives.holdings import claimed, overfull, spots, stays
from singularity.primitives.model import Intent, JobId, JobState, Shard, Tier
from singularity.primitives.nodes import Duty, Node, Scope, ScopeKind
from singularity.primitives.sharing import Part
from singularity.primitives.sla import rates
from singularity.primitives.verbs import resume
from singularity.scheduler.advice import advise
from singularity.scheduler.explain import explain


def one(devices: int = 2) -> Planet:
    return Planet(nodes=1, devices=devices, regions=("us",))


def seats(planet: Planet, job: JobId) -> dict[str, tuple[int, ...]]:
    return {s.node: s.indices for s in planet.job(job).placement}


def node(planet: Planet, name: str = "us-0") -> Node:
    return planet.ledger.nodes()[name]  # type: ignore[index]


def test_two_shares_meet_on_one_device_and_the_rest_stays_whole() -> None:
    planet = one(2)
    rt, be = (planet.submit(n, 1, share=share(50, 8, rt=n == "rt")) for n in ("rt", "be"))
    planet.tick()
    assert seats(planet, rt) == seats(planet, be) == {"us-0": (0,)}
    assert node(planet).parts == (Part(0, 1000, 16 * GIB),) and node(planet).used == 1
    whole = planet.submit("whole", 1)
    assert verbs(planet.tick()) == {whole: "resume"}
    assert node(planet).used == 2


def test_a_device_that_nobody_shares_any_more_is_whole_again() -> None:
    planet = one(1)
    jobs = [planet.submit(n, 1, share=share(40)) for n in ("a", "b")]
    planet.run(*jobs)
    waiting = planet.submit("whole", 1)
    for job in jobs:
        assert not planet.job(waiting).placement
        planet.report(job, "exited", exit_code=0)
        planet.tick()
    assert planet.job(waiting).placement and node(planet).parts == ()


@pytest.mark.parametrize(("percent", "gib"), [(60, 1), (10, 12)])
def test_neither_compute_nor_memory_is_promised_twice(percent: int, gib: int) -> None:
    planet = one(1)
    first = planet.submit("first", 1, share=share(percent, gib))
    second = planet.submit("second", 1, share=share(percent, gib))
    plan = planet.tick()
    assert verbs(plan) == {first: "resume"}
    (lacks, _) = plan.pending[second]
    assert lacks.kind == "capacity" and f"{percent} %" in lacks.detail, lacks


def test_ranks_of_one_gang_are_on_different_devices() -> None:
    planet = Planet(nodes=2, devices=2, regions=("us",))
    gang = planet.submit("gang", 4, share=share(20))
    planet.tick()
    assert seats(planet, gang) == {"us-0": (0, 1), "us-1": (0, 1)}
    (start, _) = [letter.command for letter in planet.ledger.unsent()]
    assert (start.ranks, start.indices, start.share) == ((0, 1), (0, 1), share(20))
    assert planet.submit("too-wide", 5, share=share(20)) in planet.tick().pending


def test_shares_fill_devices_that_are_open_before_they_open_others() -> None:
    planet = Planet(nodes=3, devices=2, regions=("us",))
    jobs = [planet.submit(f"j{i}", 1, share=share(25)) for i in range(8)]
    planet.tick()
    assert len({next(iter(spots(planet.job(j)).items())) for j in jobs}) == 2
    assert sum(n.used for n in planet.ledger.nodes().values()) == 2


def test_real_time_goes_only_where_devices_can_be_preempted() -> None:
    planet = Planet(nodes=0, regions=())
    planet.join("us-0", "us", preempts=False)
    planet.join("us-1", "us", memory_bytes=0)
    rt, be = (
        planet.submit("rt", 1, share=share(10, rt=True)),
        planet.submit("be", 1, share=share(10)),
    )
    assert verbs(planet.tick()) == {be: "resume"}
    assert seats(planet, be) == {"us-0": (0,)}
    planet.join("us-2", "us")
    assert verbs(planet.tick()) == {rt: "resume"} and "us-2" in seats(planet, rt)


def test_where_devices_are_given_out_in_shares_only_no_whole_one_is_taken() -> None:
    planet = Planet(nodes=0, regions=())
    planet.join("us-0", "us", whole=False)
    whole, part = planet.submit("whole", 1), planet.submit("part", 1, share=share(10))
    assert verbs(planet.tick()) == {part: "resume"}
    assert said(planet, whole) == (
        "cpu devices are given out in shares only; write share: {memory, compute}"
    )
    planet.join("us-1", "us")
    assert verbs(planet.tick()) == {whole: "resume"}
    assert [s.node for s in planet.job(whole).placement] == ["us-1"]


def test_a_sharing_job_is_drained_to_another_node() -> None:
    planet = Planet(nodes=2, devices=1, regions=("us",))
    job = planet.submit("job", 1, share=share(50))
    planet.run(job)
    planet.ledger.set_duty(Scope(ScopeKind.NODE, "us-0"), Duty.DRAINING, planet.now_s)
    assert verbs(planet.tick()) == {job: "migrate"}
    assert [node(planet, n).parts for n in ("us-0", "us-1")] == [(Part(0, 500, GIB),)] * 2
    planet.report(job, "dumped")
    planet.report(job, "running")
    assert seats(planet, job) == {"us-1": (0,)}
    assert node(planet, "us-0").used == 0 and node(planet, "us-1").used == 1


def test_a_suspend_gives_the_share_back_and_a_resume_takes_another() -> None:
    planet = one(1)
    job = planet.submit("job", 1, share=share(50, 8))
    planet.run(job)
    planet.ledger.intend(job, Intent.HOLD, planet.now_s)
    planet.tick()
    planet.report(job, "dumped")
    assert planet.job(job).state is JobState.SUSPENDED and node(planet).used == 0
    planet.ledger.intend(job, Intent.RUN, planet.now_s)
    planet.tick()
    assert planet.job(job).state is JobState.STARTING and node(planet).used == 1


def test_urgent_work_takes_a_whole_device_from_all_who_share_it() -> None:
    planet = one(1)
    jobs = [planet.submit(n, 1, tier=Tier.BASIC, share=share(50)) for n in ("a", "b")]
    planet.run(*jobs)
    urgent = planet.submit("urgent", 1, tier=Tier.PREMIUM)
    plan = planet.tick()
    assert verbs(plan) == dict.fromkeys(jobs, "suspend")
    assert [a.price for a in plan.actions] == [POLICY.move_cost_s * 0.5] * 2, "halves of a device"
    assert planet.tick().actions == (), "what is being freed is not asked for again"
    for job in jobs:
        planet.report(job, "dumped")
    assert verbs(planet.tick()) == {urgent: "resume"}


def test_urgent_work_takes_a_share_from_one_of_those_who_have_one() -> None:
    planet = one(1)
    small = planet.submit("small", 1, tier=Tier.BASIC, share=share(20))
    large = planet.submit("large", 1, tier=Tier.BASIC, share=share(70))
    planet.run(small, large)
    urgent = planet.submit("urgent", 1, tier=Tier.PREMIUM, share=share(35, rt=True))
    assert verbs(planet.tick()) == {large: "suspend"}
    assert planet.tick().actions == ()
    planet.report(large, "dumped")
    assert urgent in verbs(planet.tick())


def test_a_share_takes_no_device_that_is_kept_for_whoever_waits_before_it() -> None:
    planet = one(2)
    basic = planet.submit("basic", 1, tier=Tier.BASIC)
    planet.run(basic)
    gang = planet.submit("gang", 2, tier=Tier.PREMIUM)
    part = planet.submit("part", 1, tier=Tier.PREMIUM, share=share(30))
    assert verbs(planet.tick()) == {basic: "suspend"}
    planet.report(basic, "dumped")
    assert verbs(planet.tick()) == {gang: "resume"}
    assert not planet.job(part).placement


def test_a_share_is_charged_as_a_part_of_a_device() -> None:
    planet = one(2)
    job = planet.submit("job", 2, share=share(25))
    assert rates(planet.job(job)) == (0.5, 0.0)
    planet.run(job)
    assert rates(planet.job(job)) == (0.5, 0.5)


def test_a_rank_stays_only_where_its_device_stays() -> None:
    planet = Planet(nodes=2, devices=3, regions=("us",))
    job = planet.job(planet.submit("job", 3, share=share(10)))
    a = Shard(node(planet).id, 3, indices=(0, 1, 2))
    running = resume(job, (a,), 1.0).job
    there = (replace(a, devices=2, indices=(0, 2)), Shard(node(planet, "us-1").id, 1, indices=(0,)))
    assert stays(replace(running, target=there), running.placement[0]) == (0,)


def test_what_would_be_promised_twice_is_said() -> None:
    planet = one(1)
    job = planet.job(planet.submit("job", 1, share=share(60, 9)))
    full = replace(node(planet), used=1, parts=(Part(0, 500, GIB),))
    seat = Shard(full.id, 1, indices=(0,))
    assert overfull(claimed(full, job, seat)) == "has no such share left of its device 0"
    full = replace(full, parts=(Part(0, 100, 8 * GIB),))
    assert overfull(claimed(full, job, seat)) == "has not so much memory left on its device 0"
    elsewhere = replace(seat, indices=(1,))
    assert "2 would be taken" in overfull(claimed(full, job, elsewhere))


def test_why_speaks_of_shares() -> None:
    planet = one(1)
    alone = planet.submit("alone", 1, share=share(30, 2, rt=True))
    planet.run(alone)
    beside = planet.submit("beside", 1, share=share(50, 4))
    planet.run(beside)
    wants = planet.submit("wants", 1, share=share(30, 2))
    assert said(planet, alone) == (
        "running with 30 % and 2 GiB of a cpu (rt) a rank: device 0 of us-0 beside beside"
    )
    assert said(planet, wants) == (
        "needs 30 % and 2 GiB of a cpu for each of 1 ranks, on devices of their own in one "
        "cluster; 0 are free, and 0 of 1 shared ones have room, the emptiest 20 % and 10 GiB"
    )
    snapshot, plan = planet.ledger.snapshot(planet.now_s), planet.plan()
    changes = advise(snapshot, plan, planet.job(wants), POLICY)
    assert "share.compute 20%: fits now" in [change.text for change in changes]
    large = planet.submit("large", 1, share=share(1, 17))
    assert said(planet, large) == "share.memory: no cpu has 17 GiB; the largest has 16"


def test_why_names_nobody_of_another_project() -> None:
    planet = one(1)
    mine = planet.submit("mine", 1, share=share(30, 2))
    planet.run(mine)
    planet.run(planet.submit("secret", 1, share=share(30, 2), project="theirs"))
    assert said(planet, mine).endswith("device 0 of us-0 beside 1 of other projects")


def said(planet: Planet, job: JobId) -> str:
    snapshot = planet.ledger.snapshot(planet.now_s)
    return explain(snapshot, planet.plan(), planet.job(job), POLICY).reasons[0].detail


def test_a_class_that_no_device_can_keep_is_said() -> None:
    planet = Planet(nodes=0, regions=())
    planet.join("us-0", "us", preempts=False)
    rt = planet.submit("rt", 1, share=share(10, rt=True))
    assert said(planet, rt) == (
        "share.class rt: cpu devices that are large enough cannot be preempted; use be"
    )
