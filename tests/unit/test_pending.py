"""Lines that are told together say of each job what it would have been told by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from singularity.primitives.model import JobId
from singularity.scheduler.pending import Pending, Reason

LINES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=4)


@given(LINES, st.integers(0, 3), st.sets(st.integers(0, 30)))
def test_it_is_the_mapping_of_all_of_them(
    lines: list[tuple[int, int]], alone: int, acts: set[int]
) -> None:
    names = (JobId(f"j{number}") for number in range(40))
    each = {next(names): (Reason("own", str(n)),) for n in range(alone)}
    expected, told = dict(each), []
    for size, first in lines:
        ids, why = tuple(next(names) for _ in range(size)), (Reason("line", str(size)),)
        told.append((ids, first, why))
        expected |= dict.fromkeys(ids[first:], why)
    acted = frozenset(JobId(f"j{number}") for number in acts)
    expected = {job: why for job, why in expected.items() if job not in acted}
    pending = Pending(each, told, acted)
    assert bool(pending) == bool(expected) and pending == expected
    assert all(pending.untold(ids) == ids[:first] for ids, first, _ in told if ids)
    assert pending.untold((JobId("x"), JobId("y"))) == ("x", "y"), "of another line nobody knows"
