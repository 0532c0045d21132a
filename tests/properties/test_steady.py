"""Whoever looks only at what stirs, and at what may be due, finds what there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.primitives.holdings import holdings
from singularity.primitives.model import Engine, Intent, Job, JobId, JobSpec, JobState, Shard, Tier
from singularity.primitives.nodes import ClusterId, Duty, Node, NodeId, RegionId
from singularity.primitives.projects import Allotment, Project
from singularity.primitives.replicas import evicted
from singularity.primitives.service import Taken
from singularity.scheduler.decide import decide
from singularity.scheduler.interval import is_due
from singularity.scheduler.lines import Lines, stands
from singularity.scheduler.plan import Plan
from singularity.scheduler.policy import Policy
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.standing import check
from singularity.scheduler.steady import Steadies, steady

NOW_S = 100_000.0
NODES = tuple(NodeId(f"n{n}") for n in range(4))
TIMES = st.sampled_from((0.0, 60_000.0, 99_000.0, 99_980.0)) | st.floats(0.0, NOW_S)
MOSTLY = st.sampled_from((False,) * 7 + (True,))  # that something is out of the ordinary


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    def now_and_then(value: object, else_: object) -> object:
        return value if draw(MOSTLY) else else_

    size = draw(st.sampled_from((1, 2, 4)))
    nodes = draw(st.lists(st.sampled_from(NODES), min_size=1, max_size=2, unique=True))
    wanted = size * len(nodes)
    devices = now_and_then(draw(st.sampled_from((1, wanted, 8))), wanted)
    spec = JobSpec(
        *("job", ("train",), 8),
        **{"device": "gpu", "devices": 8, "devices_min": 1, "project": draw(st.sampled_from("ab"))},  # type: ignore[arg-type]
        tier=draw(st.sampled_from(Tier)),
        checkpoint_every_s=draw(st.sampled_from((None, None, 0.0, 90.0, 3_600.0))),
        engines=(draw(st.sampled_from((Engine.TRANSPARENT, Engine.RESTART))),),
        max_duration_s=now_and_then(1_000.0, None),  # type: ignore[arg-type]
    )
    runs = not draw(MOSTLY)
    facts = {
        "intent": now_and_then(Intent.HOLD, Intent.RUN),
        "checkpoint_wanted": now_and_then(True, False),
        "dumping": now_and_then(frozenset(nodes), frozenset()),
        "exited": now_and_then(frozenset(nodes[:1]), frozenset()),
        "retry_at_s": now_and_then(NOW_S + 5.0, 0.0),
        "taken": now_and_then(Taken(NOW_S - 9.0, 1.0, "x", NOW_S - 9.0, whom="j000"), None),
        "state": JobState.RUNNING if runs else draw(st.sampled_from(JobState)),
    }
    began_s = draw(TIMES)
    where = tuple(Shard(node, size) for node in nodes)
    return Job(
        *(JobId(f"j{draw(st.integers(0, 999)):03}"), spec, devices),  # type: ignore[arg-type]
        placement=where if facts["state"] != JobState.PENDING else (),
        started_at_s=began_s,
        running_at_s=began_s,
        cut_ended_s=draw(TIMES),
        carried_s=draw(st.sampled_from((0.0, 70.0))),
        pause_s=draw(st.sampled_from((None, 0.0, 0.5, 400.0))),
        **facts,  # type: ignore[arg-type]
    )


FLEETS = st.lists(jobs(), max_size=12, unique_by=lambda job: job.id)
WEAK = st.lists(st.tuples(st.integers(0, 3), TIMES), min_size=len(NODES), max_size=len(NODES))


def nodes_of(fleet: Iterable[Job], weak: list[tuple[int, float]], drained: bool) -> list[Node]:
    """With as many devices as their jobs hold, and three."""
    used = sum((holdings(job) for job in fleet), Counter[NodeId]())
    place = {"region": RegionId("eu"), "cluster": ClusterId("c"), "device": "gpu", "epoch": 1}
    made = [
        Node(node, devices=used[node] + 3, used=used[node], failures=n, known_s=known_s, **place)  # type: ignore[arg-type]
        for node, (n, known_s) in zip(NODES, weak, strict=True)
    ]
    return [replace(made[0], duty=Duty.DRAINING if drained else Duty.READY), *made[1:]]


def known(snapshot: Snapshot) -> Snapshot:
    steadies = Steadies()
    for job in snapshot.jobs:
        steadies.count(job, 1)
    lined = Lines(snapshot.jobs).of(snapshot.jobs)
    picture = steadies.picture(snapshot.jobs, snapshot.row)
    return replace(snapshot, lined=lined, steady=picture)


@given(FLEETS, WEAK, st.booleans(), st.booleans())
@settings(deadline=None)
def test_a_plan_is_the_same_where_it_is_known_who_is_steady(
    fleet: list[Job], weak: list[tuple[int, float]], drained: bool, governed: bool
) -> None:
    """To the letter: actions in their order, reasons, orders."""
    projects = (Project("a", allotments=(Allotment("gpu", 6, 1),)), Project("b"))
    built = Snapshot.build(nodes_of(fleet, weak, drained), fleet, NOW_S)
    built = replace(built, projects=projects if governed else ())
    plan = decide(known(built), Policy())
    assert plan == decide(built, Policy())
    assert check(known(built), plan) == check(built, plan) == []
    assert check(known(built), Plan()) == check(built, Plan())


@given(FLEETS, WEAK, st.data())
@settings(deadline=None, max_examples=60)
def test_told_of_each_change_it_finds_all_that_are_due(
    fleet: list[Job], weak: list[tuple[int, float]], data: st.DataObject
) -> None:
    steadies, there, policy = Steadies(), dict[JobId, Job](), Policy()
    row = {node: n for n, node in enumerate(NODES)}
    for job in fleet:
        steadies.count(job, 1)
        there[job.id] = job
        if data.draw(st.booleans()):
            steadies.count(there.pop(data.draw(st.sampled_from(sorted(there)))), -1)
        if data.draw(MOSTLY):  # rows are counted anew where nodes come or go
            row = dict(row)
        nodes = {node.id: node for node in nodes_of(there.values(), weak, False)}
        built = replace(Snapshot.build(nodes.values(), there.values(), NOW_S), row=row)
        seen = steadies.picture(built.jobs, row)
        every = {j.id: j for j in there.values() if steady(j)}

        def due(
            at_s: float, every: dict[JobId, Job] = every, nodes: dict[NodeId, Node] = nodes
        ) -> set[JobId]:
            gangs = {i: [nodes[n] for n in j.nodes] for i, j in every.items()}
            return {i for i, j in every.items() if is_due(j, gangs[i], at_s, policy)}

        found = {j.id for j in seen.due(built.failures, built.known_s, NOW_S, policy)}
        assert due(NOW_S) <= found <= due(NOW_S + 1.0)
        assert seen.astir == tuple(j for j in built.jobs if not (j.id in every or stands(j)))


@given(FLEETS)
@settings(deadline=None)
def test_in_who_is_steady_there_is_nothing_to_be_found(fleet: list[Job]) -> None:
    for job in filter(steady, fleet):
        assert job.state is JobState.RUNNING and job.intent is Intent.RUN and not evicted(job)
        assert job.held == job.devices and not (job.target or job.taken or job.loans)
        assert not (job.dumping or job.resizing or job.exited or job.confine)
        assert not (job.spec.aside or job.spec.serving or job.spec.share)


def test_what_is_known_of_other_jobs_is_not_taken_for_what_is_known_of_these() -> None:
    spec = JobSpec("job", ("train",))
    held = {"state": JobState.RUNNING, "placement": (Shard(NODES[0], 1),)}
    old, new = (Job(JobId(i), spec, 1, **held) for i in "ab")  # type: ignore[arg-type]
    nodes = nodes_of([old], [(0, 0.0)] * 4, False)
    seen = known(Snapshot.build(nodes, [old], NOW_S))
    assert seen.astir == ()
    assert replace(seen, jobs=(new,), by_id={new.id: new}).astir == (new,)
