"""Gangs in which not all ranks train, or not yet, small enough to try everything that can happen to
them during a cut.

Each rank has a node of its own and a program: collectives of groups that overlap or never meet,
messages that are waited for or not, mini-batches. Everything can happen at any time: a rank comes
to its next thing, looks at its page, begins, ends; a node looks, the lead hears of it later, the
answer comes later still or never; the lead restarts; time is up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import TypeVar

from singularity.agent.barrier import (
    MARGIN_FIRST,
    CutState,
    Dumped,
    Order,
    Verdict,
    View,
    give_up,
    react,
)
from singularity.agent.closure import Stand
from singularity.agent.interposer.deals import NOBODY, Deal
from singularity.agent.interposer.page import Clock
from singularity.primitives.nodes import NodeId
from tests.properties.barrier_world import can_reach

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Thing:
    """What a rank does next: its side of a deal, which it waits for or not; or, without one, the
    end of a mini-batch."""

    deal: Deal | None
    waits: bool = True


BATCH = Thing(None)


def meet(group: int, rank: int, *, waits: bool = True) -> Thing:
    return Thing(Deal(group, 0, rank, NOBODY), waits)


def message(group: int, source: int, target: int, *, waits: bool = True) -> Thing:
    return Thing(Deal(group, 0, source, target), waits)


class At(IntEnum):
    """Where in a thing a rank is: on the way to it; it has come and not yet looked at its page; it
    waits there; it has looked and will begin; it has begun."""

    AWAY = 0
    COME = 1
    HOLDING = 2
    PARKED = 3
    GOING = 4
    BEGUN = 5


@dataclass(frozen=True)
class Rank:
    """At the `done`-th thing of its program. `order` is what is on its page; `word` is on its way
    from its node to the lead, or back."""

    done: int = 0
    at: At = At.AWAY
    order: Order = Order()
    word: View | Order | None = None
    dumped: bool = False

    @property
    def count(self) -> int:
        return self.done + (self.at is not At.AWAY)

    @property
    def begun(self) -> int:
        return self.done + (self.at is At.BEGUN)


@dataclass(frozen=True)
class World:
    ranks: tuple[Rank, ...]
    order: Order = Order()  # the lead's, and what it has heard
    views: tuple[View | None, ...] = ()
    called: bool = False
    forgot: bool = False


Programs = tuple[tuple[Thing, ...], ...]


class Play:
    """One set of programs. `groups` are the members of each, by their ranks in it. Where words are
    `slow`, anything can happen while one is on its way."""

    def __init__(
        self, programs: Programs, groups: dict[int, tuple[int, ...]], *, slow: bool
    ) -> None:
        self.programs, self._groups, self._slow = programs, groups, slow
        self.names = tuple(NodeId(f"n{i}") for i in range(len(programs)))
        self._counts = lru_cache(maxsize=None)(self._counted)
        self._heard = lru_cache(maxsize=None)(self._hear)

    def start(self, *, restarts: bool = True) -> World:
        count = len(self.programs)
        return World((Rank(),) * count, views=(None,) * count, forgot=not restarts)

    def moves(self, world: World) -> Iterator[World]:
        for r in range(len(world.ranks)):
            for moved in self._of_rank(world, r):
                yield replace(world, ranks=_put(world.ranks, r, moved))
            yield from self._talk(world, r) if self._slow else self._talk_at_once(world, r)
        order = world.order
        if not world.called:
            cut = give_up(self._state(world.order, world.views), "time is up")
            yield replace(world, order=cut.order, called=True)
        if not world.forgot:
            kept = order if order.commit or order.verdict is not Verdict.GATHER else Order()
            yield replace(world, order=kept, views=(None,) * len(world.ranks), forgot=True)

    def _of_rank(self, world: World, r: int) -> Iterator[Rank]:
        rank, program = world.ranks[r], self.programs[r]
        stop, commit = rank.order.of(str(r))
        count = self._place(r, rank)
        match rank.at:
            case At.AWAY:
                if rank.done < len(program):
                    yield replace(rank, at=At.COME)
            case At.COME | At.HOLDING:
                if not 0 < stop <= count:
                    yield replace(rank, at=At.GOING)
                elif commit == count:
                    yield replace(rank, at=At.PARKED)
                elif rank.at is At.COME:
                    yield replace(rank, at=At.HOLDING)
            case At.GOING:
                yield replace(rank, at=At.BEGUN)
            case At.BEGUN:
                deal = program[rank.done].deal
                if deal is None or not program[rank.done].waits or self._met(world, r, deal):
                    yield replace(rank, done=rank.done + 1, at=At.AWAY)
            case At.PARKED:
                if not rank.dumped:
                    yield replace(rank, dumped=True)

    def _place(self, r: int, rank: Rank) -> int:
        """The number by which it may be held where it is: its own, or that of a mini-batch."""
        if rank.order.stops:
            return rank.count
        batch = rank.at is not At.AWAY and self.programs[r][rank.done].deal is None
        return self.steps(r, rank) if batch else 0

    def steps(self, r: int, rank: Rank) -> int:
        """Mini-batches whose end it has come to."""
        return sum(thing.deal is None for thing in self.programs[r][: rank.count])

    def _met(self, world: World, r: int, deal: Deal) -> bool:
        """Have all others begun what this rank has begun?"""
        return min(self.sides(world, deal).values()) >= self._begun(world, r, deal)

    def sides(self, world: World, deal: Deal) -> dict[int, int]:
        """Who takes part in it, and how many times each has begun it."""
        members = self._groups[deal.group]
        found = members if deal.collective else (members[deal.source], members[deal.target])
        return {m: self._begun(world, m, deal) for m in found}

    def _begun(self, world: World, r: int, deal: Deal) -> int:
        if deal.collective:
            deal = deal._replace(source=self._groups[deal.group].index(r))
        return dict(self._counts(r, world.ranks[r].begun)).get(deal, 0)

    def _counted(self, r: int, begun: int) -> tuple[tuple[Deal, int], ...]:
        found = {
            Deal(group, 0, members.index(r), NOBODY): 0
            for group, members in self._groups.items()
            if r in members
        }
        for thing in self.programs[r][:begun]:
            if thing.deal is not None:
                found[thing.deal] = found.get(thing.deal, 0) + 1
        return tuple(sorted(found.items()))

    def _talk(self, world: World, r: int) -> Iterator[World]:
        rank = world.ranks[r]
        if isinstance(rank.word, View):
            order = self._heard(world.order, world.views, rank.word)
            views = _put(world.views, r, rank.word)
            yield replace(
                world,
                order=order,
                views=views,
                ranks=_put(world.ranks, r, replace(rank, word=order)),
            )
        elif isinstance(rank.word, Order):
            lost = replace(rank, word=None)
            yield replace(world, ranks=_put(world.ranks, r, _obey(lost, rank.word)))
            yield replace(world, ranks=_put(world.ranks, r, lost))
        else:
            view = self._look(rank, r)
            if view != world.views[r] or world.order != rank.order:
                yield replace(world, ranks=_put(world.ranks, r, replace(rank, word=view)))

    def _talk_at_once(self, world: World, r: int) -> Iterator[World]:
        rank = world.ranks[r]
        view = self._look(rank, r)
        order = self._heard(world.order, world.views, view)
        heard = replace(world, order=order, views=_put(world.views, r, view))
        if heard != world:
            yield heard  # the answer is lost
        if order != rank.order:
            yield replace(heard, ranks=_put(world.ranks, r, _obey(rank, order)))

    def _look(self, rank: Rank, r: int) -> View:
        """As CutLoop does."""
        holding = rank.at in (At.HOLDING, At.PARKED)
        stand = Stand(str(r), rank.count, holding, self._counts(r, rank.begun))
        step = self.steps(r, rank)
        clock = Clock.STEPS if step else Clock.CROSSINGS if rank.count else Clock.NONE
        own, stop = bool(rank.order.stops), 0 if rank.order.stops else rank.order.stop
        told = clock is Clock.CROSSINGS or (clock is Clock.STEPS and own)
        return View(
            node=self.names[r],
            step=step,
            moment=step or rank.count,
            clock=int(clock),
            stands=(stand,) if told else (),
            agreed=stop if step < stop or (holding and step == stop) else 0,
            held=stop if clock is Clock.STEPS and holding and step == stop else 0,
            parked=step or rank.count if rank.at is At.PARKED else 0,
            dumped=Dumped.DURABLE if rank.dumped else Dumped.NOT_YET,
        )

    def _hear(self, order: Order, views: tuple[View | None, ...], view: View) -> Order:
        return react(self._state(order, views), view).order

    def _state(self, order: Order, views: tuple[View | None, ...]) -> CutState:
        known = {v.node: v for v in views if v is not None}
        return CutState(self.names, order, MARGIN_FIRST, known)

    # -- what must hold --------------------------------------------------------------------------

    def check(self, world: World) -> None:
        order = world.order
        if not order.commit:
            assert not any(rank.at is At.PARKED for rank in world.ranks), "parked uncommitted"
            return
        for r, rank in enumerate(world.ranks):
            here = rank.count if order.stops else self.steps(r, rank)
            assert here == order.of(str(r))[1], f"rank {r} is not where it was committed"
            assert rank.at in (At.HOLDING, At.PARKED), f"rank {r} went on past the cut"
            for thing in self.programs[r][: rank.begun]:
                if thing.deal is None:
                    continue
                sides = self.sides(world, thing.deal)
                assert len(set(sides.values())) == 1, f"{thing.deal} cannot be finished: {sides}"
        if order.verdict is Verdict.FINISH:
            assert all(rank.dumped for rank in world.ranks), "finished without an image"

    def at_rest(self, world: World) -> bool:
        """Decided, and everybody has heard: parked together, or nobody is held."""
        if world.order.verdict is Verdict.GATHER:
            return False
        if any(rank.order != world.order for rank in world.ranks):
            return False
        return not world.order.commit or all(rank.at is At.PARKED for rank in world.ranks)

    def ran_out(self, world: World) -> bool:
        """A program came to its end: no boundary is left to hold it at."""
        return any(r.done == len(p) for r, p in zip(world.ranks, self.programs, strict=True))


def _obey(rank: Rank, order: Order) -> Rank:
    """As CutLoop does: a lead that has only begun has nothing to say."""
    said = order.stop or order.verdict is not Verdict.GATHER
    return replace(rank, order=order) if said else rank


def _put(items: tuple[_Item, ...], at: int, item: _Item) -> tuple[_Item, ...]:
    return (*items[:at], item, *items[at + 1 :])


def everything(play: Play, *, restarts: bool) -> tuple[list[World], list[list[int]]]:
    """Every world that can come of the start, each of them checked; and for each the numbers of
    those that can come next."""
    start = play.start(restarts=restarts)
    numbers, worlds, after = {start: 0}, [start], list[list[int]]()
    while len(after) < len(worlds):
        here = worlds[len(after)]
        play.check(here)
        next_ones = []
        for move in play.moves(here):
            number = numbers.setdefault(move, len(worlds))
            if number == len(worlds):
                worlds.append(move)
            next_ones.append(number)
        after.append(next_ones)
    return worlds, after


def exhaust(play: Play, *, restarts: bool) -> None:
    """Whatever happens, ranks park where everything begun can be finished, or go on; a cut can
    succeed, and from everywhere it can come to an end."""
    worlds, after = everything(play, restarts=restarts)
    ends = [i for i, w in enumerate(worlds) if play.at_rest(w)]
    verdicts = {(worlds[i].order.verdict, bool(worlds[i].order.commit)) for i in ends}
    assert verdicts == {
        (Verdict.FINISH, True),
        (Verdict.ABORT, True),
        (Verdict.ABORT, False),
    }
    live = can_reach(ends, after)
    stuck = [w for i, w in enumerate(worlds) if i not in live and not play.ran_out(w)]
    assert not stuck, f"{len(stuck)} of {len(worlds)} states cannot come to rest: {stuck[0]}"
