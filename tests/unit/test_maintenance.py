"""Maintenance windows: when they are, that they are empty in time, and what ends or skips them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singularity.primitives.drains import Drain
from singularity.primitives.errors import Conflict, InvalidSpec
from singularity.primitives.maintenance import Maintenance, need_gaps, window
from singularity.primitives.model import JobId, Tier
from singularity.primitives.nodes import Duty, Scope, ScopeKind
from singularity.scheduler.orders import Close, Open
from tests.unit.fleets import POLICY, Planet, verbs

US = Scope(ScopeKind.REGION, "us")
HOUR_S = 3600.0


def planned(every: str = "sunday 02:00 UTC", length_s: float = 2 * HOUR_S) -> Maintenance:
    return Maintenance("switches", US, every, length_s)


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("every", "now", "opens"),
    [
        ("sunday 02:00 UTC", "2026-11-28T12:00", "2026-11-29T02:00"),
        ("sunday 02:00", "2026-11-29T01:59", "2026-11-29T02:00"),
        ("sunday 02:00", "2026-11-29T03:00", "2026-11-29T02:00"),  # it is open
        ("sunday 02:00", "2026-11-29T04:00", "2026-12-06T02:00"),
        ("monday,thursday 22:30", "2026-11-29T04:00", "2026-11-30T22:30"),
        ("monday,thursday 22:30", "2026-12-01T04:00", "2026-12-03T22:30"),
        ("daily 03:15", "2026-11-29T12:00", "2026-11-30T03:15"),
        ("Daily 03:15 Europe/Berlin", "2026-11-29T12:00", "2026-11-30T02:15"),
        ("daily 03:15 Europe/Berlin", "2026-06-29T12:00", "2026-06-30T01:15"),
    ],
)
def test_a_window_is_when_the_clocks_of_its_zone_say_so(every: str, now: str, opens: str) -> None:
    assert window(planned(every), at(now)).opens_s == at(opens)


@given(
    st.integers(0, 2 * 365 * 86400),
    st.sampled_from(["daily 02:30 Europe/Berlin", "sunday 02:30 America/New_York", "friday 00:00"]),
)
def test_windows_come_one_after_the_other_and_none_twice(start_s: int, every: str) -> None:
    found, last_s = planned(every), 0.0
    now_s = at("2026-01-01") + start_s
    for _ in range(4):
        there = window(found, now_s)
        assert there.opens_s > last_s and there.closes_s > now_s
        assert there.opens_s - now_s <= 7 * 86400 + HOUR_S
        last_s, now_s = there.opens_s, there.closes_s
        found = replace(found, done_s=there.opens_s)


@pytest.mark.parametrize(
    ("every", "told"),
    [
        ("sundy 02:00", "'sundy' is no day of the week; write for example"),
        ("sunday 25:00", "'25:00' is no time of day"),
        ("sunday 02:00 Mars/Olympus", "no time zone 'Mars/Olympus'"),
        ("every now and then", "is no time of the week"),
        ("sunday", "is no time of the week"),
    ],
)
def test_what_is_no_time_of_the_week_is_refused_with_an_example(every: str, told: str) -> None:
    with pytest.raises(InvalidSpec, match=told):
        window(planned(every), 0.0)


def test_windows_that_would_meet_are_refused() -> None:
    need_gaps(planned("daily 03:00", 22 * HOUR_S))
    with pytest.raises(InvalidSpec, match="at most 22 h long"):
        need_gaps(planned("saturday,sunday 03:00", 23 * HOUR_S))


# -- the drain for it ------------------------------------------------------------------------------

LEAD_S = POLICY.move_cost_s + 3 * POLICY.drain_notice_s  # one move, and the notice of basic jobs
OPENS_S = at("2026-11-29T02:00")


def scene(*names: str) -> tuple[Planet, list[JobId]]:
    """Jobs of 2 devices in `us`, on the eve of a window."""
    planet = Planet(nodes=2, devices=4)
    planet.now_s = OPENS_S - 5 * HOUR_S
    jobs = [planet.submit(name, 2, tier=Tier.STANDARD, regions=("us",)) for name in names]
    planet.run(*jobs)
    for job in jobs:
        planet.change(job, spec=replace(planet.job(job).spec, regions=()))
    planet.ledger.plan_maintenance(planned(), planet.now_s)
    return planet, jobs


def go_to(planet: Planet, now_s: float) -> None:
    """A round at that time, facts and actions carried out."""
    planet.now_s = now_s
    plan = planet.plan()
    planet.ledger.carry_out(plan.orders, planet.now_s)
    assert planet.ledger.commit(plan, planet.now_s) == {}


def test_the_drain_begins_in_time_and_the_nodes_come_back_by_themselves() -> None:
    planet, (job,) = scene("job")
    go_to(planet, OPENS_S - LEAD_S - 1.0)
    assert planet.ledger.drains() == []
    go_to(planet, OPENS_S - LEAD_S)
    (drain,) = planet.ledger.drains()
    assert (drain.deadline_s, drain.until_s) == (OPENS_S, OPENS_S + 2 * HOUR_S)
    assert verbs(planet.tick()) == {job: "migrate"}
    go_to(planet, OPENS_S + 2 * HOUR_S - 1.0)
    assert planet.ledger.drains() == [drain], "one window, one drain"
    go_to(planet, OPENS_S + 2 * HOUR_S)
    assert planet.ledger.drains() == []
    assert {n.duty for n in planet.ledger.nodes().values()} == {Duty.READY}
    go_to(planet, OPENS_S + 2 * HOUR_S + 1.0)
    assert planet.ledger.drains() == [], "until next week"


def test_more_jobs_fewer_lanes_and_less_bandwidth_need_more_time() -> None:
    planet, jobs = scene("a", "b", "c")
    for job in jobs:
        planet.change(job, pause_s=30.0)
    slow = replace(planned(), moves_most=1)
    planet.ledger.plan_maintenance(slow, planet.now_s)
    begins_s = OPENS_S - 3 * 30.0 - 3 * POLICY.drain_notice_s
    go_to(planet, begins_s - 1.0)
    assert planet.ledger.drains() == []
    pace_s = POLICY.image_bytes / 1e7  # 100 s a job, but the last need not wait for its own
    planet.ledger.plan_maintenance(replace(slow, bytes_per_s=1e7), planet.now_s)
    go_to(planet, begins_s + 2 * 30.0 - 2 * pace_s)
    assert len(planet.ledger.drains()) == 1


def test_a_window_whose_drain_is_undone_is_given_up() -> None:
    planet, _ = scene("job")
    go_to(planet, OPENS_S - LEAD_S)
    (drain,) = planet.ledger.drains()
    planet.ledger.close_drain(drain.id, planet.now_s)
    go_to(planet, OPENS_S - 60.0)
    assert planet.ledger.drains() == []
    go_to(planet, OPENS_S + 7 * 86400.0 - 60.0)
    assert len(planet.ledger.drains()) == 1, "the next one comes"


def test_a_manual_drain_in_the_way_stays_and_the_window_waits_for_its_end() -> None:
    planet, _ = scene("job")
    manual = planet.ledger.open_drain(Drain("drain-1", Scope(ScopeKind.NODE, "us-0"), planet.now_s))
    go_to(planet, OPENS_S - LEAD_S)
    assert planet.ledger.drains() == [manual]
    planet.ledger.close_drain(manual.id, planet.now_s)
    go_to(planet, OPENS_S - 60.0)
    assert [d.upkeep for d in planet.ledger.drains()] == ["switches"]
    with pytest.raises(Conflict, match="for maintenance switches; undo that first"):
        planet.ledger.open_drain(replace(manual, id="drain-2"))


def test_orders_about_drains_that_came_too_late_change_nothing() -> None:
    planet, _ = scene()
    manual = planet.ledger.open_drain(Drain("drain-1", US, planet.now_s))
    late = (Open(replace(manual, id="drain-2", moves_most=3)), Close("drain-9", "over"))
    planet.ledger.carry_out(late, planet.now_s)
    assert planet.ledger.drains() == [manual]


def test_the_zone_is_that_of_the_place_and_not_of_the_machine() -> None:
    opens = datetime.fromtimestamp(window(planned("daily 09:00 Asia/Tokyo"), 0.0).opens_s, UTC)
    assert (opens.hour, opens.minute) == (0, 0)
