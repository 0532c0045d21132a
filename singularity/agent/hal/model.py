"""A device made of discrete events: no clock but its own, no randomness, the same every time.

A running kernel asks for as many units as it has blocks. When more is asked for than there is,
everybody is slowed down in proportion, and co-runners disturb each other by a share besides (caches
and memory are common). Preemption costs what was published of real devices; every cost is an
argument.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from singularity.agent.device.kernels import Caps, Kernel, Launch, QueueId, TaskId
from singularity.agent.device.padding import larger

from .faces import Communication, ComputeQueue, Upcalls

Block = tuple[TaskId, int, int]


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds, but for the shares.

    flag          until a raised flag is seen by the device
    drain         for each launch that begins only to see the flag and end
    reset         until a running kernel is gone
    padded_share  by how much a real-time kernel is longer for being part of a fused grid
    disturbance   by how much each co-runner slows the others down
    yields        blocks look at the flag when they begin, so a kernel ends with its wave
    resident      blocks of one kernel that a unit holds at once
    """

    flag_us: float = 6.0
    drain_us: float = 2.0
    reset_us: float = 25.0
    padded_share: float = 0.01
    disturbance: float = 0.12
    yields: bool = False
    resident: int = 4


@dataclass(slots=True)
class _Work:
    """A launch on a stream; `left_us` of its time alone on the device are still to come."""

    launch: Launch
    units: int
    left_us: float
    beside: Launch | None = None


def _ignore() -> None:
    """The plan of a queue on which nothing runs."""


