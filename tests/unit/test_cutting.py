"""A node's part in a cut, against real control pages, taken up again by an agent that restarted."""

from __future__ import annotations

from pathlib import Path

import pytest

from singularity.agent.barrier import Dumped, Order, Verdict, View
from singularity.agent.cutting import CutLoop, Outcome, write
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

    def begin(self, moment: int) -> None:
        self.begun_at.append(moment)

    def moment(self) -> int:
        return 5

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
            if page.state is State.RUNNING and page.halt and page.settle == page.crossings:
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


def test_where_each_rank_has_a_place_of_its_own_the_lead_names_the_moment(
    pages: dict[int, Page],
) -> None:
    """Nodes count to different numbers, and their images must be of one moment."""
    for rank, page in pages.items():
        page.crossings, page.state = 30 + rank, State.RUNNING
    stops = (("rank 0", 30), ("rank 1", 31))
    order = Order(stop=1, commit=7, stops=stops, verdict=Verdict.FINISH)
    gather = Order(stop=1, commit=7, stops=stops)
    dumper, said = Dumper(), [gather] * 3

    def ask(_: View) -> Order:
        for page in pages.values():
            if page.settle == page.crossings:
                page.state = State.PARKED
        return said.pop() if said else order

    outcome = CutLoop(NodeId("n"), lambda: pages, ask, dumper, lambda: None).run(free=False)
    assert (dumper.begun_at, outcome.step) == ([7], 30)
    assert [(p.halt, p.settle, p.stop) for p in pages.values()] == [(30, 30, 0), (31, 31, 0)]


def test_an_agent_that_restarts_asks_what_the_moment_is_called(pages: dict[int, Page]) -> None:
    for rank, page in pages.items():
        page.crossings, page.state = 30 + rank, State.PARKED
        page.halt = page.settle = 30 + rank
    dumper, heard = Dumper(), list[View]()
    stops = (("rank 0", 30), ("rank 1", 31))

    def ask(view: View) -> Order:
        heard.append(view)
        done = view.dumped is Dumped.DURABLE
        return Order(1, 7, stops, Verdict.FINISH if done else Verdict.GATHER)

    CutLoop(NodeId("n"), lambda: pages, ask, dumper, lambda: None).run(free=False)
    assert dumper.begun_at == [7] and heard[0].dumped is Dumped.NOT_YET


def test_who_is_held_by_mini_batches_is_held_by_its_own_number_before_it_is_let_go(
    tmp_path: Path,
) -> None:
    """It looks at its page whenever it likes."""
    page = Page.create(tmp_path / "page")
    seen = list[tuple[int, int]]()

    class Watched(Page):
        @property
        def stop(self) -> int:
            return super().stop

        @stop.setter
        def stop(self, value: int) -> None:
            seen.append((page.halt, value))
            Page.stop.__set__(self, value)

    show(page, 5, State.HOLDING)
    page.crossings, page.stop = 40, 5
    write(Watched(page.path), 40, 40, own=True)
    assert seen == [(40, 0)]
