"""What jobs were given of what they asked for: accounts that add up, whenever one looks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singularity.primitives.faults import losses
from singularity.primitives.messages import DeviceNote, SharerNote
from singularity.primitives.model import Intent, Job, JobId, JobSpec, JobState, Shard, Tier
from singularity.primitives.nodes import NodeId
from singularity.primitives.service import Loss
from singularity.primitives.sla import (
    KEPT,
    SLICE_S,
    accounted,
    attained_s,
    attainment,
    charged,
    rates,
    share,
)
from singularity.scheduler.policy import Policy
from singularity.scheduler.queueing import queue
from tests.unit.fleets import Planet

T0 = 1_700_000_000.0


def job(**changes: Any) -> Job:
    """Asks for four devices since T0."""
    spec = JobSpec(name="j", run=("x",), ranks=4, devices=4, tier=Tier.PREMIUM)
    return replace(Job(JobId("j"), spec, 4, submitted_at_s=T0), **changes)


def held(devices: int) -> Job:
    return job(state=JobState.RUNNING, placement=(Shard(NodeId("n"), devices),))


def lived(*parts: tuple[Job, float]) -> tuple[Job, float]:
    """One state after another, each for so many seconds; the job and the time at the end."""
    now_s, current = T0, parts[0][0]
    for after, (_, seconds) in zip([p[0] for p in parts[1:]] + [parts[-1][0]], parts, strict=True):
        now_s += seconds
        current = accounted(current, replace(after, account=current.account), now_s)
    return current, now_s


def test_waiting_counts_against_the_planet_and_sharing_counts_in_part() -> None:
    found, now_s = lived((job(), 300.0), (held(4), 300.0), (held(2), 300.0))
    mine = share(found, now_s)
    assert mine.asked_s == pytest.approx(4 * 900.0)
    assert mine.given_s == pytest.approx(4 * 300.0 + 2 * 300.0)
    assert mine.fraction == pytest.approx(0.5)


@pytest.mark.parametrize(
    "idle",
    [
        job(intent=Intent.HOLD),
        job(state=JobState.SUCCEEDED),
        job(spec=replace(job().spec, after=(JobId("first"),))),
    ],
    ids=["held by its owner", "ended", "waits for another"],
)
def test_who_asks_for_nothing_has_no_share(idle: Job) -> None:
    assert rates(idle) == (0, 0) and share(idle, T0 + 500.0).fraction is None


def test_more_than_was_asked_for_is_no_more_than_all() -> None:
    assert share(held(8), T0 + 60.0).fraction == pytest.approx(1.0)


def test_what_was_more_than_an_hour_ago_is_forgotten() -> None:
    found, now_s = lived((job(), 3 * 3600.0), (held(4), KEPT * SLICE_S))
    assert share(found, now_s).fraction == pytest.approx(1.0)
    account = accounted(found, job(), now_s).account
    assert account is not None and len(account.slices) <= KEPT


@given(
    looks=st.lists(st.floats(0.0, 900.0), max_size=8),
    devices=st.integers(1, 4),
    began_s=st.floats(0.0, 1200.0),
)
def test_an_account_is_the_same_however_often_it_is_brought_up_to_date(
    looks: list[float], devices: int, began_s: float
) -> None:
    started = accounted(job(), replace(held(devices), account=None), T0 + began_s)
    often, now_s = started, T0 + began_s
    for look in looks:
        now_s += look
        asks_less = accounted(often, replace(often, intent=Intent.HOLD), now_s)
        often = accounted(asks_less, replace(asks_less, intent=Intent.RUN), now_s)
    once, seen = share(started, now_s), share(often, now_s)
    assert seen.asked_s == pytest.approx(once.asked_s)
    assert seen.given_s == pytest.approx(once.given_s)


def test_projects_and_tiers_are_added_up_and_the_short_are_counted() -> None:
    other = replace(held(4), spec=replace(held(4).spec, project="other", tier=Tier.BASIC))
    found = attainment([held(4), held(2), other, job(intent=Intent.HOLD)], T0 + 100.0)
    told = [(a.project, a.tier, a.jobs, a.short, a.share.fraction) for a in found]
    assert told == [
        ("default", Tier.PREMIUM, 2, 1, pytest.approx(0.75)),
        ("other", Tier.BASIC, 1, 0, pytest.approx(1.0)),
    ]


def test_the_ledger_keeps_the_account_through_a_life() -> None:
    planet = Planet()
    began_s = planet.now_s
    mine = planet.submit("train", 4)
    planet.change(mine, submitted_at_s=began_s)
    planet.now_s = began_s + 99.0
    planet.run(mine)  # placed at 100 s, and running at once
    planet.now_s = began_s + 200.0
    assert share(planet.job(mine), planet.now_s).fraction == pytest.approx(0.5)
    planet.ledger.intend(mine, Intent.HOLD, planet.now_s)
    assert share(planet.job(mine), planet.now_s + 100.0).fraction == pytest.approx(0.5)


def test_of_one_tier_whoever_was_given_least_is_next_and_in_the_end_whoever_came_first() -> None:
    planet = Planet(nodes=1, devices=4, regions=("us",))
    first = planet.submit("first", 4)
    planet.run(first)
    planet.now_s += 1800.0
    planet.ledger.intend(first, Intent.HOLD, planet.now_s)
    planet.tick()
    planet.report(first, "dumped")
    planet.ledger.intend(first, Intent.RUN, planet.now_s)
    second = planet.submit("second", 4)
    snapshot = planet.ledger.snapshot(planet.now_s + 1.0)
    found = [j.id for j in queue(snapshot, Policy())]
    assert found == [second, first], "it has had half an hour"
    day = planet.ledger.snapshot(planet.now_s + 25 * 3600.0)
    assert [j.id for j in queue(day, Policy())] == [first, second], "it has waited for a day"


HERE = NodeId("n")


def charge(before: Job, *found: Loss, now_s: float = T0 + 1000.0) -> Job:
    return charged(before, HERE, found, now_s)


def test_what_ranks_lost_beside_others_was_not_given() -> None:
    running = replace(held(4), incarnation=3)
    after = charge(running, Loss(0, 3, 100.0), Loss(2, 3, 60.0))
    mine, before = share(after, T0 + 1000.0), share(running, T0 + 1000.0)
    assert before.given_s - mine.given_s == pytest.approx(160.0)
    assert mine.asked_s == before.asked_s and after.version == running.version + 1
    assert after.account is not None and after.account.lost_s == 160.0
    assert attained_s(after, T0 + 1000.0) == pytest.approx(4000.0 - 160.0)


def test_what_was_said_before_is_charged_once() -> None:
    one = charge(replace(held(4), incarnation=3), Loss(0, 3, 100.0))
    assert charge(one, Loss(0, 3, 100.0)) == one
    assert charge(one, Loss(0, 3, 105.0)) == one, "too little to be written"
    two = charge(one, Loss(0, 3, 130.0))
    assert two.account is not None and two.account.lost_s == 130.0
    anew = charge(two, Loss(0, 3, 20.0))
    assert anew.account is not None and anew.account.lost_s == 150.0, "of another agent"


def test_only_what_runs_there_now_is_charged() -> None:
    running = replace(held(4), incarnation=3)
    assert charge(running, Loss(0, 2, 100.0)) == running, "an earlier life"
    assert charged(running, NodeId("other"), [Loss(0, 3, 100.0)], T0 + 9.0) == running
    waits = job(incarnation=3)
    assert charge(waits, Loss(0, 3, 100.0)) == waits


def test_no_more_is_taken_off_than_was_given() -> None:
    after = charge(replace(held(4), incarnation=3), Loss(0, 3, 1e9))
    mine = share(after, T0 + 1000.0)
    assert mine.given_s == 0.0 and attained_s(after, T0 + 1000.0) == 0.0


def test_losses_are_those_of_the_nodes_sharers() -> None:
    be = {"precedence": "be", "compute_milli": 500, "used_bytes": 0, "cap_bytes": 0}
    sharers = [
        SharerNote(job="a", rank=1, incarnation=2, lost_s=3.0, **be),
        SharerNote(job="a", rank=0, incarnation=2, lost_s=1.0, **be),
        SharerNote(job="b", rank=0, **be),
    ]
    device = DeviceNote(
        index=0, uuid="u", name="n", memory_bytes=1, used_bytes=0, sharers=tuple(sharers)
    )
    assert losses((device,)) == {"a": (Loss(1, 2, 3.0), Loss(0, 2, 1.0))}
