"""A device that does, among all that a device may do, what a test draws.

It knows nothing of the scheduler: it has streams, runs launches of each in their order, notes which
blocks have run, and obeys Deactivate, Interrupt, Restore as a device of its capabilities would.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from singularity.agent.device import events, reef
from singularity.agent.device.kernels import (
    RT,
    Caps,
    Footprint,
    Kernel,
    Launch,
    Level,
    QueueId,
    Task,
    TaskId,
)
from singularity.agent.device.padding import larger

Block = tuple[TaskId, int, int]  # of a task, a kernel, a block


@dataclass
class Stream:
    queue: deque[Launch] = field(default_factory=deque)
    beside: dict[Launch, Launch] = field(default_factory=dict)
    mending: Launch | None = None
    held: bool = False
    closed: bool = False
    told: bool = True
    running: bool = False
    reset: int = 0  # blocks that were begun when the reset came


@dataclass
class World:
    """`pick(n)` draws one of n; everything else follows."""

    caps: Caps
    pick: Callable[[int], int]
    policy: reef.Policy = field(default_factory=reef.Policy)
    yields: bool = False
    now_ns: int = 0
    tasks: int = 0
    state: reef.State = field(init=False)
    streams: dict[QueueId, Stream] = field(default_factory=lambda: {RT: Stream()})
    ran: Counter[Block] = field(default_factory=Counter)
    wanted: set[Block] = field(default_factory=set)
    again: Counter[Block] = field(default_factory=Counter)
    finished: list[TaskId] = field(default_factory=list)
    begun_late: list[Launch] = field(default_factory=list)
    fusing: list[tuple[Kernel, Kernel]] = field(default_factory=list)
    fused: dict[tuple[str, str], Footprint | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = reef.State(self.caps, self.policy)

    # -- the scheduler's side --------------------------------------------------------------------

    def tell(self, event: events.Event) -> None:
        self.state, effects, reports = reef.react(self.state, event)
        for effect in effects:
            self._perform(effect)
        self.finished += [r.task for r in reports if isinstance(r, events.Finished)]

    def attach(self) -> QueueId:
        self.tell(events.Attach(self.now_ns))
        queue = self.state.lanes[-1].queue
        self.streams[queue] = Stream()
        return queue

    def submit(self, queue: QueueId, kernels: tuple[Kernel, ...]) -> TaskId:
        self.tasks += 1
        task = Task(TaskId(self.tasks), kernels, self.now_ns)
        for index, kernel in enumerate(kernels):
            self.wanted |= {(task.id, index, b) for b in range(kernel.blocks)}
        self.tell(events.Submit(self.now_ns, queue, task))
        return task.id

    def _perform(self, effect: events.Effect) -> None:
        match effect:
            case events.Start(launch):
                stream = self.streams[launch.queue]
                assert not (stream.closed or stream.held), "launched into a stream told to stop"
                stream.queue.append(launch)
            case events.StartPadded(launch, beside):
                assert self.caps.pad
                assert not self.streams[beside.queue].queue, "padded past what is frozen"
                pair = launch.kernel.name, beside.kernel.name
                assert not self.caps.fuse or self.fused.get(pair), "this pair is not one grid"
                self.streams[RT].queue.append(launch)
                self.streams[RT].beside[launch] = beside
            case events.Fuse(rt, be):
                names = rt.name, be.name
                known = [*self.fused, *((one.name, other.name) for one, other in self.fusing)]
                assert self.caps.fuse and names not in known, "asked for twice"
                self.fusing.append((rt, be))
            case events.Restore(launch):
                stream = self.streams[launch.queue]
                assert stream.closed and not stream.running and stream.mending is None
                assert self.caps.stall, "only a frozen stream has something behind the torn one"
                stream.mending = launch
                stream.told = True
            case events.Hold(queue):
                self.streams[queue].held, self.streams[queue].told = True, False
            case events.Deactivate(queue):
                assert self.caps.levels >= Level.INFLIGHT
                assert not any(launch.kernel.collective for launch in self.streams[queue].queue)
                self.streams[queue].closed, self.streams[queue].told = True, False
            case events.Interrupt(queue):
                assert self.caps.levels >= Level.RUNNING
                stream = self.streams[queue]
                assert all(launch.kernel.idempotent for launch in stream.queue)
                self._reset(queue)
            case events.Reactivate(queue):
                stream = self.streams[queue]
                assert stream.mending is None, "opened before the torn kernel was whole"
                stream.closed = stream.held = False

    # -- the device's side -----------------------------------------------------------------------

    def step(self) -> bool:
        """One thing that the device may do now; False when there is nothing."""
        moves: list[Callable[[], None]] = [self._fuse] if self.fusing else []
        for queue, stream in self.streams.items():
            moves += self._moves(queue, stream)
        if not moves:
            return False
        self.now_ns += 1
        moves[self.pick(len(moves))]()
        return True

    def _moves(self, queue: QueueId, stream: Stream) -> list[Callable[[], None]]:
        if stream.running and stream.reset:
            return [lambda: self._tear(queue, 0, stream.reset)]
        if stream.running:
            moves: list[Callable[[], None]] = [lambda: self._end(queue)]
            launch = stream.mending or stream.queue[0]
            if stream.closed and not stream.told and self.yields and launch.blocks > 1:
                moves.append(lambda: self._tear(queue, self.pick(launch.blocks), 0))
            return moves
        if stream.closed and not stream.told and stream.mending is not None:
            return [lambda: self._tear(queue, 0, 0)]  # the rest of a kernel that has not begun
        if stream.closed and not stream.told:  # nothing runs any more: hand back, be quiet
            return [lambda: self._quiet(queue)]
        if stream.mending is not None:
            return [lambda: self._begin(queue)]
        if stream.closed:
            return []
        if stream.held and not stream.queue:
            return [] if stream.told else [lambda: self._quiet(queue)]
        return [lambda: self._begin(queue)] if stream.queue else []

    def _fuse(self) -> None:
        rt, be = self.fusing.pop(self.pick(len(self.fusing)))
        takes = larger(rt, be) if self.pick(3) else None
        self.fused[rt.name, be.name] = takes
        self.tell(events.Fused(self.now_ns, rt.name, be.name, takes))

    def _begin(self, queue: QueueId) -> None:
        self.streams[queue].running = True
        if queue != RT and self.state.mode is reef.Mode.RT:
            self.begun_late.append(self.streams[queue].queue[0])

    def _end(self, queue: QueueId) -> None:
        stream = self.streams[queue]
        launch = stream.mending or stream.queue.popleft()
        stream.mending, stream.running = None, False
        self._note(launch, launch.blocks)
        if (beside := stream.beside.pop(launch, None)) is not None:
            self._note(beside, beside.blocks)
        self.tell(events.Completed(self.now_ns, queue, launch.task, launch.index))

    def _note(self, launch: Launch, blocks: int) -> None:
        for block in range(launch.first, launch.first + blocks):
            self.ran[(launch.task, launch.index, block)] += 1

    def _tear(self, queue: QueueId, ran: int, again: int) -> None:
        stream = self.streams[queue]
        launch = stream.mending or stream.queue.popleft()
        stream.mending, stream.running, stream.reset = None, False, 0
        self._note(launch, ran)
        self.tell(events.Torn(self.now_ns, queue, launch.task, launch.index, ran, again))

    def _reset(self, queue: QueueId) -> None:
        """What the running kernel has done is done again; it ends when the device says."""
        stream = self.streams[queue]
        if stream.running:
            launch = stream.mending or stream.queue[0]
            stream.reset = 1 + self.pick(launch.blocks)
            for block in range(launch.first, launch.first + stream.reset):
                self.again[(launch.task, launch.index, block)] += 1

    def _quiet(self, queue: QueueId) -> None:
        stream = self.streams[queue]
        stream.told = True
        if self.caps.flush and stream.closed:
            gone, stream.queue = list(stream.queue), deque()
            for launch in reversed(gone):
                self.tell(events.Evicted(self.now_ns, queue, launch.task, launch.index))
        self.tell(events.Quiesced(self.now_ns, queue))
