"""What the demo of drains says of its service, from what was asked and seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from examples.drain.served import Event, Look, failures, row
from examples.inference.asking import PROMISED, WAIT_MOST_S, Asked

BEGAN_S = 1_000.0
EVENT = Event("a drain", 1_010.0, 1_020.0, moved=2)
LOOKS = [
    Look(1_009.0, frozenset()),
    Look(1_010.0, frozenset({"a", "b"})),
    Look(1_015.0, frozenset({"b"})),
    Look(1_019.0, frozenset({"b", "c"})),
]


def asked(count: int, wait_s: float = 0.01, status: int = 200) -> list[Asked]:
    """As many, spread over the event."""
    return [Asked(10.0 + 10.0 * n / count, wait_s, wait_s + 0.1, status) for n in range(count)]


def test_only_what_was_meant_to_be_sent_while_it_lasted_counts() -> None:
    around = [Asked(9.9, 99.0, 99.0, 504), Asked(20.0, 99.0, 99.0, 504)]
    found = row(EVENT, asked(50) + around, LOOKS, BEGAN_S)
    assert (len(found.asked), found.kept, found.failed, found.good) == (50, 1.0, 0, True)
    assert (found.least, found.new) == (1, 1)


def test_late_requests_break_the_promise_when_they_are_too_many() -> None:
    late = round(100 * (1.0 - PROMISED))
    on_time = asked(100 - late)
    assert row(EVENT, on_time + asked(late, WAIT_MOST_S + 0.01), LOOKS, BEGAN_S).good
    assert not row(EVENT, on_time + asked(late + 2, WAIT_MOST_S + 0.01), LOOKS, BEGAN_S).good


@pytest.mark.parametrize("status", [0, 503, 504])
def test_one_request_without_an_answer_is_one_too_many(status: int) -> None:
    found = row(EVENT, asked(1_000) + asked(1, status=status), LOOKS, BEGAN_S)
    assert found.kept > PROMISED and not found.good
    assert failures(found.asked) == f"1 × {status}"


def test_an_event_of_which_nobody_knows_anything_is_no_success() -> None:
    for nothing in (row_of([], LOOKS), row_of(asked(5), [])):
        with pytest.raises(SystemExit, match="nobody asked, or nobody looked: a drain"):
            nothing()


def row_of(requests: list[Asked], looks: list[Look]) -> Callable[[], object]:
    return lambda: row(EVENT, requests, looks, BEGAN_S)
