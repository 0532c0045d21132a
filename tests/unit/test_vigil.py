"""Silence is evidence only while somebody else is heard."""

from __future__ import annotations

from singularity.primitives.nodes import NodeId
from singularity.scheduler.vigil import Vigil, observe, silent

A, B = NodeId("a"), NodeId("b")
LOST_AFTER_S = 30.0


def watch(vigil: Vigil, until_s: float, **last_s: float) -> Vigil:
    """Look every second; a node named in `last_s` is heard every second until then."""
    at_s = vigil.at_s or 0.0
    while at_s < until_s:
        at_s += 1.0
        vigil = observe(vigil, {NodeId(n): min(at_s, s) for n, s in last_s.items()}, at_s)
    return vigil


def test_a_node_silent_for_too_long_is_named_with_when_it_was_last_heard() -> None:
    vigil = watch(Vigil(), 40.0, a=10.0, b=1e9)
    assert silent(vigil, LOST_AFTER_S) == {}
    assert silent(watch(vigil, 42.0, a=10.0, b=1e9), LOST_AFTER_S) == {A: 10.0}


def test_when_nobody_is_heard_nobody_is_lost() -> None:
    assert silent(watch(Vigil(), 10_000.0, a=10.0, b=10.0), LOST_AFTER_S) == {}


def test_silence_of_everybody_does_not_count_when_one_speaks_again() -> None:
    vigil = watch(Vigil(), 1_000.0, a=10.0, b=10.0)
    assert silent(watch(vigil, 1_010.0, a=10.0, b=1e9), LOST_AFTER_S) == {}
    assert silent(watch(vigil, 1_040.0, a=10.0, b=1e9), LOST_AFTER_S) == {A: 10.0}


def test_a_watcher_that_slept_counts_none_of_it() -> None:
    vigil = watch(Vigil(), 20.0, a=10.0, b=1e9)
    vigil = observe(vigil, {A: 10.0, B: 620.0}, 620.0)
    assert vigil.quiet_s[A] < LOST_AFTER_S


def test_a_clock_that_is_set_back_takes_no_silence_back() -> None:
    vigil = watch(Vigil(), 35.0, a=10.0, b=1e9)
    vigil = observe(vigil, {A: 10.0, B: -3_565.0}, -3_565.0)  # by an hour, and b is heard since
    for second in range(1, 10):
        vigil = observe(vigil, {A: 10.0, B: second - 3_565.0}, second - 3_565.0)
    assert silent(vigil, LOST_AFTER_S) == {A: 10.0}


def test_a_word_ends_the_silence() -> None:
    vigil = watch(Vigil(), 35.0, a=10.0, b=1e9)
    assert observe(vigil, {A: 36.0, B: 36.0}, 36.0).quiet_s[A] == 0.0


def test_a_new_watcher_starts_from_nothing() -> None:
    vigil = observe(Vigil(), {A: 0.0, B: 5_000.0}, 5_000.0)
    assert silent(vigil, LOST_AFTER_S) == {}


def test_what_is_no_longer_watched_is_forgotten() -> None:
    vigil = watch(Vigil(), 42.0, a=10.0, b=1e9)
    assert set(observe(vigil, {B: 43.0}, 43.0).quiet_s) == {B}
