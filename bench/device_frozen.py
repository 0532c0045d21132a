"""REEF's scheduler over groups of processes, for bench/device_share.py: the best that freezing them
can do. Each best-effort rank is a queue with one launch that never ends; to take that back is to
freeze its group. The service itself says when a request is in it, and waits for nobody, so no
signal from outside could come sooner.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from singularity.agent.device import events
from singularity.agent.device.kernels import RT, Caps, Kernel, Launch, Level, QueueId
from singularity.agent.device.reef import Policy
from singularity.agent.hal.driver import Driver
from singularity.agent.hal.faces import Communication, ComputeQueue, Upcalls

FREEZER = Path("/sys/fs/cgroup/freezer")  # cgroup v1; v2 has cgroup.freeze in every group


@dataclass(eq=False, slots=True)
class GroupQueue:
    """The processes in `group`, which run by themselves; None for those of the service."""

    id: QueueId
    upcalls: Upcalls
    group: Path | None
    under_way: Launch | None = None

    def launch(self, launch: Launch) -> None:
        self.under_way = launch

    def deactivate(self) -> None:
        self._set("FROZEN")
        self.upcalls.on_quiesce(self.id)  # the kernel stops them as they come by; nobody waits

    def reactivate(self) -> None:
        self._set("THAWED")

    def _set(self, state: str) -> None:
        if self.group is not None:
            (self.group / "freezer.state").write_text(state)

    def end(self) -> None:
        """The request is answered."""
        assert self.under_way is not None
        launch, self.under_way = self.under_way, None
        self.upcalls.on_complete(self.id, launch.task, launch.index)

    def depth(self) -> int:
        return int(self.under_way is not None)

    def quiesced(self) -> bool:
        return True

    def close(self) -> None:
        self._set("THAWED")

    def launch_padded(self, launch: Launch, beside: Launch) -> None:
        raise AssertionError("nothing is padded")

    def restore(self, launch: Launch) -> None:
        raise AssertionError("nothing is torn")

    def interrupt(self) -> None:
        raise AssertionError("nothing is reset")


class GroupDevice:
    caps = Caps(units=1, levels=Level.INFLIGHT, stall=True)

    def __init__(self, group: Path) -> None:
        self.queues: dict[QueueId, GroupQueue] = {}
        self._group = group

    @property
    def communication(self) -> Communication:
        return self

    def hold(self, queue: QueueId) -> None:
        raise AssertionError("no collectives here")

    def release(self, queue: QueueId) -> None:
        """Nothing was held."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def queue(self, id_: QueueId, upcalls: Upcalls) -> ComputeQueue:
        group = None if id_ == RT else self._group
        self.queues[id_] = GroupQueue(id_, upcalls, group)
        return self.queues[id_]

    def close(self) -> None:
        for queue in self.queues.values():
            queue.close()


@dataclass
class Frozen:
    """Who is told by the service, and freezes the others meanwhile."""

    group: Path
    told: int  # the end of a pipe: `b` when a request comes, `e` when it is answered
    preempt_us: list[float]

    def run(self, stop: threading.Event) -> None:
        """Until a `q` is told."""
        device = GroupDevice(self.group)
        driver = Driver(device, Policy(padding=False), self._report)
        driver.submit(driver.attach(), [Kernel("rank")])
        while not stop.is_set():
            for word in os.read(self.told, 64):
                if word == ord("b"):
                    driver.submit(RT, [Kernel("request")])
                elif word == ord("e") and device.queues[RT].depth():
                    device.queues[RT].end()
        device.close()

    def _report(self, what: events.Report) -> None:
        if isinstance(what, events.Preempted):
            self.preempt_us.append(what.took_ns / 1e3)


@contextmanager
def freezing(group: Path, pid: int, told: int, wake: int) -> Iterator[Frozen]:
    """Within it, `pid` is frozen whenever a request is in the service."""
    group.mkdir(exist_ok=True)
    (group / "cgroup.procs").write_text(str(pid))
    frozen, stop = Frozen(group, told, []), threading.Event()
    thread = threading.Thread(target=frozen.run, args=(stop,))
    thread.start()
    try:
        yield frozen
    finally:
        stop.set()
        os.write(wake, b"q")
        thread.join()
        (FREEZER / "cgroup.procs").write_text(str(pid))
        group.rmdir()
