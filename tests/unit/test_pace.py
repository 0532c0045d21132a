"""How fast a job is on how many devices: measured where it can be, and believed with care."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from singularity.primitives.model import Job, JobId, JobSpec, JobState, Shard
from singularity.primitives.nodes import NodeId
from singularity.primitives.pace import noted
from singularity.primitives.service import Pace
from singularity.scheduler.goodput import PRIOR, exponent, worth


def job(held: int = 4, **changes: Any) -> Job:
    """Runs since 100 s, at step 50, and a cut was asked for at 200 s."""
    spec = JobSpec("j", ("x",), ranks=8, devices=8, devices_max=8)
    running = {"state": JobState.RUNNING, "running_at_s": 100.0, "step": 50, "cut_at_s": 200.0}
    placement = (Shard(NodeId("n"), held),)
    return replace(Job(JobId("j"), spec, 8), placement=placement, **{**running, **changes})


def test_the_steps_between_start_and_cut_are_its_pace_on_what_it_held() -> None:
    assert noted(job(), 250) == (Pace(4, 2.0, 100.0),)


def test_what_is_older_counts_half() -> None:
    before = (Pace(4, 1.0, 100.0), Pace(2, 0.7, 30.0))
    found = noted(job(paces=before), 250)
    assert found == (Pace(2, 0.7, 30.0), Pace(4, pytest.approx(250 / 150), 150.0))


@pytest.mark.parametrize(
    "changes",
    [{"resize_at_s": 150.0}, {"cut_ended_s": 195.0}, {"step": 250}, {"dump_failures": 1}],
    ids=["it was resized meanwhile", "just cut", "no step", "a failed cut told no step"],
)
def test_nothing_is_learnt_where_nothing_can_be(changes: dict[str, Any]) -> None:
    assert noted(job(**changes), 250) == ()


def test_without_two_sizes_the_prior_is_believed_and_with_them_half() -> None:
    assert exponent(()) == exponent((Pace(4, 2.0, 100.0),)) == PRIOR
    halves = (Pace(2, 1.0, 100.0), Pace(8, 2.0, 100.0))
    assert exponent(halves) == pytest.approx((PRIOR + 0.5) / 2)
    worse = (Pace(2, 2.0, 100.0), Pace(8, 1.0, 100.0))
    assert exponent(worse) == pytest.approx(PRIOR / 2), "no job is made slower by devices for ever"


def test_a_device_is_worth_less_the_more_a_job_has_and_the_more_it_had() -> None:
    found = [worth(job(), devices, 0) for devices in range(1, 9)]
    more = [b - a for a, b in itertools.pairwise(found)]
    assert more == sorted(more, reverse=True) and more[-1] > 0.0
    assert worth(job(), 4, 2) == worth(job(), 4, 0) / 4