@dataclass(slots=True, eq=False)
class ModelQueue:
    device: ModelDevice
    id: QueueId
    upcalls: Upcalls
    waiting: deque[_Work] = field(default_factory=deque)
    running: _Work | None = None
    open: bool = True
    holding: bool = False
    asked: bool = False  # somebody waits to hear that it is quiet
    resets: int = 0  # a reset of another number is void
    resetting: bool = False
    plan: Callable[[], None] = _ignore  # when `running` is over
    rate: float = 0.0
    version: int = 0  # of `running` and its rate; a timer of another version is void

    def launch(self, launch: Launch) -> None:
        self._add(launch, launch.kernel.us * launch.blocks / launch.kernel.blocks)

    def fuse(self, rt: Kernel, be: Kernel) -> None:
        self.upcalls.on_fused(rt.name, be.name, larger(rt, be))

    def launch_padded(self, launch: Launch, beside: Launch) -> None:
        us = launch.kernel.us * (1 + self.device.costs.padded_share)
        self.waiting.append(_Work(launch, self.device.caps.units, us, beside))
        self._next()

    def _add(self, launch: Launch, us: float) -> None:
        units = min(launch.blocks, self.device.caps.units)
        self.waiting.append(_Work(launch, units, us))
        self._next()

    def restore(self, launch: Launch) -> None:
        us = launch.kernel.us * launch.blocks / launch.kernel.blocks
        self.resetting = False
        self._run(_Work(launch, min(launch.blocks, self.device.caps.units), us))

    def depth(self) -> int:
        return len(self.waiting) + (self.running is not None)

    def quiesced(self) -> bool:
        return not self.open and self.running is None

    def close(self) -> None:
        self.running, self.version = None, self.version + 1
        self.waiting.clear()
        self.device.forget(self)

    # -- stop and go -----------------------------------------------------------------------------

    def hold(self) -> None:
        self.holding = True
        if not self.depth():
            self.device.after(0.0, self._held)

    def deactivate(self) -> None:
        self.device.after(self.device.costs.flag_us, self._stop)

    def reactivate(self) -> None:
        self.open, self.holding, self.resetting = True, False, False
        self._next()

    def interrupt(self) -> None:
        self.resetting, self.resets = True, self.resets + 1
        us = max(self.device.costs.reset_us, self.device.costs.flag_us)
        self.device.after(us, partial(self._reset, self.resets))

    def _held(self) -> None:
        if self.holding and not self.depth():
            self.open = False
            self.upcalls.on_quiesce(self.id)

    def _stop(self) -> None:
        self.open, self.asked = False, True
        if self.running is None:
            self._flush()
        elif self.device.costs.yields and not self.resetting:
            self._yield(self.running)

    def _yield(self, work: _Work) -> None:
        """The blocks that are on their units end; those that would follow them do not begin."""
        self.device.settle()
        launch, costs = work.launch, self.device.costs
        at_once = self.device.caps.units * costs.resident
        waves = -(-launch.blocks // at_once)
        total_us = launch.kernel.us * launch.blocks / launch.kernel.blocks
        wave_us = total_us / waves
        begun = min(waves, int((total_us - work.left_us) / wave_us) + 1) if wave_us else waves
        if begun == waves:
            return  # its last wave is on the units: it simply ends
        work.left_us = max(0.0, begun * wave_us - (total_us - work.left_us))
        self.plan = partial(self._leave, begun * at_once, 0)
        self.device.schedule(self)

    def _reset(self, number: int) -> None:
        if not self.resetting or number != self.resets or self.running is None:
            return  # it ended by itself and has said so
        self.resetting = False
        self.device.settle()
        launch = self.running.launch
        total_us = launch.kernel.us * launch.blocks / launch.kernel.blocks
        share = 1 - self.running.left_us / total_us if total_us else 1.0
        self._leave(0, max(1, round(launch.blocks * share)))

    def _leave(self, ran: int, again: int) -> None:
        work, self.running = self.running, None
        assert work is not None
        self.version += 1
        self.device.note(work.launch, ran)
        self.device.rates()
        launch = work.launch
        self.upcalls.on_torn(self.id, launch.task, launch.index, ran=ran, again=again)
        self._flush()

    def _flush(self) -> None:
        """Hand back what has not begun, if this device does; then it is quiet here."""
        self.asked = False
        if not self.device.caps.flush:
            self.upcalls.on_quiesce(self.id)
            return
        gone, self.waiting = list(self.waiting), deque()
        self.device.after(self.device.costs.drain_us * len(gone), partial(self._flushed, gone))

    def _flushed(self, gone: list[_Work]) -> None:
        for work in reversed(gone):
            launch = work.launch
            self.upcalls.on_evict(self.id, launch.task, launch.index)
        self.upcalls.on_quiesce(self.id)

    # -- running ---------------------------------------------------------------------------------

    def _next(self) -> None:
        if self.running is None and self.waiting and self.open:
            self._run(self.waiting.popleft())

    def _run(self, work: _Work) -> None:
        self.device.settle()
        self.running, self.rate, self.plan = work, 0.0, self.finish
        self.device.rates()

    def finish(self) -> None:
        work, self.running = self.running, None
        assert work is not None
        self.version += 1
        self.device.note(work.launch, work.launch.blocks)
        if work.beside is not None:
            self.device.note(work.beside, work.beside.blocks)
        self.device.rates()
        self.upcalls.on_complete(self.id, work.launch.task, work.launch.index)
        if self.open:
            self._next()
            if self.holding:
                self._held()
        elif self.asked:
            self._flush()


class ModelDevice:
    """`run` advances its time; `ran` counts how often each block has run."""

    def __init__(self, caps: Caps, costs: Costs | None = None, trace: bool = False) -> None:
        self._caps, self.costs, self._trace = caps, costs or Costs(), trace
        self._now_us, self._settled_us = 0.0, 0.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._queues: list[ModelQueue] = []
        self.busy_us = 0.0  # unit-microseconds of kernels, as if each had the device alone
        self.ran: Counter[Block] = Counter()

    @property
    def caps(self) -> Caps:
        return self._caps

    @property
    def communication(self) -> Communication:
        return _Meetings(self)

    def now_ns(self) -> int:
        return round(self._now_us * 1e3)

    def queue(self, id_: QueueId, upcalls: Upcalls) -> ComputeQueue:
        self._queues.append(ModelQueue(self, id_, upcalls))
        return self._queues[-1]

    def find(self, id_: QueueId) -> ModelQueue:
        return next(queue for queue in self._queues if queue.id == id_)

    def forget(self, queue: ModelQueue) -> None:
        self._queues.remove(queue)
        self.rates()

    def close(self) -> None:
        self._timers.clear()

    # -- time ------------------------------------------------------------------------------------

    def after(self, us: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self._now_us + us, next(self._order), then))

    def run(self, until_us: float) -> None:
        """Let everything happen that is due by then."""
        while self._timers and self._timers[0][0] <= until_us:
            self._now_us, _, then = heapq.heappop(self._timers)
            then()
        self._now_us = max(self._now_us, until_us)

    def settle(self) -> None:
        """Book what has run since rates last changed."""
        passed_us, self._settled_us = self._now_us - self._settled_us, self._now_us
        if passed_us:
            for queue in self._queues:
                if queue.running is not None:
                    queue.running.left_us -= queue.rate * passed_us
                    self.busy_us += queue.rate * passed_us

    def rates(self) -> None:
        """Share the units among what runs now, and foresee when each is done."""
        self.settle()
        at_work = [queue for queue in self._queues if queue.running is not None]
        asked = sum(queue.running.units for queue in at_work if queue.running is not None)
        share = min(1.0, self._caps.units / asked) if asked else 1.0
        rate = share / (1 + self.costs.disturbance * (len(at_work) - 1)) if at_work else 1.0
        for queue in at_work:
            if queue.rate != rate:
                queue.rate = rate
                self.schedule(queue)

    def schedule(self, queue: ModelQueue) -> None:
        """Foresee when what runs there is over at the present rate; what was foreseen is void."""
        assert queue.running is not None
        queue.version += 1
        us = max(0.0, queue.running.left_us) / queue.rate
        self.after(us, partial(self._due, queue, queue.version))

    def _due(self, queue: ModelQueue, version: int) -> None:
        if queue.version == version and queue.running is not None:
            self.settle()
            queue.plan()

    def note(self, launch: Launch, blocks: int) -> None:
        if self._trace:
            for block in range(launch.first, launch.first + blocks):
                self.ran[(launch.task, launch.index, block)] += 1


class _Meetings:
    def __init__(self, device: ModelDevice) -> None:
        self._device = device

    def hold(self, queue: QueueId) -> None:
        self._device.find(queue).hold()

    def release(self, queue: QueueId) -> None:
        self._device.find(queue).holding = False
