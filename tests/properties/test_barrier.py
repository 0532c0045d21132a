"""The cut between two nodes: every order of steps, looks, messages, lost answers, a lead that
restarts and a deadline. Ranks never park at different steps, none runs past a committed stop, and
from every state the cut can still come to rest. All of it with a rank on each node; with two, at
random."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.agent.barrier import CutState, Dumped, Order, Verdict, View, give_up, react
from singularity.primitives.model import NodeId

NODES = (NodeId("n0"), NodeId("n1"))
LAST = 4  # the ranks' world ends at this step: enough for a stop that is missed once


@dataclass(frozen=True, order=True)
class Rank:
    """`seen`: the rank has published its step and not yet looked at its page. `sure`: its agent
    knows that it cannot be past the stop."""

    step: int = 1
    seen: bool = False
    holding: bool = False
    parked: bool = False
    sure: bool = False


@dataclass(frozen=True)
class Node:
    """`order` is what is on the pages. The ranks are sorted: which is which does not matter."""

    ranks: tuple[Rank, ...] = (Rank(),)
    order: Order = Order()
    dumped: Dumped = Dumped.NOT_YET


@dataclass(frozen=True)
class World:
    nodes: tuple[Node, Node] = (Node(), Node())
    lead: tuple[Order, int, tuple[View, ...]] = (Order(), 2, ())
    called: bool = False  # time was up
    forgot: bool = False  # the lead restarted

    def state(self) -> CutState:
        order, margin, views = self.lead
        return CutState(NODES, order, margin, {v.node: v for v in views})


def slowest(world: World) -> int:
    return min(rank.step for node in world.nodes for rank in node.ranks)


def rank_moves(world: World) -> Iterator[World]:
    """A rank completes a mini-batch, or looks at its page at a boundary."""
    for n, node in enumerate(world.nodes):
        for r, rank in enumerate(node.ranks):
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


def view_of(world: World, n: int) -> tuple[Node, View]:
    """What a node's agent sees of its pages, as CutLoop does."""
    node = world.nodes[n]
    stop = node.order.stop
    ranks = tuple(replace(rank, sure=rank.sure or at_stop(rank, stop)) for rank in node.ranks)
    parked = node.ranks[0].step if all(rank.parked for rank in node.ranks) else 0
    held = bool(stop) and all(rank.holding and rank.step == stop for rank in node.ranks)
    dumped = Dumped.DURABLE if parked else node.dumped
    node = replace(node, ranks=ranks, dumped=dumped)
    view = View(
        node=NODES[n],
        step=max(rank.step for rank in node.ranks),
        agreed=stop if all(rank.sure for rank in ranks) else 0,
        held=stop if held else 0,
        parked=parked,
        dumped=dumped,
    )
    return node, view


def at_stop(rank: Rank, stop: int) -> bool:
    return rank.step < stop or (rank.step == stop and rank.holding)


def talk(world: World) -> Iterator[World]:
    """A node looks, the lead hears, and the answer arrives or is lost."""
    for n in range(len(NODES)):
        node, view = view_of(world, n)
        heard = react(world.state(), view)
        after = remember(put(world, n, node), heard)
        yield after  # the answer is lost
        fresh = node.order.stop != heard.order.stop or node.order.commit != heard.order.commit
        ranks = tuple(replace(r, sure=r.sure and not fresh) for r in node.ranks)
        yield put(after, n, replace(node, order=heard.order, ranks=ranks))


def misfortune(world: World) -> Iterator[World]:
    """The lead restarts with what is on its disk, or time is up."""
    order, _, _ = world.lead
    kept = order if order.commit or order.verdict is not Verdict.GATHER else Order()
    if not world.forgot:
        yield replace(world, lead=(kept, 2, ()), forgot=True)
    if not world.called:
        yield replace(remember(world, give_up(world.state(), "time is up")), called=True)


def remember(world: World, cut: CutState) -> World:
    views = tuple(cut.views[n] for n in NODES if n in cut.views)
    return replace(world, lead=(cut.order, cut.margin, views))


def put(world: World, n: int, node: Node) -> World:
    node = replace(node, ranks=tuple(sorted(node.ranks)))
    nodes = tuple(node if i == n else old for i, old in enumerate(world.nodes))
    return replace(world, nodes=nodes)  # type: ignore[arg-type]


def check(world: World) -> None:
    ranks = [rank for node in world.nodes for rank in node.ranks]
    parked = {rank.step for rank in ranks if rank.parked}
    assert len(parked) <= 1, f"parked at {parked}"
    if parked:
        (step,) = parked
        assert all(rank.step <= step for rank in ranks), f"a rank ran past the cut at {step}"
    order, _, _ = world.lead
    if order.verdict is Verdict.FINISH:
        assert all(rank.parked for rank in ranks), "finished before everybody was parked"


def at_rest(world: World) -> bool:
    """Decided, and everybody has heard: parked together, or nobody is held."""
    orders = {node.order for node in world.nodes} | {world.lead[0]}
    if len(orders) > 1 or world.lead[0].verdict is Verdict.GATHER:
        return False
    ranks = [rank for node in world.nodes for rank in node.ranks]
    return (
        all(r.parked for r in ranks) if world.lead[0].commit else not any(r.parked for r in ranks)
    )


def test_every_order_of_events_is_safe_and_can_still_end() -> None:
    start = World()
    after: dict[World, list[World]] = {}
    todo = [start]
    while todo:
        world = todo.pop()
        if world in after:
            continue
        check(world)
        moves = [*rank_moves(world), *talk(world), *misfortune(world)]
        after[world] = [m for m in moves if m != world and bounded(m)]
        todo += after[world]
    ends = {w for w in after if at_rest(w)}
    verdicts = {(w.lead[0].verdict, bool(w.lead[0].commit)) for w in ends}
    assert (Verdict.FINISH, True) in verdicts, "a cut can succeed"
    assert (Verdict.ABORT, False) in verdicts, "a cut can be called off before its commit"
    assert (Verdict.ABORT, True) in verdicts, "and after it"
    before: dict[World, list[World]] = {}
    for world, moves in after.items():
        for move in moves:
            before.setdefault(move, []).append(world)
    live, todo = set(ends), list(ends)
    while todo:
        for world in before.get(todo.pop(), []):
            if world not in live:
                live.add(world)
                todo.append(world)
    stuck = [w for w in after if w not in live and not ran_out(w)]
    assert not stuck, f"{len(stuck)} of {len(after)} states cannot come to rest: {stuck[0]}"


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_two_ranks_a_node_are_safe_in_whatever_order(seed: int) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    two = Node(ranks=(Rank(), Rank()))
    world = World(nodes=(two, two))
    for _ in range(400):
        check(world)
        moves = [*rank_moves(world), *talk(world), *misfortune(world)]
        world = moves[int(rng.integers(len(moves)))]


def bounded(world: World) -> bool:
    """Stops beyond the ranks' last step are another world's story."""
    return world.lead[0].stop <= LAST


def ran_out(world: World) -> bool:
    """Its ranks can no longer reach the boundary at which they would be held."""
    stops = [node.order.stop for node in world.nodes] + [world.lead[0].stop]
    return any(stop >= LAST for stop in stops) or slowest(world) == LAST
