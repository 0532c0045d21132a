"""Laws of the device scheduler, under any interleaving of what clients ask and devices do."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.agent.device import events, reef
from singularity.agent.device.kernels import RT, Caps, Footprint, Kernel, Level, QueueId
from singularity.agent.device.padding import Candidate, choose, fused, occupancy
from singularity.agent.device.queues import Gate
from tests.properties.device_world import World

KERNELS = st.builds(
    Kernel,
    name=st.sampled_from("kl"),
    blocks=st.integers(1, 9),
    us=st.sampled_from([10.0, 50.0, 200.0]),
    wave_us=st.sampled_from([(), (8.0,), (20.0, 30.0), (60.0, 80.0, 120.0)]),
    footprint=st.sampled_from([Footprint(), Footprint(threads=1024, registers=32768)]),
    idempotent=st.booleans(),
    collective=st.sampled_from([False, False, False, True]),
)
TASKS = st.lists(KERNELS, min_size=1, max_size=6).map(tuple)
CAPS = st.sampled_from(
    [
        Caps(4, Level.PENDING),
        Caps(4, Level.INFLIGHT, stall=True),
        Caps(4, Level.INFLIGHT, flush=True, pad=True),
        Caps(4, Level.INFLIGHT, stall=True, pad=True),
        Caps(4, Level.INFLIGHT, flush=True, pad=True, fuse=True),
        Caps(4, Level.INFLIGHT, stall=True, pad=True, fuse=True),
        Caps(4, Level.RUNNING, flush=True, pad=True),
        Caps(4, Level.RUNNING, stall=True, pad=True),
    ]
)
# What happens next: a real-time task, a best-effort one, or the device moves so many times.
DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("rt"), TASKS),
        st.tuples(st.integers(1, 3), TASKS),
        st.tuples(st.just("moves"), st.integers(1, 12)),
        st.tuples(st.just("attach"), TASKS),
    ),
    max_size=30,
)
SEEDS = st.integers(0, 1 << 32)  # of what the device does, where it has a choice


def lives(world: World, deeds: list[tuple[object, object]]) -> None:
    """Carry out the deeds, then let the device run dry; laws hold at every moment."""
    queues = [world.attach() for _ in range(3)]
    for what, with_ in deeds:
        if what == "moves":
            for _ in range(with_):  # type: ignore[call-overload]
                world.step()
                check(world)
        elif what == "attach":
            world.submit(world.attach(), with_)  # type: ignore[arg-type]
            check(world)
        else:
            world.submit(RT if what == "rt" else queues[what - 1], with_)  # type: ignore
            check(world)
    steps = 0
    while world.step():
        check(world)
        steps += 1
        assert steps < 100_000, "it never comes to an end"


def check(world: World) -> None:
    state = world.state
    rt, *be = state.lanes
    if rt.tasks:
        assert state.mode is not reef.Mode.NORMAL, "real-time work was not let in"
        closing = [lane for lane in be if lane.gate is Gate.CLOSING]
        if state.mode is reef.Mode.PREEMPTING:
            assert closing, "it waits for nobody"
            assert not any(world.streams[lane.queue].told for lane in closing)
        else:
            assert rt.depth > 0, "it has the device and does not use it"
    else:
        assert state.mode is reef.Mode.NORMAL, "nobody uses the device"
        for lane in be:
            assert not lane.tasks or lane.depth > 0, "a queue starves"
    for lane in be:
        assert lane.depth <= max(state.policy.window, len(state.pads) + 1)
    assert not world.begun_late, "best-effort work began while real-time work had the device"


@given(CAPS, st.booleans(), st.integers(1, 4), DEEDS, SEEDS)
@settings(max_examples=400, deadline=None)
def test_every_block_runs_exactly_once(
    caps: Caps,
    yields: bool,
    window: int,
    deeds: list[tuple[object, object]],
    seed: int,
) -> None:
    """With resets, a block may be begun again, but only of a kernel that allows it (the world
    checks), and it still ends once."""
    world = World(caps, Random(seed).randrange, reef.Policy(window=window), yields)
    lives(world, deeds)
    assert world.ran == Counter(world.wanted)
    assert sorted(world.finished) == list(range(1, world.tasks + 1))
    if caps.levels < Level.RUNNING:
        assert not world.again
    lost = sum(lane.account.again_blocks for lane in world.state.lanes)
    assert lost == sum(world.again.values()), "what best-effort work lost is in the books"


@given(CAPS, st.integers(1, 4), DEEDS, SEEDS)
@settings(max_examples=100, deadline=None)
def test_a_device_without_levels_two_or_three_lets_few_launches_pass(
    caps: Caps, window: int, deeds: list[tuple[object, object]], seed: int
) -> None:
    """What real-time work waits for is what was on the device: at most the window of each queue."""
    world = World(
        caps, Random(seed).randrange, reef.Policy(window=window, level=Level.PENDING), False
    )
    lives(world, deeds)
    assert world.ran == Counter(world.wanted)
    assert not world.again and sum(lane.account.torn for lane in world.state.lanes) == 0


@given(st.sampled_from(list(reef.Sharing)), DEEDS, SEEDS)
@settings(max_examples=100, deadline=None)
def test_tasks_of_a_queue_end_in_their_order_however_the_device_is_shared(
    sharing: reef.Sharing, deeds: list[tuple[object, object]], seed: int
) -> None:
    caps = Caps(4, Level.INFLIGHT, stall=True)
    world = World(caps, Random(seed).randrange, reef.Policy(sharing=sharing))
    queues = [world.attach() for _ in range(3)]
    owner = {}
    for what, with_ in deeds:
        if what == "moves":
            for _ in range(with_):  # type: ignore[call-overload]
                world.step()
        elif what != "attach":
            queue = RT if what == "rt" else queues[what - 1]  # type: ignore[operator]
            owner[world.submit(queue, with_)] = queue  # type: ignore[arg-type]
    while world.step():
        pass
    for queue in (RT, *queues):
        mine = [task for task in world.finished if owner[task] == queue]
        assert mine == sorted(mine)
    assert world.ran == Counter(world.wanted)


@given(KERNELS, st.lists(st.tuples(KERNELS, st.integers(1, 9)), max_size=4), st.integers(1, 12))
def test_padding_costs_the_real_time_kernel_neither_occupancy_nor_time(
    rt: Kernel, others: list[tuple[Kernel, int]], units: int
) -> None:
    candidates = [
        Candidate(QueueId(n + 1), kernel, left) for n, (kernel, left) in enumerate(others)
    ]
    padding = choose(rt, candidates, units)
    if padding is None:
        return
    chosen = candidates[padding.queue - 1]
    layers = -(-rt.blocks // units)
    both = occupancy(fused(rt.footprint, chosen.kernel.footprint))
    assert both >= min(layers, occupancy(rt.footprint))
    assert any(us <= rt.us for us in chosen.kernel.wave_us[:both])
    assert 1 <= padding.blocks <= chosen.left
    assert units > -(-rt.blocks // layers), "there were free units"


def test_a_queue_that_goes_takes_its_claims_along() -> None:
    """A best-effort process that dies while its queue is being stopped does not hold up anybody."""
    world = World(Caps(4, Level.INFLIGHT, stall=True), lambda n: 0)
    queue = world.attach()
    world.submit(queue, (Kernel("be", blocks=4, us=1e6),))
    world.step()
    world.submit(RT, (Kernel("rt"),))
    assert world.state.mode is reef.Mode.PREEMPTING
    del world.streams[queue]
    world.tell(events.Detach(world.now_ns, queue))
    assert world.state.mode is reef.Mode.RT and world.state.lanes[0].depth == 1


def test_a_torn_kernel_is_whole_before_what_is_frozen_behind_it_runs() -> None:
    world = World(Caps(4, Level.INFLIGHT, stall=True), lambda n: n - 1, yields=True)
    queue = world.attach()
    world.submit(queue, (Kernel("one", blocks=4), Kernel("two", blocks=4)))
    world.step()
    world.submit(RT, (Kernel("rt"),))
    world.step()  # the device tears the first kernel after three blocks
    assert world.state.lanes[1].torn and world.state.lanes[1].blocks == 3
    while world.state.mode is not reef.Mode.NORMAL:
        world.step()
    assert world.state.lanes[1].gate is Gate.MENDING
    assert world.streams[queue].mending is not None and world.streams[queue].closed
    while world.step():
        pass
    assert set(world.ran.values()) == {1} and len(world.ran) == 9


def test_a_rest_that_has_not_begun_comes_back_when_real_time_work_comes_again() -> None:
    world = World(Caps(4, Level.INFLIGHT, stall=True), lambda n: n - 1, yields=True)
    queue = world.attach()
    world.submit(queue, (Kernel("one", blocks=4), Kernel("two", blocks=4)))
    world.step()
    world.submit(RT, (Kernel("rt"),))
    while world.state.mode is not reef.Mode.NORMAL:
        world.step()
    world.submit(RT, (Kernel("rt"),))
    while world.step():
        check(world)
    assert world.state.lanes[1].account.torn == 2
    assert world.ran == Counter(world.wanted)


def test_nobody_is_frozen_in_a_collective() -> None:
    world = World(Caps(4, Level.RUNNING, stall=True), lambda n: 0)
    queue = world.attach()
    world.submit(queue, (Kernel("matmul", blocks=4), Kernel("all_reduce", collective=True)))
    world.step()
    world.submit(RT, (Kernel("rt"),))
    stream = world.streams[queue]
    assert stream.held and not stream.closed, "what is under way runs to its end"
