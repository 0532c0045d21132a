"""What is learnt of durations: never less than a job has run, and what the data say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singularity.primitives.model import Job, JobId, JobSpec
from singularity.scheduler.durations import Curve, Durations, Ran

PARTS = (np.arange(40) + 0.5) / 40
SECONDS = st.lists(st.tuples(st.floats(1.0, 1e5), st.booleans()), max_size=30)


def curve(known: list[tuple[float, bool]]) -> Curve:
    return Curve(np.array([s for s, _ in known]), np.array([e for _, e in known], dtype=np.bool_))


def job(name: str = "train-7", **spec: object) -> Job:
    return Job(JobId("j"), JobSpec(name=name, run=("x",), **spec), 1)  # type: ignore[arg-type]


@given(SECONDS, st.floats(0.0, 2e5))
def test_who_has_run_so_long_lasts_longer_and_the_later_part_longest(
    known: list[tuple[float, bool]], ran_s: float
) -> None:
    found = curve(known).lasts(ran_s, PARTS)
    assert (found >= ran_s).all() and np.isfinite(found).all()
    assert (np.diff(found) >= 0.0).all()


@given(st.lists(st.floats(1.0, 1e5), min_size=1, max_size=30), st.floats(0.0, 1e5))
def test_where_all_have_ended_it_is_the_quantile_of_those_that_lasted_longer(
    seconds: list[float], ran_s: float
) -> None:
    longer = sorted(s for s in seconds if s > ran_s)
    if not longer:
        return
    found = curve([(s, True) for s in seconds]).lasts(ran_s, PARTS)
    for part, lasts_s in zip(PARTS, found, strict=True):
        assert lasts_s in longer
        ended = sum(s <= lasts_s for s in longer) / len(longer)
        before = sum(s < lasts_s for s in longer) / len(longer)
        assert before - 1e-9 <= part <= ended + 1e-9


def test_those_that_still_run_count_for_as_long_as_they_did() -> None:
    """Two of three ended at 10 s; the third has run for 100: a third of all last longer than it."""
    found = curve([(10.0, True), (10.0, True), (100.0, False)]).lasts(0.0, PARTS)
    assert (found == 10.0).sum() == pytest.approx(2 / 3 * len(PARTS), abs=1)
    assert found.max() > 100.0


def test_of_nobody_is_known_that_half_run_as_long_again() -> None:
    found = Durations(()).lasts(job(), 1_000.0, np.array([0.5, 0.9]))
    assert found == pytest.approx([2_000.0, 10_000.0])


def test_those_most_alike_are_believed_and_its_owner_most_of_all() -> None:
    known = [Ran("default", f"train-{i}", "train", 100.0) for i in range(3)]
    known += [Ran("default", f"other-{i}", "train", 900.0) for i in range(8)]
    half = np.array([0.5])
    assert Durations(known).lasts(job("train-99"), 0.0, half) == [100.0]
    assert Durations(known).lasts(job("new"), 0.0, half) == [900.0]
    assert Durations(known).lasts(job("new", max_duration_s=60.0), 0.0, half) == [60.0]
    assert Durations(known[:2]).lasts(job("train-9"), 0.0, half) == [120.0], "two are too few"
