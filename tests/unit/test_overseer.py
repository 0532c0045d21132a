"""What of the ranks' pages is progress, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from singularity.agent.interposer.page import Page, State
from singularity.agent.stacks import Overseer

HANG_AFTER_S, FIRST_S = 10.0, 60.0


@pytest.fixture
def page(tmp_path: Path) -> Page:
    made = Page.create(tmp_path / "page")
    made.state = State.RUNNING
    return made


def late_s(page: Page, crossing_s: float = 0.0) -> float:
    """When it is taken for hung, looked at each second; until `crossing_s` it meets its gang."""
    overseer = Overseer(HANG_AFTER_S, FIRST_S)
    for now_s in range(200):
        if now_s <= crossing_s:
            page.crossings += 1
        if overseer.look({0: page}, float(now_s)):
            return now_s
    return -1


def test_a_first_step_has_its_own_limit(page: Page) -> None:
    assert late_s(page) == FIRST_S + 1


def test_meeting_the_gang_is_progress_of_a_rank_without_an_optimizer(page: Page) -> None:
    assert late_s(page, 100.0) == 101 + FIRST_S + 1


def test_and_none_of_a_rank_with_one(page: Page) -> None:
    page.step = 3
    assert late_s(page, 100.0) == FIRST_S + 1


def test_a_rank_at_rest_is_not_watched(page: Page) -> None:
    page.state = State.PARKED
    assert late_s(page) == -1


def test_nobody_hangs_while_we_hold_the_ranks_back(page: Page) -> None:
    overseer = Overseer(HANG_AFTER_S, FIRST_S)
    overseer.frozen = True
    assert not any(overseer.look({0: page}, float(now_s)) for now_s in range(200))
    overseer.frozen = False
    assert [bool(overseer.look({0: page}, 200.0 + s)) for s in (0, 59, 61)] == [False, False, True]
