"""A gang small enough to try everything that can happen to it during a cut.

Nodes with a rank or two, a lead on the first, and all that the outer world may do: steps and looks
in any order, messages whose answers are lost, a lead that restarts, a deadline, and one fault: a
dump that fails, a rank that ends, a node whose ranks all die and that never speaks again. A slow
rank or a node that is told late is nothing special here: every order is tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

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
from singularity.primitives.nodes import NodeId

LAST = 4  # the ranks' world ends at this step: enough for a stop that is missed once


@dataclass(frozen=True, order=True)
class Rank:
    """`seen`: the rank has published its step and not yet looked at its page. `sure`: its agent
    knows that it cannot be past the stop. `ended`: its program did, before it was parked."""

    step: int = 1
    seen: bool = False
    holding: bool = False
    parked: bool = False
    sure: bool = False
    ended: bool = False


@dataclass(frozen=True)
class Node:
    """`order` is what is on the pages. The ranks are sorted: which is which does not matter.
    `gone`: its ranks are dead and it never speaks again."""

    ranks: tuple[Rank, ...] = (Rank(),)
    order: Order = Order()
    dumped: Dumped = Dumped.NOT_YET
    gone: bool = False


@dataclass(frozen=True)
class World:
    nodes: tuple[Node, ...]
    lead: tuple[Order, int, tuple[View, ...]] = (Order(), MARGIN_FIRST, ())
    called: bool = False  # time was up
    forgot: bool = False  # the lead restarted
    faults: int = 0  # that may still happen

    @property
    def names(self) -> tuple[NodeId, ...]:
        return tuple(NodeId(f"n{i}") for i in range(len(self.nodes)))

    @property
    def ranks(self) -> tuple[Rank, ...]:
        return tuple(rank for node in self.nodes for rank in node.ranks)

    @property
    def order(self) -> Order:
        return self.lead[0]

    def state(self) -> CutState:
        order, margin, views = self.lead
        return CutState(self.names, order, margin, {v.node: v for v in views})


def world(*ranks: int, faults: int = 0, restarts: bool = True) -> World:
    """A node with so many ranks each."""
    nodes = tuple(Node(ranks=(Rank(),) * count) for count in ranks)
    return World(nodes=nodes, faults=faults, forgot=not restarts)


def slowest(world: World) -> int:
    return min((rank.step for rank in world.ranks if not rank.ended), default=LAST)


def moves(world: World) -> Iterator[World]:
    """Everything that can happen next. Worlds in which a stop lies beyond the ranks' last step
    are another world's story."""
    for move in (*rank_moves(world), *dumps(world), *talk(world), *misfortune(world)):
        if move != world and move.order.stop <= LAST:
            yield move


def rank_moves(world: World) -> Iterator[World]:
    """A rank completes a mini-batch, or looks at its page at a boundary."""
    for n, node in enumerate(world.nodes):
        if node.gone:
            continue
        for r, rank in enumerate(node.ranks):
            if rank.ended:
                continue
            if rank.seen or rank.holding:
                moved = look(rank, node.order)
            elif rank.step < LAST and rank.step == slowest(world):  # collectives: in step
                moved = replace(rank, step=rank.step + 1, seen=True)
            else:
                continue
            if moved != rank:
                ranks = (*node.ranks[:r], moved, *node.ranks[r + 1 :])
                yield put(world, n, replace(node, ranks=ranks))


def look(rank: Rank, order: Order) -> Rank:
    """What the interposer does at a boundary."""
    if rank.parked or not order.stop or rank.step < order.stop:
        return rank if rank.parked else replace(rank, seen=False, holding=False)
    if order.commit == rank.step:
        return replace(rank, seen=False, holding=True, parked=True)
    return replace(rank, seen=False, holding=True)


def dumps(world: World) -> Iterator[World]:
    """A node whose ranks are all parked has dumped them, or could not."""
    for n, node in enumerate(world.nodes):
        if node.gone or node.dumped is not Dumped.NOT_YET:
            continue
        if all(rank.parked for rank in node.ranks):
            yield put(world, n, replace(node, dumped=Dumped.DURABLE))
            if world.faults:
                failed = put(world, n, replace(node, dumped=Dumped.FAILED))
                yield replace(failed, faults=world.faults - 1)


def view_of(world: World, n: int) -> tuple[Node, View]:
    """What a node's agent sees of its pages, as CutLoop does."""
    node = world.nodes[n]
    stop = node.order.stop
    ranks = tuple(replace(rank, sure=rank.sure or at_stop(rank, stop)) for rank in node.ranks)
    parked = node.ranks[0].step if all(rank.parked for rank in node.ranks) else 0
    held = bool(stop) and all(rank.holding and rank.step == stop for rank in node.ranks)
    ended = any(rank.ended for rank in node.ranks)
    node = replace(node, ranks=ranks)
    view = View(
        node=world.names[n],
        step=max(rank.step for rank in node.ranks),
        agreed=stop if all(rank.sure for rank in ranks) else 0,
        held=stop if held else 0,
        parked=parked,
        dumped=Dumped.FAILED if ended else node.dumped,
    )
    return node, view


