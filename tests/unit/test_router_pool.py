"""What the router's queue decides, case by case."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from singularity.router import pool
from singularity.router.pool import Place, Policy, Pool, Refuse, Rules, Send, Turn, Why, react

POLICY = Policy()


def place(name: str, *, revision: int = 1, local: bool = True, leaving: bool = False) -> Place:
    return Place((name, 1), f"{name}:80", revision, local, leaving)


def told(*places: Place, policy: Policy = POLICY, **rules: float) -> Pool:
    return react(Pool(policy=policy), pool.Told(replace(Rules(), **rules), places), 0.0)[0]


def come(state: Pool, numbers: range, now_s: float = 0.0) -> tuple[Pool, list[Turn]]:
    turns = []
    for number in numbers:
        state, effects = react(state, pool.Came(number), now_s)
        turns += [e.turn for e in effects if isinstance(e, Send)]
    return state, turns


def names(turns: list[Turn]) -> Counter[str]:
    return Counter(turn.place.id[0] for turn in turns)


def test_of_two_drawn_by_lot_the_one_with_less_is_taken() -> None:
    """With two replicas that is always the lesser, so they are even to one request."""
    state = told(place("a"), place("b"), concurrency=100)
    state, turns = come(state, range(41))
    assert sorted(names(turns).values()) == [20, 21]


def test_many_replicas_are_nearly_even() -> None:
    """The point of two choices: the fullest has hardly more than the mean, not ln n more."""
    places = [place(f"r{n}") for n in range(50)]
    _, turns = come(told(*places, concurrency=1000, queue_most=0), range(1000))
    assert max(names(turns).values()) <= 20 + 4


def test_a_canary_that_fails_leaves_its_share_to_the_others() -> None:
    rules = {"canary": 2, "canary_share": 1.0, "concurrency": 9}
    state = told(place("old"), place("new", revision=2), **rules)
    for number in range(2):
        state, (turn,) = come(state, range(number, number + 1))
        assert turn.place.id[0] == "new"
        state, _ = react(state, pool.Ended(turn, healthy=False), 0.0)
    state, turns = come(state, range(10, 15))
    assert names(turns) == {"old": 5}


def test_no_request_goes_to_the_canary_that_is_not_for_it() -> None:
    """Not even when everybody else is busy: what is on trial is not trusted with more."""
    rules = {"canary": 2, "canary_share": 0.0, "concurrency": 1}
    state, turns = come(told(place("old"), place("new", revision=2), **rules), range(3))
    assert names(turns) == {"old": 1} and state.queued == 2


def test_canary_is_all_there_is() -> None:
    rules = {"canary": 2, "canary_share": 0.1, "concurrency": 5}
    _, turns = come(told(place("new", revision=2), **rules), range(5))
    assert names(turns) == {"new": 5}


def test_other_regions_help_only_when_more_wait_than_are_served() -> None:
    state = told(place("near"), place("far", local=False), concurrency=3)
    state, turns = come(state, range(6))
    assert names(turns) == {"near": 3} and state.queued == 3
    state, turns = come(state, range(6, 10))
    assert names(turns) == {"far": 3} and state.queued == 4
    assert [t.request.number for t in turns] == [3, 4, 5], "who waits longest goes first"


def test_without_a_replica_of_this_region_others_help_at_once() -> None:
    _, turns = come(told(place("far", local=False), concurrency=3), range(3))
    assert names(turns) == {"far": 3}


def test_left_out_ever_longer_and_tried_by_one() -> None:
    policy = Policy(eject_after=1, out_first_s=1.0, out_most_s=3.0)
    state, now_s = told(place("a"), policy=policy, concurrency=5), 0.0
    state, (turn,) = come(state, range(1))
    for out_s in (1.0, 2.0, 3.0, 3.0):
        state, effects = react(state, pool.Returned(turn), now_s)
        assert not effects and state.next_s(now_s) == now_s + out_s
        now_s += out_s
        state, effects = react(state, pool.Passed(), now_s)
        (turn,) = (e.turn for e in effects if isinstance(e, Send))
        state, effects = react(state, pool.Came(int(now_s) + 1), now_s)
        assert not effects, "one tries it, the others wait"
        state, _ = react(state, pool.Left(int(now_s) + 1), now_s)
    state, _ = react(state, pool.Ended(turn), now_s)
    state, turns = come(state, range(100, 105), now_s)
    assert len(turns) == 5, "it is as good as any again"


def test_failures_of_one_moment_count_once() -> None:
    """Eight requests that break off together are one outage, not eight in a row."""
    state, turns = come(told(place("a"), concurrency=8), range(8))
    for turn in turns:
        state, _ = react(state, pool.Ended(turn, healthy=False), 5.0)
    (replica,) = state.replicas.values()
    assert replica.failures == 2 and replica.out_until_s == 5.25


def test_another_replica_is_tried_first() -> None:
    state = told(place("a"), place("b"), concurrency=9)
    state, (turn,) = come(state, range(1))
    state, (effect,) = react(state, pool.Returned(turn), 0.0)
    assert isinstance(effect, Send) and effect.turn.place != turn.place
    _, (effect,) = react(state, pool.Returned(effect.turn), 0.0)
    assert isinstance(effect, Send), "all failed once; nobody is left out yet"


def test_one_that_returns_stands_where_it_stood() -> None:
    state, turns = come(told(place("a"), concurrency=1), range(3))
    state, effects = react(state, pool.Returned(turns[0]), 0.0)
    assert [e.turn.request.number for e in effects if isinstance(e, Send)] == [0]


def test_a_service_that_is_gone_refuses_all_and_ends_what_it_has() -> None:
    state, (turn,) = come(told(place("a"), concurrency=1), range(2))
    state, effects = react(state, pool.Told(None), 1.0)
    assert effects == (Refuse(1, Why.GONE),)
    state, _ = react(state, pool.Ended(turn), 2.0)
    assert not state.replicas
    assert react(state, pool.Came(2), 3.0)[1] == (Refuse(2, Why.GONE),)


def test_a_replica_that_moved_is_judged_anew() -> None:
    state, turns = come(told(place("a"), concurrency=4), range(2))
    for turn in turns:
        state, _ = react(state, pool.Ended(turn, healthy=False), 1.0)
    moved = replace(place("a"), address="a:81")
    state, _ = react(state, pool.Told(Rules(concurrency=4), (moved,)), 1.1)
    _, turns = come(state, range(2, 6), 1.1)
    assert [turn.place.address for turn in turns] == ["a:81"] * 4


def test_who_is_in_time_goes_before_who_is_late_already() -> None:
    state, turns = come(told(place("a"), promised_s=2.0), range(3))
    state, _ = come(state, range(3, 5), now_s=3.0)
    served = []
    while turns:
        state, effects = react(state, pool.Ended(turns.pop()), 3.0)
        turns = [e.turn for e in effects if isinstance(e, Send)]
        served += [turn.request.number for turn in turns]
    assert served == [3, 4, 1, 2]
