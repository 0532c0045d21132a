"""Other devices without a cut: where it can be, and that nobody is given a device too early."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singularity.primitives import resizing, verbs
from singularity.primitives.holdings import divide, holdings
from singularity.primitives.messages import Report, Reslot
from singularity.primitives.model import Goal, Job, JobId, JobSpec, JobState, Placement, Shard
from singularity.primitives.nodes import NodeId

A, B = NodeId("a"), NodeId("b")


def running(placement: Placement, ranks: int) -> Job:
    devices = sum(s.devices for s in placement)
    spec = JobSpec("j", ("train",), ranks=ranks, devices=devices, devices_max=devices)
    job = verbs.resume(Job(JobId("j"), spec, devices), placement, 10.0).job
    for shard in placement:
        job = verbs.settle(job, said(job, shard.node), 20.0).job
    assert job.state is JobState.RUNNING
    return job


def said(job: Job, node: NodeId, devices: int = 0, reason: str = "") -> Report:
    facts = {"job": job.id, "node": node, "incarnation": job.incarnation, "phase": "running"}
    more = {"resize": job.resize, "devices": devices, "reason": reason}
    return Report.model_validate({**facts, **more})


@given(
    shares=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    times=st.integers(1, 3),
    devices=st.integers(1, 16),
)
def test_every_rank_stays_on_its_node_and_no_device_is_of_two(
    shares: list[int], times: int, devices: int
) -> None:
    ranks = sum(shares) * times
    nodes = [NodeId(f"n{i}") for i in range(len(shares))]
    placement = divide(tuple(Shard(n, d) for n, d in zip(nodes, shares, strict=True)), ranks)
    found = resizing.in_place(placement, ranks, devices)
    if not found:
        alone = len(shares) == 1 and devices <= ranks
        assert not alone, "one node can always share what it has"
        return
    assert sum(s.devices for s in found) == devices
    assert [(s.node, s.ranks) for s in found] == [(s.node, s.ranks) for s in placement]
    assert divide(tuple(Shard(s.node, s.devices) for s in found), ranks) == found


def test_two_devices_of_one_rank_cannot_be_changed_while_it_runs() -> None:
    assert resizing.in_place((Shard(A, 4, (0, 1)),), 2, 2) == ()
    assert resizing.in_place((Shard(A, 2, (0, 1)),), 2, 4) == ()


def test_a_device_cannot_be_shared_by_ranks_of_two_nodes() -> None:
    assert resizing.in_place((Shard(A, 2, (0, 1)), Shard(B, 2, (2, 3))), 4, 1) == ()


def test_a_scale_that_moves_no_rank_cuts_nothing() -> None:
    step = verbs.scale(running((Shard(A, 2), Shard(B, 2)), 4), (Shard(A, 1), Shard(B, 1)), 30.0)
    assert step.job.state is JobState.RUNNING
    found = [c for c in step.commands if isinstance(c, Reslot)]
    assert [(c.node, c.slots, c.devices) for c in found] == [(A, (0, 0), 1), (B, (0, 0), 1)]
    assert len(found) == len(step.commands)


@pytest.mark.parametrize("order", list(permutations((A, B))))
@pytest.mark.parametrize("devices", [2, 4])
def test_devices_are_held_until_every_node_has_answered(
    order: tuple[NodeId, NodeId], devices: int
) -> None:
    """Shrunk from 4 or grown from 2: both placements are held meanwhile."""
    now = 4 if devices == 2 else 2
    job = running((Shard(A, now // 2), Shard(B, now // 2)), 4)
    job, _ = resizing.begin(job, devices, 30.0)
    for node in order:
        assert holdings(job) == {A: 2, B: 2}
        job = verbs.settle(job, said(job, node, devices // 2), 40.0).job
        assert verbs.settle(job, said(job, node, devices // 2), 40.0).job == job, "said twice"
    assert job.held == devices
    assert holdings(job) == {A: devices // 2, B: devices // 2}
    assert not job.resizing
    assert not job.target


def test_ranks_that_do_not_follow_take_everybody_back() -> None:
    job = running((Shard(A, 2), Shard(B, 2)), 4)
    job, _ = resizing.begin(job, 2, 30.0)
    job = verbs.settle(job, said(job, A, 1), 40.0).job
    step = verbs.settle(job, said(job, B, 2, "rank 3 is deaf"), 50.0)
    assert {(c.node, c.devices) for c in step.commands if isinstance(c, Reslot)} == {(A, 2), (B, 2)}
    job = step.job
    for node in (A, B):
        job = verbs.settle(job, said(job, node, 2), 60.0).job
    assert job.held == 4
    assert not job.resizing
    assert "rank 3 is deaf" in job.message
    again = verbs.scale(job, (Shard(A, 1), Shard(B, 1)), 70.0).job
    assert again.state is JobState.SUSPENDING, "what does not follow is cut"


def test_an_answer_to_an_earlier_resize_counts_for_nothing() -> None:
    job = running((Shard(A, 4),), 4)
    job, _ = resizing.begin(job, 2, 30.0)
    late = said(job, A, 2).model_copy(update={"resize": 0})
    assert verbs.settle(job, late, 40.0).job == job


def test_a_gang_that_is_stopped_forgets_its_resize() -> None:
    job, _ = resizing.begin(running((Shard(A, 4),), 4), 2, 30.0)
    stopped = verbs.stop(job, 40.0, Goal.RETRY, "lost").job
    assert not stopped.resizing
    assert not stopped.target
    assert holdings(stopped) == {A: 4}
