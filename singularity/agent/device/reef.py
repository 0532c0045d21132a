"""The REEF scheduler of one device: events in, effects out. No clock, no I/O, nothing blocks.

One real-time queue and any number of best-effort queues, each bound to a stream of the device. In
normal mode every best-effort queue has a few launches there. Real-time work asks for the device:
nothing more is launched (the host queue), what was launched is frozen or handed back (the device
queue), and what runs is reset where that is allowed and possible. When all streams are quiet it
runs alone, or with best-effort blocks padded into the units it leaves free. When the last
real-time task is done, every queue goes on exactly where it stood.

Blocks are never forgotten nor, without a reset, run twice: a queue remembers how many blocks of
the kernel at its head have run, whoever ran them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from .events import (
    Attach,
    Completed,
    Deactivate,
    Detach,
    Effect,
    Event,
    Evicted,
    Finished,
    Fuse,
    Fused,
    Hold,
    Interrupt,
    Preempted,
    Quiesced,
    Reactivate,
    Report,
    Restore,
    Start,
    StartPadded,
    Submit,
    Torn,
)
from .kernels import RT, Caps, Footprint, Kernel, Level, QueueId
from .padding import Candidate, choose, larger
from .queues import Gate, Lane

_PADDED_DEPTH: Final = 2  # real-time kernels ahead; more would choose padding too early
_UNBOUNDED: Final = 1 << 30


Pair = tuple[str, str]  # real-time and best-effort kernel


class Mode(StrEnum):
    NORMAL = "normal"
    PREEMPTING = "preempting"  # real-time work waits until the streams are quiet
    RT = "rt"


class Sharing(StrEnum):
    PREEMPT = "preempt"
    STREAMS = "streams"  # everything is launched at once; the device sorts it out
    TURNS = "turns"  # whole tasks one after the other, real-time first


@dataclass(frozen=True, slots=True)
class Policy:
    """`window` launches of one queue are on the device at most (REEF: 2 to 4 keep it busy).
    `level` bounds how far work is taken back, `padding` allows to put some beside."""

    sharing: Sharing = Sharing.PREEMPT
    window: int = 4
    level: Level = Level.RUNNING
    padding: bool = True


@dataclass(frozen=True, slots=True)
class Pad:
    """Best-effort blocks under way beside kernel `index` of the real-time task at work."""

    index: int
    queue: QueueId
    whole: bool


@dataclass(frozen=True, slots=True)
class State:
    """`lanes[0]` is the real-time queue; `turn` is the best-effort lane that is asked first;
    `attached` the number of queues there ever were: numbers are not used twice. `pairs` are the
    kernels, by name, that were asked to be fused, and what came of it."""

    caps: Caps
    policy: Policy = Policy()
    mode: Mode = Mode.NORMAL
    lanes: tuple[Lane, ...] = (Lane(RT),)
    turn: int = 0
    attached: int = 0
    pads: tuple[Pad, ...] = ()
    asked_ns: int = 0
    pairs: Mapping[Pair, Footprint | None] = field(default_factory=dict)


def react(state: State, event: Event) -> tuple[State, tuple[Effect, ...], tuple[Report, ...]]:
    """Fold one event in. Effects are to be performed in their order; their answers are events.

    An event about a task that is no longer at work is ignored: it belongs to a queue that went.
    """
    desk = _Desk(state, event.at_ns)
    desk.take(event)
    desk.kick()
    return desk.state(), tuple(desk.effects), tuple(desk.reports)


@dataclass(slots=True)
class _Desk:
    """One event's work on a state."""

    before: State
    now_ns: int
    effects: list[Effect] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    lanes: dict[QueueId, Lane] = field(init=False)
    mode: Mode = field(init=False)
    turn: int = field(init=False)
    attached: int = field(init=False)
    pads: tuple[Pad, ...] = field(init=False)
    asked_ns: int = field(init=False)
    pairs: dict[Pair, Footprint | None] = field(init=False)

    def __post_init__(self) -> None:
        state = self.before
        self.lanes = {lane.queue: lane for lane in state.lanes}
        self.mode, self.turn, self.attached = state.mode, state.turn, state.attached
        self.pads, self.asked_ns = state.pads, state.asked_ns
        self.pairs = dict(state.pairs)

    def state(self) -> State:
        return State(
            self.before.caps,
            self.before.policy,
            self.mode,
            tuple(self.lanes.values()),
            self.turn,
            self.attached,
            self.pads,
            self.asked_ns,
            self.pairs,
        )

    # -- what the event says ---------------------------------------------------------------------

    def take(self, event: Event) -> None:
        match event:
            case Attach():
                self.attached += 1
                gate = Gate.OPEN if self.mode is Mode.NORMAL else Gate.PARKED
                queue = QueueId(self.attached)
                self.lanes[queue] = Lane(queue, gate=gate, closed_ns=self.now_ns)
            case Detach():
                self.lanes.pop(event.queue, None)
                self.pads = tuple(p for p in self.pads if p.queue != event.queue)
                self._quiet_yet()
            case Submit():
                lane = self.lanes[event.queue]
                assert event.task.kernels, "a task has at least one kernel"
                self.lanes[event.queue] = replace(lane, tasks=(*lane.tasks, event.task))
            case Completed() | Torn() | Evicted():
                self._launch_ended(event)
            case Fused(rt=rt, be=be, footprint=footprint):
                self.pairs[rt, be] = footprint
            case Quiesced():
                lane = self.lanes.get(event.queue, self.lanes[RT])
                if lane.gate is Gate.CLOSING:
                    self.lanes[lane.queue] = lane.settle()
                    self._quiet_yet()

    def _launch_ended(self, event: Completed | Torn | Evicted) -> None:
        lane = self.lanes.get(event.queue)
        if lane is None or not lane.tasks or lane.tasks[0].id != event.task:
            return
        match event:
            case Completed():
                assert event.index == lane.done, "launches of one stream end in their order"
                mended = lane.gate is Gate.MENDING
                self._complete(lane)
                if mended:
                    self._open(self.lanes[lane.queue])
                if lane.queue == RT:
                    self._credit(event.index)
            case Torn(ran=ran, again=again):
                assert event.index == lane.done, "only what runs can be torn"
                self.lanes[lane.queue] = lane.tear(ran, again)
            case Evicted():
                self.lanes[lane.queue] = lane.evict(event.index)

    def _complete(self, lane: Lane) -> None:
        self.lanes[lane.queue], task = lane.complete()
        if task is not None:
            done = Finished(lane.queue, task.id, task.submitted_ns, self.now_ns)
            self.reports.append(done)

    def _credit(self, index: int) -> None:
        """What was padded beside this real-time kernel has run too."""
        while self.pads and self.pads[0].index == index:
            pad, self.pads = self.pads[0], self.pads[1:]
            if pad.whole:
                blocks = self.lanes[pad.queue].blocks  # of the kernel after this one
                self._complete(self.lanes[pad.queue])
                self.lanes[pad.queue] = replace(self.lanes[pad.queue], blocks=blocks)

    # -- what follows ----------------------------------------------------------------------------

    def kick(self) -> None:
        sharing = self.before.policy.sharing
        if sharing is Sharing.STREAMS:
            for queue in self.lanes:
                self._feed(queue, _UNBOUNDED)
        elif sharing is Sharing.TURNS:
            self._take_turns()
        else:
            self._preempt_and_restore()

    def _preempt_and_restore(self) -> None:
        if self.lanes[RT].tasks and self.mode is Mode.NORMAL:
            self._preempt()
        if self.mode is Mode.RT:
            if self.lanes[RT].tasks:
                self._feed_rt()
            else:
                self._restore()
        if self.mode is Mode.NORMAL:
            for lane in self._in_turn():
                if lane.gate is Gate.OPEN:
                    self._feed(lane.queue, self.before.policy.window)

    def _in_turn(self) -> list[Lane]:
        lanes = [lane for lane in self.lanes.values() if lane.queue != RT]
        first = self.turn % len(lanes) if lanes else 0
        return lanes[first:] + lanes[:first]

    def _feed(self, queue: QueueId, window: int) -> None:
        lane = self.lanes[queue]
        while lane.has_next() and lane.depth < window:
            lane, launch = lane.begun(self.now_ns).launch()
            self.effects.append(Start(launch))
        self.lanes[queue] = lane

    def _take_turns(self) -> None:
        """The queue whose task is at work keeps the device until that is done."""
        owner = next((lane for lane in self.lanes.values() if lane.next), None)
        if owner is None:
            asked = (self.lanes[RT], *self._in_turn())
            owner = next((lane for lane in asked if lane.tasks), None)
            if owner is not None and owner.queue != RT:
                self.turn += 1
        if owner is not None:
            self._feed(owner.queue, _UNBOUNDED)

    # -- normal to real-time ---------------------------------------------------------------------

    def _preempt(self) -> None:
        self.mode, self.asked_ns = Mode.PREEMPTING, self.now_ns
        for lane in self._in_turn():
            self.lanes[lane.queue] = self._close(lane)
        self._quiet_yet()

    def _close(self, lane: Lane) -> Lane:
        if not lane.depth:
            return replace(lane, gate=Gate.PARKED, closed_ns=self.now_ns)
        under_way = lane.tasks[0].kernels[lane.done : lane.next]
        level = min(self.before.policy.level, self.before.caps.levels)
        if level <= Level.PENDING or any(kernel.collective for kernel in under_way):
            self.effects.append(Hold(lane.queue))
        else:
            self.effects.append(Deactivate(lane.queue))
            if level is Level.RUNNING and all(kernel.idempotent for kernel in under_way):
                self.effects.append(Interrupt(lane.queue))
        account = replace(lane.account, preempted=lane.account.preempted + 1)
        return replace(lane, gate=Gate.CLOSING, closed_ns=self.now_ns, account=account)

    def _quiet_yet(self) -> None:
        closing = any(lane.gate is Gate.CLOSING for lane in self.lanes.values())
        if self.mode is Mode.PREEMPTING and not closing:
            self.mode = Mode.RT
            self.reports.append(Preempted(self.now_ns - self.asked_ns))

    # -- real-time -------------------------------------------------------------------------------

    def _feed_rt(self) -> None:
        if not (self.before.policy.padding and self.before.caps.pad):
            self._feed(RT, _UNBOUNDED)
            return
        lane = self.lanes[RT]
        while lane.has_next() and lane.depth < _PADDED_DEPTH:
            lane, launch = lane.begun(self.now_ns).launch()
            units = self.before.caps.units
            padding = choose(launch.kernel, self._candidates(), units, pair=self._pair)
            if padding is None:
                self.effects.append(Start(launch))
                continue
            beside, other, whole = self.lanes[padding.queue].begun(self.now_ns).pad(padding.blocks)
            self.lanes[padding.queue] = beside
            self.pads = (*self.pads, Pad(launch.index, padding.queue, whole))
            self.effects.append(StartPadded(launch, other))
        self.lanes[RT] = lane

    def _pair(self, rt: Kernel, be: Kernel) -> Footprint | None:
        """What is not compiled is asked for, and padded another time."""
        if not self.before.caps.fuse:
            return larger(rt, be)
        if (rt.name, be.name) not in self.pairs:
            self.pairs[rt.name, be.name] = None
            self.effects.append(Fuse(rt, be))
        return self.pairs[rt.name, be.name]

    def _candidates(self) -> list[Candidate]:
        """Kernels that are next in their queues, where none is frozen on the device before them.
        A collective waits for other ranks and is never put beside a kernel that others wait for."""
        found = []
        for lane in self._in_turn():
            if lane.has_next() and not lane.frozen and not lane.torn:
                kernel = lane.tasks[0].kernels[lane.next]
                if not kernel.collective:
                    found.append(Candidate(lane.queue, kernel, kernel.blocks - lane.blocks))
        return found

    # -- real-time to normal ---------------------------------------------------------------------

    def _restore(self) -> None:
        self.mode = Mode.NORMAL
        self.turn += 1
        for closed in self._in_turn():
            lane = closed.held(self.now_ns)
            if lane.gate is Gate.CLOSED and lane.torn:
                self.lanes[lane.queue], launch = lane.mend()
                self.effects.append(Restore(launch))
            elif lane.gate is Gate.CLOSED:
                self._open(lane)
            else:
                self.lanes[lane.queue] = replace(lane, gate=Gate.OPEN)

    def _open(self, lane: Lane) -> None:
        self.effects.append(Reactivate(lane.queue))
        self.lanes[lane.queue] = replace(lane, gate=Gate.OPEN, frozen=0)