def at_stop(rank: Rank, stop: int) -> bool:
    return rank.step < stop or (rank.step == stop and rank.holding)


def talk(world: World) -> Iterator[World]:
    """A node looks, the lead hears, and the answer arrives or is lost."""
    for n, before in enumerate(world.nodes):
        if before.gone:
            continue
        node, view = view_of(world, n)
        heard = react(world.state(), view)
        check_aim(world.state(), heard)
        after = remember(put(world, n, node), heard)
        yield after  # the answer is lost
        if not heard.order.stop and heard.order.verdict is Verdict.GATHER:
            continue  # the lead has only begun; what it said in an earlier life stands
        fresh = (node.order.stop, node.order.commit) != (heard.order.stop, heard.order.commit)
        ranks = tuple(replace(r, sure=r.sure and not fresh) for r in node.ranks)
        yield put(after, n, replace(node, order=heard.order, ranks=ranks))


def check_aim(before: CutState, after: CutState) -> None:
    """A stop is two mini-batches ahead of all, or further only when a rank had run past one."""
    if after.order.stop == before.order.stop or after.order.commit:
        return
    furthest = max(view.step for view in after.views.values())
    if not before.order.stop:
        assert after.order.stop == furthest + MARGIN_FIRST
    else:
        assert furthest >= before.order.stop, "a stop that nobody has reached is not moved"


def misfortune(world: World) -> Iterator[World]:
    """The lead restarts with what is on its disk, or time is up, or something breaks."""
    order = world.order
    kept = order if order.commit or order.verdict is not Verdict.GATHER else Order()
    if not world.forgot:
        yield replace(world, lead=(kept, MARGIN_FIRST, ()), forgot=True)
    if not world.called:
        yield replace(remember(world, give_up(world.state(), "time is up")), called=True)
    if not world.faults:
        return
    for n, node in enumerate(world.nodes):
        if node.gone:
            continue
        yield replace(put(world, n, replace(node, gone=True)), faults=world.faults - 1)
        for r, rank in enumerate(node.ranks):
            if not rank.parked:
                ended = replace(rank, ended=True, holding=False, seen=False)
                ranks = (*node.ranks[:r], ended, *node.ranks[r + 1 :])
                yield replace(put(world, n, replace(node, ranks=ranks)), faults=world.faults - 1)


def remember(world: World, cut: CutState) -> World:
    views = tuple(cut.views[n] for n in world.names if n in cut.views)
    return replace(world, lead=(cut.order, cut.margin, views))


def put(world: World, n: int, node: Node) -> World:
    node = replace(node, ranks=tuple(sorted(node.ranks)))
    return replace(world, nodes=(*world.nodes[:n], node, *world.nodes[n + 1 :]))


def check(world: World) -> None:
    """What must hold in every world."""
    parked = {rank.step for rank in world.ranks if rank.parked}
    assert len(parked) <= 1, f"parked at {parked}"
    if parked:
        (step,) = parked
        assert all(rank.step <= step for rank in world.ranks), f"a rank ran past the cut at {step}"
    if world.order.verdict is Verdict.FINISH:
        assert all(rank.parked for rank in world.ranks), "finished before everybody was parked"
        assert all(n.dumped is Dumped.DURABLE for n in world.nodes), "finished without an image"


def at_rest(world: World) -> bool:
    """Decided, and everybody who lives has heard: parked together, or nobody is held."""
    alive = [node for node in world.nodes if not node.gone]
    orders = {node.order for node in alive} | {world.order}
    if len(orders) > 1 or world.order.verdict is Verdict.GATHER:
        return False
    ranks = [rank for node in alive for rank in node.ranks if not rank.ended]
    if world.order.commit:
        return all(rank.parked for rank in ranks)
    return not any(rank.parked for rank in ranks)


def ran_out(world: World) -> bool:
    """Its ranks can no longer reach the boundary at which they would be held."""
    stops = [node.order.stop for node in world.nodes] + [world.order.stop]
    return any(stop >= LAST for stop in stops) or slowest(world) == LAST


def explore(start: World) -> tuple[list[World], list[list[int]]]:
    """Every world that can come of `start`, each of them checked; and for each the numbers of
    those that can come next."""
    numbers, worlds, after = {start: 0}, [start], list[list[int]]()
    while len(after) < len(worlds):
        here = worlds[len(after)]
        check(here)
        next_ones = []
        for move in moves(here):
            number = numbers.setdefault(move, len(worlds))
            if number == len(worlds):
                worlds.append(move)
            next_ones.append(number)
        after.append(next_ones)
    return worlds, after


def can_reach(ends: Iterable[int], after: Sequence[Sequence[int]]) -> set[int]:
    """Numbers of the worlds from which one of `ends` can still come."""
    before: list[list[int]] = [[] for _ in after]
    for number, next_ones in enumerate(after):
        for move in next_ones:
            before[move].append(number)
    live = set(ends)
    todo = list(live)
    while todo:
        for number in before[todo.pop()]:
            if number not in live:
                live.add(number)
                todo.append(number)
    return live
