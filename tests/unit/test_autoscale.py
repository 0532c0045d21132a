"""How many replicas: what comes in now, what came lately, what waits, and no thrashing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singularity.scheduler.autoscale import Bounds, Demand, Scaling, size
from singularity.scheduler.policy import Policy

POLICY = Policy()
BOUNDS = Bounds(least=1, most=40, per_replica=5.0)


def run(state: Scaling, load: float, seconds: int, bounds: Bounds = BOUNDS) -> Scaling:
    for _ in range(seconds):
        state, _ = size(state, Demand(load, load), bounds, state.at_s + 1.0, POLICY)
    return state


def test_enough_for_the_load_and_its_bursts() -> None:
    calm, _ = size(Scaling(1), Demand(50.0, 50.0), BOUNDS, 1.0, POLICY)
    swarms = Demand(50.0, 50.0, spread=30.0)
    wild, reason = size(Scaling(1, spread=30.0), swarms, BOUNDS, 1.0, POLICY)
    assert calm.replicas == 11  # 50 + 0.92 requests a second, 5 by each
    assert wild.replicas == 16  # 50 + 27.6
    assert "27.6 for bursts" in reason


def test_room_for_swarms_is_made_when_they_have_come_for_a_while_and_kept_as_long() -> None:
    """One minute is not much to tell it by, so several are averaged."""
    state = run(Scaling(1), 50.0, 60)
    for _ in range(3):
        state, _ = size(state, Demand(50.0, 50.0, spread=30.0), BOUNDS, state.at_s + 1.0, POLICY)
    assert state.spread < 1.5
    for _ in range(1800):
        state, _ = size(state, Demand(50.0, 50.0, spread=30.0), BOUNDS, state.at_s + 1.0, POLICY)
    assert state.spread > 29.0 and state.replicas >= 16
    assert run(state, 50.0, 60).replicas == state.replicas
    assert run(state, 50.0, 3600).replicas < 13


def test_a_queue_counts_at_once_though_the_minute_does_not_know_yet() -> None:
    state = run(Scaling(3), 10.0, 60)
    sudden = Demand(stable=12.0, panic=60.0, queued=150, wait_s=4.0)
    after, reason = size(state, sudden, BOUNDS, state.at_s + 1.0, POLICY)
    assert after.replicas >= 60 / 5
    assert "a wait of 4.0 s" in reason


def test_a_short_wait_is_no_reason() -> None:
    state = run(Scaling(3), 10.0, 60)
    sudden = Demand(stable=10.0, panic=60.0, queued=30, wait_s=1.0)
    assert size(state, sudden, BOUNDS, state.at_s + 1.0, POLICY)[0].replicas == state.replicas


def test_a_peak_is_remembered_and_fades() -> None:
    peak = run(Scaling(1), 100.0, 60)
    soon, later = run(peak, 20.0, 1800), run(peak, 20.0, 6 * 3600)
    assert peak.replicas >= soon.replicas > later.replicas
    assert soon.replicas * 5.0 >= 0.85 * 100.0
    assert later.replicas * 5.0 < 0.45 * 100.0


def test_less_only_after_less_was_enough_for_a_while() -> None:
    state = replace(run(Scaling(1), 20.0, 60), replicas=20)
    waiting = run(state, 20.0, int(POLICY.scale_down_after_s) - 1)
    assert waiting.replicas == 20
    assert run(waiting, 20.0, 3).replicas < 10


def test_what_was_wanted_meanwhile_is_kept() -> None:
    state = replace(run(Scaling(1), 20.0, 60), replicas=20)
    state = run(state, 20.0, 60)
    burst = Demand(stable=20.0, panic=70.0, queued=60, wait_s=3.0)
    state, _ = size(state, burst, BOUNDS, state.at_s + 1.0, POLICY)
    assert run(state, 20.0, 200).replicas >= 70 / 5


def test_none_is_given_back_while_the_minute_still_learns_of_a_jump() -> None:
    """Its queue is served, and the last seconds say what a mean over a minute will say later."""
    hasty = replace(POLICY, scale_down_after_s=8.0, scale_memory_s=20.0)
    state = replace(run(Scaling(1), 5.0, 60), replicas=9)
    for second in range(1, 60):
        lagging = Demand(stable=5.0 + 40.0 * second / 60.0, panic=45.0)
        state, _ = size(state, lagging, BOUNDS, state.at_s + 1.0, hasty)
        assert state.replicas == 9
    for _ in range(120):
        state, _ = size(state, Demand(5.0, 5.0), BOUNDS, state.at_s + 1.0, hasty)
    assert state.replicas < 4


def test_small_ups_and_downs_change_nothing() -> None:
    state = run(Scaling(1), 50.0, 60)
    have = state.replicas
    for second in range(3600):
        load = 50.0 + (2.0 if second % 7 < 3 else -2.0)
        state, _ = size(state, Demand(load, load), BOUNDS, state.at_s + 1.0, POLICY)
    assert state.replicas == have


def test_idle_services_may_go_to_none_and_come_back_for_the_first_request() -> None:
    asleep = replace(BOUNDS, least=0, idle_after_s=300.0)
    state = run(Scaling(2), 3.0, 60, asleep)
    assert run(state, 0.0, 200, asleep).replicas > 0
    none = run(state, 0.0, 400, asleep)
    assert none.replicas == 0
    awake, _ = size(none, Demand(0.0, 0.2, queued=1), asleep, none.at_s + 1.0, POLICY)
    assert awake.replicas >= 1


def test_a_lower_limit_counts_at_once() -> None:
    state = run(Scaling(1), 150.0, 60)
    assert run(state, 150.0, 1, replace(BOUNDS, most=8)).replicas == 8


LOADS = st.floats(0.0, 1e5, allow_nan=False)


@given(
    have=st.integers(0, 200),
    loads=st.lists(
        st.tuples(LOADS, LOADS, st.integers(0, 10_000), st.floats(0, 600), st.floats(1, 50)),
        min_size=1,
        max_size=20,
    ),
    least=st.integers(0, 5),
    more=st.integers(0, 100),
    gap_s=st.floats(0.0, 7200.0),
)
def test_never_outside_its_bounds(
    have: int,
    loads: list[tuple[float, float, int, float, float]],
    least: int,
    more: int,
    gap_s: float,
) -> None:
    bounds = Bounds(least, least + more, 5.0)
    state = Scaling(min(have, least + more))
    for stable, panic, queued, wait_s, spread in loads:
        demand = Demand(stable, panic, queued, wait_s, spread)
        before = state
        state, reason = size(state, demand, bounds, before.at_s + gap_s, POLICY)
        assert reason
        assert state.replicas <= bounds.most
        assert state.replicas >= least
        assert state.peak >= state.level >= 0.0


@pytest.mark.parametrize("load", [1.0, 20.0, 120.0])
def test_more_load_never_asks_for_fewer(load: float) -> None:
    less, more = run(Scaling(1), load, 30), run(Scaling(1), load * 1.3, 30)
    assert less.replicas <= more.replicas
