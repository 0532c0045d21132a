"""Ranks without mini-batches: worlds too large for the fast tests, exhausted all the same."""

from __future__ import annotations

import pytest

from tests.properties.deal_world import Play, exhaust, meet, message

PAIR = {0: (0, 1)}
WORLDS = {
    "words are slow": (Play(((meet(0, 0),), (meet(0, 1),)), PAIR, slow=True), True),
    "messages both ways": (
        Play(
            (
                (message(0, 0, 1, waits=False), message(0, 1, 0)),
                (message(0, 0, 1), message(0, 1, 0, waits=False)),
            ),
            PAIR,
            slow=False,
        ),
        True,
    ),
    "a chain of groups": (
        Play(
            ((meet(0, 0),), (meet(0, 1), meet(1, 0)), (meet(1, 1),)),
            {0: (0, 1), 1: (1, 2)},
            slow=False,
        ),
        False,
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_nothing_parks_ranks_where_what_was_begun_cannot_be_finished(name: str) -> None:
    play, restarts = WORLDS[name]
    exhaust(play, restarts=restarts)
