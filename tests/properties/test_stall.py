"""Laws of what is taken for a hang, over any history of looks."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from singularity.agent.stall import Limits, Watch, excuse, hung, observe

LIMITS = Limits(step_s=10.0, first_s=60.0)
# What happens between two looks: seconds that pass, and the steps that each of two ranks makes.
strides = st.lists(
    st.tuples(st.floats(0.1, 5.0), st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=80
)


def looks(history: list[tuple[float, int, int]]) -> list[tuple[float, dict[int, int]]]:
    now_s, steps, found = 0.0, {0: 0, 1: 0}, [(0.0, {0: 0, 1: 0})]
    for seconds, *made in history:
        now_s += seconds
        steps = {r: steps[r] + made[r] for r in steps}
        found.append((now_s, steps))
    return found


@given(history=strides)
def test_a_hang_is_said_exactly_when_a_rank_stood_still_for_longer_than_it_may(
    history: list[tuple[float, int, int]],
) -> None:
    seen, watch = looks(history), Watch()
    for number, (now_s, steps) in enumerate(seen):
        watch = observe(watch, steps, now_s)
        late = False
        for rank in steps:
            moved = [b for a, b in pairwise(seen[: number + 1]) if a[1][rank] != b[1][rank]]
            since_s = moved[-1][0] if moved else 0.0
            late |= now_s - since_s > (LIMITS.step_s if moved else LIMITS.first_s)
        assert bool(hung(watch, LIMITS, now_s)) == late


@given(history=strides, absent=st.integers(0, 1))
def test_a_rank_that_is_not_watched_is_never_named(
    history: list[tuple[float, int, int]], absent: int
) -> None:
    watch = Watch()
    for now_s, steps in looks(history):
        watch = observe(watch, {r: s for r, s in steps.items() if r != absent}, now_s)
        assert f"rank {absent}" not in hung(watch, LIMITS, now_s)


@given(history=strides)
def test_who_is_always_excused_never_hangs(history: list[tuple[float, int, int]]) -> None:
    watch = Watch()
    for now_s, steps in looks(history):
        watch = excuse(observe(watch, steps, now_s), now_s)
        assert hung(watch, LIMITS, now_s) == ""


def test_the_reason_names_rank_limit_and_step() -> None:
    watch = observe(observe(Watch(), {0: 7, 1: 8}, 0.0), {0: 8, 1: 8}, 1.0)
    assert hung(watch, LIMITS, 11.0) == ""
    assert hung(watch, LIMITS, 11.5) == "rank 0 has made no step for more than 10 s, after 8"
    assert hung(watch, LIMITS, 70.0).startswith("rank 0"), "the first that is late is named"
