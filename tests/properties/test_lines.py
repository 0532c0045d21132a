"""Whoever looks at the first of each line sees what one who looks at every job sees."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.primitives.model import Intent, Job, JobId, JobSpec, JobState, Tier
from singularity.primitives.nodes import ClusterId, Node, NodeId, RegionId
from singularity.primitives.projects import Allotment, Project, claim
from singularity.primitives.replicas import evicted
from singularity.primitives.service import Account
from singularity.scheduler.decide import decide
from singularity.scheduler.lines import Lines, lines_of, loose_of, queues, stands
from singularity.scheduler.policy import Policy
from singularity.scheduler.queueing import queue, ranks
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.standing import check

NOW_S = 5000.0


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    devices = draw(st.sampled_from((1, 4)))
    spec = JobSpec(
        "job",
        ("train",),
        devices,
        devices=devices,
        devices_min=devices,
        project=draw(st.sampled_from(("a", "b"))),
        tier=draw(st.sampled_from(Tier)),
        after=draw(st.sampled_from(((), (JobId("x"),)))),
        regions=draw(st.sampled_from(((), ("eu",)))),
    )
    given_s = draw(st.sampled_from((None, 0.0, 40_000.0)))
    return Job(
        JobId(f"j{draw(st.integers(0, 999)):03}"),
        spec,
        devices,
        submitted_at_s=draw(st.sampled_from((1.0, 2.0, 3.0))),
        state=draw(st.sampled_from((JobState.PENDING, JobState.SUSPENDED, JobState.SUCCEEDED))),
        intent=draw(st.sampled_from((Intent.RUN, Intent.HOLD))),
        account=None if given_s is None else Account(3.0, (), given_s),
    )


FLEETS = st.lists(jobs(), max_size=30, unique_by=lambda job: job.id)


@given(FLEETS, st.data())
@settings(deadline=None)
def test_told_of_each_change_they_are_those_of_all(fleet: list[Job], data: st.DataObject) -> None:
    lines, there = Lines(), dict[JobId, Job]()
    for job in fleet:
        if job.id in there:
            continue
        lines.count(job, 1)
        there[job.id] = job
        if data.draw(st.booleans()):
            gone = there.pop(data.draw(st.sampled_from(sorted(there))))
            lines.count(gone, -1)
            lines.all()  # what is kept of it must not be what was
    assert lines.all() == Lines(there.values()).all()
    all_jobs = tuple(sorted(there.values(), key=lambda job: job.id))
    assert lines.of(all_jobs).loose == tuple(j for j in all_jobs if not stands(j))


@given(FLEETS)
@settings(deadline=None)
def test_everybody_who_queues_is_in_one_line_and_they_make_up_the_queue(fleet: list[Job]) -> None:
    snapshot = Snapshot.build([], fleet, NOW_S)
    found = [line.jobs for line in Lines(fleet).all()]
    assert sorted(j.id for line in found for j in line) == sorted(j.id for j in fleet if queues(j))
    assert all(len(line) == 1 or all(map(stands, line)) for line in found)
    assert [line.ids for line in Lines(fleet).all()] == [tuple(j.id for j in f) for f in found]
    todo = [rank for of_tier in ranks(snapshot, Policy()).values() for rank in of_tier]
    taken = []
    while todo:
        first = min(todo, key=lambda rank: rank.place)
        taken.append(first.first)
        if not first.advance():
            todo.remove(first)
    assert taken == queue(snapshot, Policy())


def test_lines_of_other_jobs_are_not_taken_for_those_of_these() -> None:
    spec = JobSpec("job", ("train",))
    old, new = ((Job(JobId(i), spec, 1),) for i in ("a", "b"))
    known = Lines(old).of(old)
    assert [line.jobs for line in lines_of(old, known)] == [old]
    assert [line.jobs for line in lines_of(new, known)] == [new]
    assert loose_of(old, known) == ()
    assert loose_of(new, known) == new


@given(FLEETS)
@settings(deadline=None)
def test_who_stands_in_a_line_has_nothing_that_anybody_could_ask_for(fleet: list[Job]) -> None:
    """So a round that does not look at them one by one misses nothing."""
    for job in filter(stands, fleet):
        assert not (job.placement or job.target or job.taken or job.resizing)
        assert claim(job) == 0 and job.intent is Intent.RUN and not evicted(job)
        assert not (job.spec.aside or job.spec.serving or job.spec.topology.apart)


@given(FLEETS)
@settings(deadline=None)
def test_a_plan_is_the_same_where_lines_are_kept(fleet: list[Job]) -> None:
    place = {"region": RegionId("eu"), "cluster": ClusterId("c"), "device": "gpu"}
    nodes = [Node(id=NodeId("n"), devices=6, epoch=1, **place)]
    projects = (Project("a", allotments=(Allotment("gpu", 4, 1),)), Project("b"))
    built = replace(Snapshot.build(nodes, fleet, NOW_S), projects=projects)
    kept = replace(built, lined=Lines(built.jobs).of(built.jobs))
    plan = decide(kept, Policy())
    assert plan == decide(built, Policy())
    assert check(kept, plan) == check(built, plan) == []


def test_what_was_told_of_a_line_is_told_to_whoever_keeps_no_lines() -> None:
    place = {"region": RegionId("eu"), "cluster": ClusterId("c"), "device": "cpu"}
    nodes = [Node(id=NodeId("n"), devices=2, epoch=1, **place)]
    spec = JobSpec("job", ("train",), 4, devices=4, devices_min=4)
    built = Snapshot.build(nodes, [Job(JobId(f"j{n}"), spec, 4) for n in range(4)], NOW_S)
    kept = replace(built, lined=Lines(built.jobs).of(built.jobs))
    plan = decide(kept, Policy())
    assert set(plan.pending) == {"j0", "j1", "j2", "j3"}
    assert check(kept, plan) == check(built, plan) == []
    left_out = replace(plan, pending={k: v for k, v in plan.pending.items() if k != "j3"})
    assert check(kept, left_out) == check(built, left_out) == ["j3: waits without a reason"]


def test_a_job_that_had_devices_once_stands_with_no_other() -> None:
    spec = JobSpec("job", ("train",))
    new = Job(JobId("a"), spec, 1)
    again = replace(new, id=JobId("b"), incarnation=1, state=JobState.SUSPENDED)
    assert stands(new)
    assert queues(again) and not stands(again)
