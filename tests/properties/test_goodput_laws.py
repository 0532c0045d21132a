"""Devices divided by prices: never more than there are, and nobody's order matters."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from singularity.scheduler.goodput import Allotment, Floats, Ints, allot

SIZES = np.array([1, 2, 4, 8])


@st.composite
def markets(draw: st.DrawFn) -> tuple[Floats, Ints]:
    """Jobs of different worth on different types, some of which allow few sizes or one type."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    jobs, types = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    weight, power = rng.uniform(0.5, 4, (types, 1, jobs)), rng.uniform(0.3, 1.0, jobs)
    utility = weight * np.sqrt(SIZES[:, None] ** power)
    utility[:, SIZES[:, None] > rng.choice(SIZES, jobs)] = 0.0
    utility[rng.random((types, 1, jobs)).repeat(len(SIZES), axis=1) < 0.2] = 0.0
    capacity = draw(st.lists(st.integers(0, 40), min_size=types, max_size=types))
    return utility, np.array(capacity)


def worth(utility: Floats, found: Allotment) -> float:
    held = np.flatnonzero(found.kind >= 0)
    rows = np.searchsorted(SIZES, found.size[held])
    return float(utility[found.kind[held], rows, held].sum())


@settings(max_examples=60, deadline=None)
@given(market=markets())
def test_nobody_is_given_what_is_not_there_or_not_allowed(market: tuple[Floats, Ints]) -> None:
    utility, capacity = market
    found = allot(utility, SIZES, capacity)
    for kind, room in enumerate(capacity):
        assert found.size[found.kind == kind].sum() <= room
    held = found.kind >= 0
    assert (found.size[~held] == 0).all()
    rows = np.searchsorted(SIZES, found.size[held])
    assert (utility[found.kind[held], rows, np.flatnonzero(held)] > 0.0).all()
    assert np.isclose(found.value, worth(utility, found)) and found.value <= found.bound + 1e-9


@settings(max_examples=60, deadline=None)
@given(market=markets(), seed=st.integers(0, 100))
def test_the_order_of_jobs_does_not_matter(market: tuple[Floats, Ints], seed: int) -> None:
    utility, capacity = market
    order = np.random.default_rng(seed).permutation(utility.shape[2])
    one, other = allot(utility, SIZES, capacity), allot(utility[:, :, order], SIZES, capacity)
    assert np.array_equal(one.size[order], other.size)
    assert np.array_equal(one.kind[order], other.kind)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), jobs=st.integers(1, 12), devices=st.integers(0, 40))
@example(seed=4, jobs=4, devices=30)  # took more rounds of filling up than there were
def test_of_one_type_it_is_the_best_there_is_and_grows_with_the_devices(
    seed: int, jobs: int, devices: int
) -> None:
    """With every size allowed and each device worth less than the one before, the best is to give
    one device after the other to whoever gains most."""
    rng, sizes = np.random.default_rng(seed), np.arange(1, 9)
    power = rng.uniform(0.3, 0.9, jobs)
    utility = (rng.uniform(1, 4, jobs) * sizes[:, None] ** power)[None]
    steps = np.sort(np.diff(utility[0], axis=0, prepend=0.0).ravel())[::-1]
    before = 0.0
    for more in range(3):
        found = allot(utility, sizes, np.array([devices + more]))
        best = steps[: devices + more].sum()
        assert found.value >= 0.97 * best
        assert found.value >= 0.97 * before
        assert found.size.sum() == min(devices + more, 8 * jobs), "and nothing is left lying"
        before = found.value


def test_prices_of_before_are_a_good_start() -> None:
    rng = np.random.default_rng(7)
    utility = rng.uniform(1, 4, (2, 1, 6000)) * np.sqrt(SIZES[:, None] ** rng.uniform(0.5, 1, 6000))
    capacity = np.array([4000, 9000])
    cold = allot(utility, SIZES, capacity)
    warm = allot(utility, SIZES, capacity, prices=cold.prices)
    for found in (cold, warm):
        assert found.value >= 0.99 * found.bound, "six thousand jobs are nearly divisible"
