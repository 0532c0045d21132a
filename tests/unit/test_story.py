"""What a job's history says: how each life ended, and how much work was lost by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from singularity.api.story import end_of, tell, with_seconds
from singularity.primitives import resizing, verbs
from singularity.primitives.messages import Phase, Report
from singularity.primitives.model import Job, JobId, JobSpec, JobState, Shard, ShardImage
from singularity.primitives.nodes import ClusterId, Node, NodeId, RegionId

A, B = NodeId("a"), NodeId("b")
NODES = {
    n: Node(n, RegionId("eu"), ClusterId("c0"), "cpu", 4, epoch=1, heard_s=140.0) for n in (A, B)
}


def running() -> Job:
    """Two ranks on two nodes, since 100 s."""
    spec = JobSpec(name="j", run=("train",), ranks=2, devices=2, devices_max=2)
    job = verbs.resume(Job(JobId("j"), spec, 2), (Shard(A, 1), Shard(B, 1)), 90.0).job
    for node in (A, B):
        job = verbs.settle(job, said(job, node, "running"), 100.0).job
    assert job.state is JobState.RUNNING
    return job


def said(job: Job, node: NodeId, phase: Phase, step: int = 0, reason: str = "") -> Report:
    image = ShardImage(node, (0 if node == A else 1,), "d", step) if step else None
    return Report(
        job=job.id,
        node=node,
        incarnation=job.incarnation,
        phase=phase,
        cut=job.cut,
        image=image,
        step=step,
        reason=reason,
        exit_code=0 if phase == "exited" else None,
    )


def settled(job: Job, phase: Phase, at_s: float, step: int = 0) -> tuple[Job, Job]:
    """Both nodes report; the job before and after the second."""
    half = verbs.settle(job, said(job, A, phase, step), at_s).job
    return half, verbs.settle(half, said(half, B, phase, step), at_s).job


def test_a_suspend_loses_nothing() -> None:
    before, after = settled(verbs.suspend(running(), 150.0).job, "dumped", 151.0, step=7)
    ending = end_of(before, after, NODES, 151.0)
    assert ending is not None
    assert (ending.end, ending.step, ending.lost_s) == ("suspended", 7, 0.0)


def test_a_move_ends_one_life_without_loss_and_begins_the_next() -> None:
    moving = verbs.migrate(running(), (Shard(A, 2),), 150.0).job
    before, after = settled(moving, "dumped", 151.0, step=7)
    ending = end_of(before, after, NODES, 151.0)
    assert ending is not None and (ending.end, ending.lost_s) == ("moved", 0.0)
    told = tell(before, after, "", NODES, 151.0)
    assert [line.event for line in told] == ["checkpoint", "placed"]
    assert told[1].facts["region"] == "eu" and told[1].facts["step"] == 7


@pytest.mark.parametrize(("checkpoint_s", "lost_s"), [(None, 80.0), (160.0, 20.0)])
def test_a_failover_loses_what_came_after_the_last_cut(
    checkpoint_s: float | None, lost_s: float
) -> None:
    job = running()
    if checkpoint_s is not None:
        _, job = settled(verbs.checkpoint(job, checkpoint_s).job, "running", 161.0, step=5)
    after = verbs.failover(job, frozenset({B}), 180.0, "node b is lost").job
    ending = end_of(job, after, NODES, 180.0)
    assert ending is not None and ending.end == "stopped"
    assert ending.lost_s == pytest.approx(lost_s)


def test_work_of_a_lost_node_is_lost_from_when_it_was_last_heard() -> None:
    """It fenced itself soon after; the time until we noticed is waiting, not lost work."""
    job = running()
    nodes = {**NODES, B: replace(NODES[B], lost=True)}
    after = verbs.failover(job, frozenset({B}), 180.0, "node b is lost").job
    ending = end_of(job, after, nodes, 180.0)
    assert ending is not None and ending.lost_s == pytest.approx(40.0)


def test_a_finish_loses_nothing_and_a_checkpoint_ends_nothing() -> None:
    job = running()
    before, after = settled(job, "exited", 200.0)
    ending = end_of(before, after, NODES, 200.0)
    assert ending is not None and (ending.end, ending.lost_s) == ("finished", 0.0)
    assert end_of(job, verbs.checkpoint(job, 150.0).job, NODES, 150.0) is None


def test_only_the_last_line_moves_the_state() -> None:
    before, after = settled(verbs.suspend(running(), 150.0).job, "dumped", 151.0, step=7)
    told = tell(before, after, "", NODES, 151.0)
    assert [(line.event, line.before, line.after) for line in told] == [
        ("checkpoint", "suspending", "suspending"),
        ("suspended", "suspending", "suspended"),
    ]


def test_other_devices_without_a_cut_are_a_line_of_the_same_life() -> None:
    spec = JobSpec(name="j", run=("train",), ranks=4, devices=4, devices_max=4)
    job = verbs.resume(Job(JobId("j"), spec, 4), (Shard(A, 4),), 90.0).job
    job = verbs.settle(job, said(job, A, "running"), 100.0).job
    before, _ = resizing.begin(replace(job, message="because"), 2, 110.0)
    answer = said(before, A, "running").model_copy(update={"resize": 1, "devices": 2})
    after = verbs.settle(before, answer, 111.0).job
    (line,) = tell(before, after, "", NODES, 111.0)
    assert (line.event, line.reason, line.facts) == ("resized", "because", {"devices": 2})
    assert line.incarnation == job.incarnation
    assert end_of(before, after, NODES, 111.0) is None


def test_a_hang_is_told_before_the_stop_and_costs_what_came_after_the_last_cut() -> None:
    before = running()
    after = verbs.settle(before, said(before, B, "hung", reason="rank 1 hangs"), 180.0).job
    lines = tell(before, after, "rank 1 hangs", NODES, 180.0)
    assert [(line.event, line.reason) for line in lines] == [
        ("hung", "rank 1 hangs"),
        ("stopping", "rank 1 hangs"),
    ]
    assert lines[-1].facts["lost_s"] == 80.0


def test_the_seconds_of_a_life_are_of_its_start_and_its_last_cut_by_its_slowest_node() -> None:
    job = running()
    known: dict[str, float] = {}
    told = [
        (0, {"fetch": 1.0, "restore": 2.0}),
        (0, {"fetch": 3.0, "restore": 1.0}),
        (1, {"dump": 4.0, "store": 5.0}),
        (1, {"dump": 2.0, "store": 6.0}),
        (2, {"dump": 1.0}),  # a handover: it stores nothing
    ]
    for cut, seconds in told:
        report = said(job, A, "running").model_copy(update={"cut": cut, "seconds": seconds})
        known = with_seconds(known, report)
    assert known == {"fetch": 3.0, "restore": 2.0, "dump": 1.0, "cut": 2}
