"""Drives one device by the REEF scheduler: upcalls become events, effects become calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from singularity.agent.device import events
from singularity.agent.device.kernels import RT, Footprint, Kernel, QueueId, Task, TaskId
from singularity.agent.device.memory import Memory
from singularity.agent.device.reef import Policy, State, react
from singularity.primitives.errors import InvalidSpec

from .faces import ComputeQueue, Device


class Driver:
    """Not thread-safe: the device's upcalls and the clients' calls come from one thread.

    Events that arise while effects are performed wait until those are done, so a device may
    answer at once.
    """

    def __init__(
        self,
        device: Device,
        policy: Policy,
        on_report: Callable[[events.Report], None],
        memory_bytes: int = 0,
    ) -> None:
        self._device, self._on_report = device, on_report
        self.memory = Memory(memory_bytes)
        self._queues: dict[QueueId, ComputeQueue] = {RT: device.queue(RT, self)}
        self._inbox: deque[events.Event] = deque()
        self._busy = False
        self._tasks = 0
        self.state = State(device.caps, policy)

    def attach(self, cap_bytes: int = 0) -> QueueId:
        """A stream and a queue for one more best-effort process, with a share of the memory.

        Raises InvalidSpec when the caps of all would be more than the device has.
        """
        queue = QueueId(self.state.attached + 1)
        self.cap(queue, cap_bytes)
        self._queues[queue] = self._device.queue(queue, self)
        self._tell(events.Attach(self._device.now_ns()))
        return queue

    def detach(self, queue: QueueId) -> None:
        """Its process is gone, with all that it had on the device."""
        self._queues.pop(queue).close()
        self.memory = self.memory.leave(queue)
        self._tell(events.Detach(self._device.now_ns(), queue))

    def cap(self, queue: QueueId, cap_bytes: int) -> None:
        """Set a queue's cap anew. Raises InvalidSpec where it holds more, or too little is left."""
        self.memory, reason = self.memory.cap(queue, cap_bytes)
        if reason:
            raise InvalidSpec(reason, queue=queue, cap_bytes=cap_bytes)

    def take(self, queue: QueueId, count_bytes: int) -> bool:
        """False: out of memory, and nothing is taken."""
        memory = self.memory.take(queue, count_bytes)
        self.memory = memory or self.memory
        return memory is not None

    def give(self, queue: QueueId, count_bytes: int) -> None:
        self.memory = self.memory.give(queue, count_bytes)

    def submit(self, queue: QueueId, kernels: Sequence[Kernel]) -> TaskId:
        """Queue one task; a Finished report follows. Kernels must not be empty."""
        self._tasks += 1
        now_ns = self._device.now_ns()
        task = Task(TaskId(self._tasks), tuple(kernels), now_ns)
        self._tell(events.Submit(now_ns, queue, task))
        return task.id

    # -- upcalls ---------------------------------------------------------------------------------

    def on_complete(self, queue: QueueId, task: TaskId, index: int) -> None:
        self._tell(events.Completed(self._device.now_ns(), queue, task, index))

    def on_torn(self, queue: QueueId, task: TaskId, index: int, *, ran: int, again: int) -> None:
        self._tell(events.Torn(self._device.now_ns(), queue, task, index, ran, again))

    def on_evict(self, queue: QueueId, task: TaskId, index: int) -> None:
        self._tell(events.Evicted(self._device.now_ns(), queue, task, index))

    def on_quiesce(self, queue: QueueId) -> None:
        self._tell(events.Quiesced(self._device.now_ns(), queue))

    def on_fused(self, rt: str, be: str, footprint: Footprint | None) -> None:
        self._tell(events.Fused(self._device.now_ns(), rt, be, footprint))

    # -- events and effects ----------------------------------------------------------------------

    def _tell(self, event: events.Event) -> None:
        self._inbox.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                self.state, effects, reports = react(self.state, self._inbox.popleft())
                for effect in effects:
                    self._perform(effect)
                for report in reports:
                    self._on_report(report)
        finally:
            self._busy = False

    def _perform(self, effect: events.Effect) -> None:
        match effect:
            case events.Start(launch):
                self._queues[launch.queue].launch(launch)
            case events.StartPadded(launch, beside):
                self._queues[launch.queue].launch_padded(launch, beside)
            case events.Fuse(rt, be):
                self._queues[RT].fuse(rt, be)
            case events.Restore(launch):
                self._queues[launch.queue].restore(launch)
            case events.Hold(queue):
                self._device.communication.hold(queue)
            case events.Deactivate(queue):
                self._queues[queue].deactivate()
            case events.Interrupt(queue):
                self._queues[queue].interrupt()
            case events.Reactivate(queue):
                self._device.communication.release(queue)
                self._queues[queue].reactivate()
