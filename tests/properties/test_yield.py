"""Torn grids under any interleaving: blocks, the stream, who raises the flags, and the gate.

The kernel is the real one, prologue and all, stepped by single accesses to memory. Whoever raises
flags and repairs does what shim/yield.c does, in the same order, and may be held up between any two
of its steps.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.agent.device.prologue import ARENA, BITMAP, inject
from tests.standin.ptx_machine import THREADS, Code, Machine

CODE = Code(
    inject(
        ".version 8.0\n.target sm_80\n.address_size 64\n"
        ".visible .entry counts(.param .u64 counts_p0)\n{\n\t.reg .b64 %rd<2>;\n"
        "\tld.param.u64 %rd0, [counts_p0];\n"
        "\tred.relaxed.gpu.global.add.u32 [%rd0], 1;\n\tret;\n}\n"
    ).text
)
CONTROL = ARENA
FLAG, TORN, BITS = CONTROL, CONTROL + 4, CONTROL + BITMAP
LEAVE, REPAIR, BACK = 1, 2, 3


@dataclass
class Device:
    """One stream, a second one for repairs, and so many units that a block occupies."""

    grids: tuple[tuple[int, int, int], ...]
    units: int
    machine: Machine = field(default_factory=Machine)
    begun: int = 0
    ended: int = 0
    gate: bool = False
    early: bool = False
    running: list[Iterator[None]] = field(default_factory=list)
    repairing: list[Iterator[None]] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)  # blocks of the launch at work
    again: list[int] = field(default_factory=list)  # blocks of the repair

    def front(self) -> None:
        """The stream: a gate, begun, the kernel, ended, and a wait until nothing is torn."""
        if self.begun == self.ended:
            torn = self.machine.words.get(TORN, 0)
            if self.gate or torn or self.begun == len(self.grids):
                return
            self.early |= self.begun > 0 and not self.whole(self.begun)
            self.begun += 1
            self.waiting = list(range(self.blocks(self.begun)))
        if not self.waiting and not self.running:
            self.ended = self.begun

    def dispatch(self) -> None:
        if len(self.running) + len(self.repairing) >= self.units:
            return
        if self.again:
            self.repairing.append(self.block(self.ended, self.again.pop(0)))
        elif self.waiting:
            self.running.append(self.block(self.begun, self.waiting.pop(0)))

    def step(self, which: int) -> None:
        """Step a block at work; one that is over leaves its unit."""
        at_work = [(lane, it) for lane in (self.running, self.repairing) for it in lane]
        if at_work:
            lane, block = at_work[which % len(at_work)]
            if next(block, 1):
                lane.remove(block)

    def block(self, launch: int, number: int) -> Iterator[None]:
        given = {"p0": 0, "ticket": CONTROL + launch, "launch": launch}
        return self.machine.block(CODE, self.grids[launch - 1], number, given)

    def blocks(self, launch: int) -> int:
        x, y, z = self.grids[launch - 1]
        return x * y * z

    def whole(self, launch: int) -> bool:
        threads = [(launch, b, t) for b in range(self.blocks(launch)) for t in range(THREADS)]
        return all(self.machine.ran[thread] == 1 for thread in threads)

    def left(self) -> bool:
        return any(self.machine.words.get(BITS + 4 * i, 0) for i in range(4))


@dataclass
class Hand:
    """shim/yield.c, watch(). What it orders is done by a stream of its own, some time later."""

    device: Device
    flag: int = 0
    orders: list[tuple[int, int]] = field(default_factory=list)

    def done(self) -> None:
        """The stream of orders takes a step."""
        if self.orders:
            at, value = self.orders.pop(0)
            self.device.machine.words[at] = value

    def set_flag(self, flag: int) -> None:
        if flag != self.flag:
            self.flag = flag
            self.orders.append((FLAG, flag))

    def ordered(self) -> Iterator[None]:
        while self.orders:
            yield

    def watch(self) -> Iterator[None]:
        """Yields wherever it may be held up."""
        device, suspect = self.device, False
        while True:
            while not device.gate:
                yield
            while device.gate:
                want = LEAVE if device.begun != device.ended else 0
                yield
                if want != self.flag:
                    self.set_flag(want)
                    suspect = True
                    yield from self.ordered()
                yield
            self.set_flag(0)
            yield from self.ordered()
            due = device.begun
            while suspect and not device.gate:
                yield
                if device.ended >= due:
                    yield from self.ordered()
                    suspect = bool(device.machine.words.get(TORN, 0))
                    if suspect:
                        suspect = yield from self.mend()

    def mend(self) -> Generator[None, None, bool]:
        """Whether blocks are left."""
        device = self.device
        self.set_flag(REPAIR)
        yield from self.ordered()
        device.again = list(range(device.blocks(device.ended)))
        while device.again or device.repairing:
            if device.gate:
                self.set_flag(BACK)
            yield
        yield from self.ordered()
        left = device.left()
        self.set_flag(0)
        if not left:
            self.orders.append((TORN, 0))
        yield from self.ordered()
        return left


@given(
    grids=st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=4
    ),
    units=st.integers(1, 6),
    moves=st.lists(st.tuples(st.sampled_from("gghdo"), st.integers(1, 40)), max_size=40),
)
@settings(max_examples=300, deadline=None)
def test_each_block_runs_once_and_nothing_behind_a_torn_grid_begins(
    grids: list[tuple[int, int, int]], units: int, moves: list[tuple[str, int]]
) -> None:
    device = Device(tuple(grids), units)
    hand = Hand(device)
    thread = hand.watch()
    for move, times in moves:
        device.gate ^= move == "g"
        for turn in range(times):
            if move in "gd":  # the device goes on; with g, the thread too
                device.front()
                device.dispatch()
                device.step(turn)
            if move in "gh":
                next(thread)
            if move in "go":
                hand.done()
    device.gate = False
    for _ in range(20_000):
        device.front()
        device.dispatch()
        device.step(0)
        next(thread)
        hand.done()
        if device.ended == len(grids) and not device.machine.words.get(TORN, 0):
            break
    assert device.ended == len(grids), "it goes on"
    assert all(device.whole(launch) for launch in range(1, len(grids) + 1))
    assert not device.early
