"""Laws of the router's queue, under any order of requests, answers, failures and tables."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.router import pool
from singularity.router.pool import Lane, Place, Pool, Refuse, ReplicaId, Rules, Send, Turn, Why

RULES = st.builds(
    Rules,
    concurrency=st.integers(1, 4),
    queue_most=st.integers(0, 8),
    timeout_s=st.sampled_from([1.0, 5.0, 60.0]),
    promised_s=st.sampled_from([None, 0.3, 2.0]),
    canary=st.sampled_from([0, 0, 2]),
    canary_share=st.sampled_from([0.0, 0.3, 1.0]),
)
PLACES = st.lists(
    st.builds(
        Place,
        id=st.tuples(st.sampled_from("abcd"), st.integers(1, 2)),
        address=st.sampled_from(["h:1", "h:2"]),
        revision=st.integers(1, 2),
        local=st.booleans(),
        leaving=st.sampled_from([False, False, False, True]),
    ),
    max_size=6,
    unique_by=lambda place: place.id,
).map(tuple)
DEEDS = st.lists(
    st.one_of(
        st.just(("came",)),
        st.just(("came",)),
        st.just(("came",)),
        st.tuples(st.just("told"), RULES, PLACES),
        st.tuples(st.sampled_from(["ended", "failed", "returned", "gave up", "left"])),
        st.tuples(st.just("passed"), st.sampled_from([0.01, 0.3, 2.0])),
    ),
    max_size=60,
)


class World:
    """Carries out what the pool asks, and holds it to its laws at every moment."""

    def __init__(self, seed: int) -> None:
        self.state, self.random, self.now_s = Pool(seed=seed), Random(seed), 0.0
        self.came = 0
        self.turns: list[Turn] = []
        self.left: set[int] = set()
        self.answers: Counter[int] = Counter()
        self.answered_late: set[int] = set()
        self.first_sent: dict[Lane, int] = {}

    def do(self, event: pool.Event) -> tuple[pool.Effect, ...]:
        before = self.state
        self.state, effects = pool.react(before, event, self.now_s)
        for effect in effects:
            if isinstance(effect, Send):
                self.turns.append(effect.turn)
                self.in_order(effect.turn)
            else:
                self.answers[effect.number] += 1
        self.check(effects)
        return effects

    def in_order(self, turn: Turn) -> None:
        """Nobody of its lane who came earlier is still waiting, but those who are late already;
        and who is late goes only when nobody waits who is not."""
        promised_s = self.state.rules.promised_s if self.state.rules else None
        since_s = float("-inf") if promised_s is None else self.now_s - promised_s
        waiting = self.state.waiting[turn.request.lane]
        if turn.request.came_s <= since_s:
            assert all(r.came_s <= since_s for r in waiting), "who is in time goes first"
        earlier = [r for r in waiting if r < turn.request]
        if turn.request.came_s > since_s:
            earlier = [r for r in earlier if r.came_s > since_s]
        assert not earlier, "first come, first served"

    def check(self, effects: tuple[pool.Effect, ...]) -> None:
        state = self.state
        busy: Counter[ReplicaId] = Counter(turn.place.id for turn in self.turns)
        assert busy == {i: r.busy for i, r in state.replicas.items() if r.busy}
        waiting = [r.number for lane in state.waiting for r in lane]
        assert [sorted(r.number for r in lane) for lane in state.waiting] == [
            [r.number for r in lane] for lane in state.waiting
        ]
        heads = [lane[0] for lane in state.waiting if lane]
        assert all(r.until_s > self.now_s for r in heads), "nobody waits longer than it may"
        everybody = Counter(waiting) + Counter(t.request.number for t in self.turns)
        everybody += self.answers + Counter(self.left)
        assert everybody == Counter(range(self.came)), "each is in one place, once"
        for effect in effects:
            if isinstance(effect, Send):
                assert state.rules is not None
                place = effect.turn.place
                assert state.replicas[place.id].busy <= state.rules.concurrency
                assert not place.leaving, "who leaves is given nothing new"

    def come(self) -> None:
        self.came += 1
        known = self.state
        effects = self.do(pool.Came(self.came - 1))
        for effect in effects:
            if isinstance(effect, Refuse) and effect.why is Why.FULL:
                assert known.rules is not None and known.queued >= known.rules.queue_most

    def end(self, how: str) -> None:
        if how == "left":
            waiting = [r.number for lane in self.state.waiting for r in lane]
            if waiting:
                number = self.random.choice(waiting)
                self.left.add(number)
                self.do(pool.Left(number))
        elif self.turns:
            turn = self.turns.pop(self.random.randrange(len(self.turns)))
            if how == "returned":
                self.do(pool.Returned(turn))
                return
            self.answers[turn.request.number] += 1
            healthy = {"ended": True, "failed": False, "gave up": None}[how]
            self.do(pool.Ended(turn, healthy))

    def live(self, deeds: list[tuple]) -> None:
        for deed in deeds:
            match deed:
                case ("came",):
                    self.come()
                case ("told", rules, places):
                    self.do(pool.Told(rules, places))
                case ("passed", seconds):
                    self.now_s += seconds
                    self.do(pool.Passed())
                case (how,):
                    self.end(how)


@given(DEEDS, st.integers(0, 1 << 32))
@settings(max_examples=150, deadline=None)
def test_each_request_has_one_answer_and_no_replica_more_than_its_share(
    deeds: list[tuple], seed: int
) -> None:
    world = World(seed)
    world.do(pool.Told(Rules(concurrency=2, queue_most=5), (Place(("a", 1), "h:1"),)))
    world.live(deeds)


@given(DEEDS, st.integers(0, 1 << 32))
@settings(max_examples=150, deadline=None)
def test_nobody_is_forgotten(deeds: list[tuple], seed: int) -> None:
    """When replicas go on answering and the clock is looked at when the pool asks for it, everybody
    has an answer, whatever was before."""
    world = World(seed)
    world.live(deeds)
    good = (Place(("z", 1), "h:9"),)
    world.do(pool.Told(Rules(concurrency=1, queue_most=9, timeout_s=5.0), good))
    for _ in range(1000):
        if world.turns:
            world.end("ended")
        elif (due_s := world.state.next_s(world.now_s)) is not None:
            world.now_s = max(world.now_s, due_s)
            world.do(pool.Passed())
        else:
            break
    assert not world.turns and not world.state.queued
    assert all(count == 1 for count in world.answers.values())
    assert len(world.answers) + len(world.left) == world.came


@given(DEEDS, st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_nobody_waits_beside_a_replica_that_is_free(deeds: list[tuple], seed: int) -> None:
    world = World(seed)
    world.live(deeds)
    rules = world.state.rules
    if rules is None or rules.canary:
        return
    free = [
        r
        for r in world.state.replicas.values()
        if r.place.local and not r.place.leaving and not r.failures and r.busy < rules.concurrency
    ]
    assert not (free and world.state.queued)


@given(DEEDS, st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_the_clock_is_asked_for_only_in_the_future(deeds: list[tuple], seed: int) -> None:
    """Else whoever waits for it would spin."""
    world = World(seed)
    world.live(deeds)
    due_s = world.state.next_s(world.now_s)
    assert due_s is None or due_s > world.now_s
