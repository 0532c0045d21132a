"""Histograms of times: what is read from them is what was counted, to within a bucket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from singularity.primitives.routing import BOUNDS_S, BUCKETS, bucket, quantile_s, within

TIMES = st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=50)


def counted(times: list[float]) -> list[int]:
    counts = [0] * BUCKETS
    for seconds in times:
        counts[bucket(seconds)] += 1
    return counts


@given(times=TIMES, most_s=st.floats(0, 60))
def test_how_many_were_within_lies_between_the_bounds_around_it(
    times: list[float], most_s: float
) -> None:
    low_s = max((b for b in BOUNDS_S if b <= most_s), default=0.0)
    high_s = min((b for b in BOUNDS_S if b >= most_s), default=BOUNDS_S[-1])
    surely = sum(t <= low_s for t in times if low_s)
    perhaps = sum(t <= high_s for t in times)
    assert surely - 1e-6 <= within(counted(times), most_s) <= perhaps + 1e-6


@given(times=TIMES, share=st.floats(0.01, 1.0))
def test_a_quantile_has_that_share_within(times: list[float], share: float) -> None:
    counts = counted(times)
    found = quantile_s(counts, share)
    assert found is not None
    if found < BOUNDS_S[-1]:
        assert within(counts, found + 1e-9) >= share * len(times) - 1e-6


def test_nothing_counted_has_no_quantile() -> None:
    assert quantile_s([0] * BUCKETS, 0.99) is None


def test_bounds_belong_to_the_bucket_that_ends_with_them() -> None:
    assert [bucket(b) for b in BOUNDS_S] == list(range(len(BOUNDS_S)))
    assert bucket(BOUNDS_S[-1] + 1) == BUCKETS - 1
