"""How tightly best-effort work is held: laws of the pace, on devices that answer by formula."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from singularity.agent.device.pace import FIRST, LADDER, Bound, Look, Pace, paced

ALONE_S = 1e-4  # what a launch takes alone
BOUND = Bound()


def run(
    slowdown: Callable[[int], float], looks: int, launches: int = 20, alone_s: float = ALONE_S
) -> list[Pace]:
    """A device beside which both always work; real-time launches take `slowdown(rung)` times what
    they take alone, and just that in a trial."""
    pace, found = Pace(), []
    for _ in range(looks):
        times = 1.0 if pace.trial else slowdown(pace.rung)
        pace = paced(pace, Look(launches, launches * alone_s * times, beside=True), BOUND)
        found.append(pace)
    return found


def test_the_ladder_goes_from_loose_to_tight() -> None:
    assert [rule.window for rule in LADDER] == sorted(r.window for r in LADDER)[::-1]
    assert [rule.hold_off_us for rule in LADDER] == sorted(r.hold_off_us for r in LADDER)


@pytest.mark.parametrize("tight", range(len(LADDER)))
def test_it_settles_where_real_time_work_has_what_it_needs_and_no_tighter(tight: int) -> None:
    """It takes too long on any rung looser than `tight`, and is as alone from there on."""
    found = run(lambda rung: 1.0 if rung >= tight else 1.5, 1_500)
    late = [pace.rung for pace in found[1_000:]]
    assert min(late) >= tight - 1, "one looser is tried now and then"
    assert max(late) <= tight and late.count(tight) > 0.5 * len(late)


def test_inside_the_bound_nothing_changes() -> None:
    assert {pace.rung for pace in run(lambda _: 1.06, 1_000)} == {FIRST}


def test_where_nothing_helps_it_is_held_as_tightly_as_can_be() -> None:
    assert run(lambda _: 2.0, 1_000)[-1].rung == len(LADDER) - 1


def test_a_trial_is_one_look_and_there_are_few() -> None:
    trials = [pace.trial for pace in run(lambda _: 1.5, 10_000)]
    assert not any(one and next_ for one, next_ in itertools.pairwise(trials))
    assert 0 < sum(trials) <= 10_000 / BOUND.trial_every + 1


def test_nothing_is_judged_before_it_is_known_what_is_taken_alone() -> None:
    pace = Pace()
    for _ in range(100):  # every trial fails: nothing real-time comes in it
        pace = paced(pace, Look(20, 1.0, beside=True), BOUND)
        pace = paced(pace, Look(0, 0.0, beside=False), BOUND)
    assert (pace.rung, pace.slowdown, pace.alone_s) == (FIRST, None, None)


def test_alone_is_also_whoever_has_nobody_beside() -> None:
    pace = paced(Pace(), Look(10, 10 * ALONE_S, beside=False), BOUND)
    assert pace.alone_s == pytest.approx(ALONE_S) and not pace.trial
    assert pace.alone(10, 20 * ALONE_S) == pytest.approx(10 * ALONE_S)
    assert pace.alone(10, 5 * ALONE_S) == 5 * ALONE_S, "no more than it took"


def test_what_is_taken_alone_is_learnt_anew_when_the_work_changes() -> None:
    pace = run(lambda _: 1.2, 500)[-1]
    for _ in range(20_000):
        times = 1.0 if pace.trial else 1.2
        pace = paced(pace, Look(20, 20 * 3 * ALONE_S * times, beside=True), BOUND)
    assert pace.alone_s == pytest.approx(3 * ALONE_S, rel=0.1)
    assert pace.slowdown == pytest.approx(1.2, rel=0.1)


def test_of_no_real_time_work_nothing_is_learnt() -> None:
    assert paced(Pace(), Look(0, 0.0, beside=True), BOUND) == Pace()
