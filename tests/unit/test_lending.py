"""Loans: as many devices as a job lacks at most, and none is lost or counted twice."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from singularity.primitives.lending import repaid
from singularity.primitives.model import Intent, Job, JobId, JobSpec, JobState, Shard
from singularity.primitives.nodes import NodeId
from singularity.primitives.service import Loan
from singularity.primitives.serving import ServiceId

LOANS = st.lists(st.integers(1, 4), max_size=4)


def lender(held: int, devices: int, lent: list[int], state: JobState = JobState.RUNNING) -> Job:
    spec = JobSpec("train", ("train",), ranks=16, devices=devices, devices_max=devices)
    placement = (Shard(NodeId("n0"), held),) if held and state is JobState.RUNNING else ()
    loans = tuple(Loan(ServiceId(f"s{i}"), n, float(i), 2.0 * n) for i, n in enumerate(lent))
    return Job(JobId("j"), spec, devices, state=state, placement=placement, loans=loans)


@given(held=st.integers(0, 16), lent=LOANS)
def test_what_is_open_and_what_is_over_is_what_was_lent(held: int, lent: list[int]) -> None:
    job = lender(held, 16, lent)
    after, over = repaid(job, 100.0)
    still = sum(loan.devices for loan in after.loans)
    assert still == min(sum(lent), 16 - held)
    assert still + sum(r.loan.devices for r in over) == sum(lent)
    prices = sum(x.price for x in after.loans) + sum(r.loan.price for r in over)
    assert abs(prices - 2.0 * sum(lent)) < 1e-9
    assert repaid(after, 200.0) == (after, ()), "once more changes nothing"


def test_the_oldest_is_over_first_and_tells_its_device_seconds() -> None:
    after, (over,) = repaid(lender(13, 16, [2, 3]), 10.0)
    assert over.loan == Loan(ServiceId("s0"), 2, 0.0, 4.0) and over.device_s == 20.0
    assert [x.devices for x in after.loans] == [3]


def test_one_that_waits_lacks_all_and_one_that_is_held_nothing() -> None:
    waits = lender(0, 16, [4], JobState.SUSPENDED)
    assert repaid(waits, 10.0) == (waits, ())
    held, over = repaid(replace(waits, intent=Intent.HOLD), 10.0)
    assert held.loans == () and len(over) == 1


def test_nothing_is_said_in_the_middle_of_a_change() -> None:
    job = replace(lender(16, 16, [4]), resizing=frozenset({NodeId("n0")}))
    assert repaid(job, 10.0) == (job, ())
    assert repaid(replace(job, state=JobState.SUSPENDING), 10.0)[1] == ()
