"""A node's part in a cut, against real control pages, taken up again by an agent that restarted."""

from __future__ import annotations

from pathlib import Path

import pytest

from singularity.agent.barrier import Dumped, Order, Verdict, View
from singularity.agent.cutting import CutLoop, Outcome
from singularity.agent.interposer.page import Page, State
from singularity.primitives.nodes import NodeId

FINISH = Order(stop=5, commit=5, verdict=Verdict.FINISH)
ABORT = Order(stop=5, commit=5, verdict=Verdict.ABORT, reason="the disk is full")


class Dumper:
    """Durable (or whatever is `ends`) when it has been asked `rounds` times."""

    def __init__(self, rounds: int = 3, ends: Dumped = Dumped.DURABLE) -> None:
        self.rounds, self.ends = rounds, ends
        self.begun_at: list[int] = []
        self.unable = None

    def begin(self, step: int) -> None:
        self.begun_at.append(step)

    def state(self) -> tuple[Dumped, str]:
        self.rounds -= 1
        return (Dumped.NOT_YET, "") if self.rounds > 0 else (self.ends, "")


@pytest.fixture
def pages(tmp_path: Path) -> dict[int, Page]:
    return {r: Page.create(tmp_path / f"rank-{r}.page") for r in range(2)}


def show(page: Page, step: int, state: State) -> None:
    page.step, page.state = step, state


def join(pages: dict[int, Page], order: Order, dumper: Dumper) -> Outcome:
    """Take part in a cut whose lead has decided long ago."""
    left = 200

    def ask(view: View) -> Order:
        nonlocal left
        left -= 1
        assert left > 0, f"it never ends: {view}"
        for page in pages.values():  # what ranks at a boundary do
            if page.state is State.RUNNING and page.stop and page.step >= page.stop:
                page.state = State.HOLDING
            if page.state is State.HOLDING and page.commit == page.step:
                page.state = State.PARKED
        return order

    return CutLoop(NodeId("n"), lambda: pages, ask, dumper, lambda: None).run(free=False)


def test_a_decision_that_is_older_than_this_agent_waits_for_its_own_dump(
    pages: dict[int, Page],
) -> None:
    for page in pages.values():
        show(page, 5, State.PARKED)
    dumper = Dumper()
    assert join(pages, FINISH, dumper) == Outcome(FINISH, 5)
    assert dumper.begun_at == [5] and dumper.state()[0] is Dumped.DURABLE


def test_it_does_not_wait_for_a_dump_that_failed(pages: dict[int, Page]) -> None:
    for page in pages.values():
        show(page, 5, State.PARKED)
    assert join(pages, FINISH, Dumper(ends=Dumped.FAILED)).step == 5


@pytest.mark.parametrize("order", [FINISH, ABORT])
def test_ranks_that_were_woken_in_an_earlier_life_are_not_held_again(
    pages: dict[int, Page], order: Order
) -> None:
    for page in pages.values():
        show(page, 7, State.RUNNING)
    dumper = Dumper()
    assert join(pages, order, dumper) == Outcome(order, 0)
    assert [page.stop for page in pages.values()] == [0, 0] and not dumper.begun_at


@pytest.mark.parametrize("order", [FINISH, ABORT])
def test_ranks_of_which_one_was_woken_are_left_for_the_hands_to_wake(
    pages: dict[int, Page], order: Order
) -> None:
    show(pages[0], 5, State.REBUILDING)
    show(pages[1], 5, State.PARKED)
    assert join(pages, order, Dumper()).step == 0
    assert pages[1].state is State.PARKED


def test_after_an_abort_ranks_on_their_way_park_with_the_others(pages: dict[int, Page]) -> None:
    """Their peers are parked already and cannot go on without them."""
    show(pages[0], 5, State.HOLDING)
    show(pages[1], 5, State.RUNNING)
    assert join(pages, ABORT, Dumper()) == Outcome(ABORT, 5)


def test_an_abort_before_the_commit_lets_everybody_go(pages: dict[int, Page]) -> None:
    for page in pages.values():
        show(page, 5, State.HOLDING)
        page.stop = 5
    order = Order(stop=5, verdict=Verdict.ABORT, reason="time is up")
    assert join(pages, order, Dumper()) == Outcome(order, 0)
    assert [page.stop for page in pages.values()] == [0, 0]
