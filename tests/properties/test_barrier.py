"""The cut between nodes, in every order in which things can happen: ranks never park at different
steps, none runs past a committed stop, a stop lies two mini-batches ahead, and from every state
the cut can still come to rest. With a rank on each of two nodes here; with three ranks in
tests/simulation; with two ranks a node, at random."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.agent.barrier import CutState, Order, Verdict, View, give_up, react
from singularity.agent.closure import Stand
from singularity.agent.interposer.deals import NOBODY, Deal
from singularity.primitives.nodes import NodeId
from tests.properties.barrier_world import at_rest, can_reach, check, explore, moves, ran_out, world

NODES = (NodeId("n0"), NodeId("n1"))


def test_every_order_of_events_is_safe_and_can_still_end() -> None:
    worlds, after = explore(world(1, 1))
    ends = [i for i, w in enumerate(worlds) if at_rest(w)]
    verdicts = {(worlds[i].order.verdict, bool(worlds[i].order.commit)) for i in ends}
    assert (Verdict.FINISH, True) in verdicts, "a cut can succeed"
    assert (Verdict.ABORT, False) in verdicts, "a cut can be called off before its commit"
    assert (Verdict.ABORT, True) in verdicts, "and after it"
    live = can_reach(ends, after)
    stuck = [w for i, w in enumerate(worlds) if i not in live and not ran_out(w)]
    assert not stuck, f"{len(stuck)} of {len(worlds)} states cannot come to rest: {stuck[0]}"


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_two_ranks_a_node_are_safe_in_whatever_order(seed: int) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    now = world(2, 2, faults=1)
    for _ in range(400):
        check(now)
        choices = list(moves(now))
        if not choices:
            break
        now = choices[int(rng.integers(len(choices)))]


def test_ranks_of_which_not_all_train_have_a_stop_each() -> None:
    """One counts its mini-batches, the other (it has no optimizer) what it does with others."""
    cut = CutState(NODES)
    cut = react(cut, View(NODES[0], step=3, moment=3, clock=2))
    other = View(NODES[1], moment=70, clock=1, stands=(Stand("1", 70, True, ()),))
    cut = react(cut, other)
    assert (cut.order.stops, cut.order.of("0")) == ((("1", 1),), (1, 0)), "who trains holds, too"
    assert cut.order.commit == 0, "nothing is known yet of the first"
    trains = View(NODES[0], step=3, moment=3, clock=2, stands=(Stand("0", 9, True, ()),))
    cut = react(cut, trains)
    assert (cut.order.of("0"), cut.order.of("1")) == ((9, 9), (70, 70))
    assert cut.order.commit == 3, "the moment is called by mini-batches"


def test_ranks_wait_for_one_that_has_come_to_nothing_yet() -> None:
    cut = CutState(NODES)
    for node, clock in zip(NODES, (2, 0), strict=True):
        cut = react(cut, View(node, step=3, clock=clock))
    assert cut.order == Order()
    assert react(cut, View(NODES[1], step=1, clock=2)).order.stop == 5


def test_who_is_held_stays_held_when_all_have_begun_to_train() -> None:
    cut = CutState(NODES)
    for n, node in enumerate(NODES):
        cut = react(cut, View(node, clock=1, stands=(Stand(str(n), 1, n == 0, ()),)))
    assert cut.order.stops == (("0", 1), ("1", 1))
    for n, node in enumerate(NODES):
        stands = (Stand(str(n), 1 + n, True, ()),)
        cut = react(cut, View(node, step=1, moment=1, clock=2, stands=stands))
    assert (cut.order.commit, cut.order.stops) == (1, (("0", 1), ("1", 2)))


def sent(who: int, received: bool) -> Stand:
    """Rank 0 has sent 1 a message, which that has received or not."""
    ours = (Deal(7, 0, who, NOBODY), 3)
    counts = (ours, (Deal(7, 5, 0, 1), 1)) if who == 0 or received else (ours,)
    return Stand(f"rank {who}", 0, True, counts)


def test_ranks_do_not_park_while_a_message_is_under_way() -> None:
    cut = CutState(NODES)
    for node in NODES:
        cut = react(cut, View(node, step=3))
    for stop, received in ((5, False), (6, False), (7, True)):
        assert (cut.order.stop, cut.order.commit) == (stop, 0)
        for n, node in enumerate(NODES):
            stands = (sent(n, received),)
            cut = react(cut, View(node, step=stop, agreed=stop, held=stop, stands=stands))
        called = give_up(cut, "time is up")
        if not received:
            assert "rank 1 has yet to begin its side of a message" in called.order.reason
    assert (cut.order.stop, cut.order.commit, cut.order.reason) == (7, 7, "")


def test_who_was_waited_for_is_told_when_time_is_up() -> None:
    cut = react(CutState(NODES), View(NODES[0], step=3, clock=2))
    assert give_up(cut, "time is up").order.reason == "time is up: n1: was not heard"
    cut = react(cut, View(NODES[1], step=3, clock=2, reason="rank 1 sleeps"))
    assert give_up(cut, "time is up").order.reason == "time is up: n1: rank 1 sleeps"
