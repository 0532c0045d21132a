"""Drives one device by the REEF scheduler: upcalls become events, effects become calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from singularity.agent.device import events
from singularity.agent.device.kernels import RT, Kernel, QueueId, Task, TaskId
from singularity.agent.device.reef import Policy, State, react

from .faces import ComputeQueue, Device


class Driver:
    """Not thread-safe: the device's upcalls and the clients' calls come from one thread.

    Events that arise while effects are performed wait until those are done, so a device may
    answer at once.
    """

    def __init__(
        self, device: Device, policy: Policy, on_report: Callable[[events.Report], None]
    ) -> None:
        self._device, self._on_report = device, on_report
        self._queues: dict[QueueId, ComputeQueue] = {RT: device.queue(RT, self)}
        self._inbox: deque[events.Event] = deque()
        self._busy = False
        self._tasks = 0
        self.state = State(device.caps, policy)

    def attach(self) -> QueueId:
        """A stream and a queue for one more best-effort process."""
        queue = QueueId(self.state.attached + 1)
        self._queues[queue] = self._device.queue(queue, self)
        self._tell(events.Attach(self._device.now_ns()))
        return queue

    def detach(self, queue: QueueId) -> None:
        """Its process is gone, with all that it had on the device."""
        self._queues.pop(queue).close()
        self._tell(events.Detach(self._device.now_ns(), queue))

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
