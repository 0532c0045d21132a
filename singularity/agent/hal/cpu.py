"""Processors as a device: a process of its own runs streams of real work, block by block.

A queue is deactivated by one byte of shared memory, so it is quiet when the block that runs has
ended. A kernel of several blocks is left between two of them and goes on there later: nothing runs
twice, whatever it does. What runs cannot be reset.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from typing import Final

import psutil

from singularity.agent.device.kernels import Caps, Kernel, Launch, Level, QueueId, TaskId
from singularity.primitives.errors import DeviceFailed, DeviceUnavailable, InvalidSpec

from .cpu_worker import CLOSED, GATES, MENDING, OPEN
from .faces import Communication, ComputeQueue, DeviceFacts, Upcalls

_WORKER: Final = "singularity.agent.hal.cpu_worker"
_READY_S: Final = 60.0  # imports of torch on a busy machine
_END_S: Final = 5.0


class CpuQueue:
    def __init__(self, device: CpuDevice, id_: QueueId, upcalls: Upcalls) -> None:
        self._device, self.id, self.upcalls = device, id_, upcalls
        self.under_way = 0
        self.quiet = False

    def launch(self, launch: Launch) -> None:
        self.under_way += 1
        self._device.send("launch", self.id, launch)

    def launch_padded(self, launch: Launch, beside: Launch) -> None:
        raise InvalidSpec("processors do not run two kernels as one grid", queue=self.id)

    def fuse(self, rt: Kernel, be: Kernel) -> None:
        raise InvalidSpec("processors do not run two kernels as one grid", queue=self.id)

    def restore(self, launch: Launch) -> None:
        self.under_way += 1
        self.quiet = False
        self._device.gates[self.id] = MENDING
        self._device.send("restore", self.id, launch)

    def depth(self) -> int:
        return self.under_way

    def deactivate(self) -> None:
        self._device.gates[self.id] = CLOSED
        self._device.send("deactivate", self.id)

    def reactivate(self) -> None:
        self.quiet = False
        self._device.gates[self.id] = OPEN
        self._device.send("reactivate", self.id)

    def interrupt(self) -> None:
        raise InvalidSpec("what runs on a processor cannot be reset", queue=self.id)

    def quiesced(self) -> bool:
        return self.quiet

    def close(self) -> None:
        self._device.gates[self.id] = CLOSED
        self._device.send("close", self.id)
        self._device.forget(self.id)


class CpuDevice:
    """Upcalls are made by `pump`, in the thread of the caller. `programs` is MODULE:FUNCTION (see
    cpu_worker.py); `cores` are those that the process may use, all of this process by default.

    Raises DeviceUnavailable when the process does not come up.
    """

    def __init__(self, programs: str, cores: Sequence[int] = ()) -> None:
        units = len(cores) or len(os.sched_getaffinity(0))
        self._caps = Caps(units, Level.INFLIGHT, stall=True)
        gates = os.memfd_create("gates")
        os.ftruncate(gates, GATES)
        self.gates = mmap.mmap(gates, GATES)
        self._line, theirs = Pipe()
        command = [sys.executable, "-m", _WORKER, str(theirs.fileno()), str(gates), programs]
        self._process = subprocess.Popen(
            [*command, *map(str, cores)],
            pass_fds=(theirs.fileno(), gates),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        theirs.close()
        os.close(gates)
        self._queues: dict[QueueId, CpuQueue] = {}
        self._await_ready()

    def _await_ready(self) -> None:
        try:
            if self._line.poll(_READY_S) and self._line.recv() == ("ready",):
                return
        except (EOFError, ConnectionError):
            pass
        self.close()
        raise DeviceUnavailable("the worker of the CPU device did not come up; see its output")

    @property
    def caps(self) -> Caps:
        return self._caps

    @property
    def communication(self) -> Communication:
        return _Meetings(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def queue(self, id_: QueueId, upcalls: Upcalls) -> ComputeQueue:
        if id_ >= GATES:
            raise InvalidSpec(f"a CPU device has {GATES} streams in its life", queue=id_)
        self._queues[id_] = CpuQueue(self, id_, upcalls)
        self.send("open", id_)
        return self._queues[id_]

    def forget(self, id_: QueueId) -> None:
        self._queues.pop(id_, None)

    def send(self, what: str, queue: QueueId, launch: Launch | None = None) -> None:
        work = launch and (
            launch.task,
            launch.index,
            launch.kernel.name,
            launch.first,
            launch.blocks,
        )
        try:
            self._line.send((what, int(queue), work))
        except ConnectionError as error:
            raise DeviceFailed("the worker of the CPU device is gone") from error

    def pump(self, wait_s: float) -> bool:
        """Make the upcalls that are due; wait for the first up to `wait_s`. False: none came.

        Raises DeviceFailed when a program ends with an exception, or the process is gone.
        """
        try:
            if not self._line.poll(wait_s):
                return False
            while self._line.poll(0):
                self._hear(*self._line.recv())
        except (EOFError, ConnectionError) as error:
            raise DeviceFailed("the worker of the CPU device is gone") from error
        return True

    def _hear(self, what: str, number: int, *more: object) -> None:
        queue = self._queues.get(QueueId(number))
        if queue is None:
            return
        match (what, *more):
            case ("quiet",):
                queue.quiet = True
                queue.upcalls.on_quiesce(queue.id)
            case ("done", int(task), int(index)):
                queue.under_way -= 1
                queue.upcalls.on_complete(queue.id, TaskId(task), index)
            case ("torn", int(task), int(index), int(ran)):
                queue.under_way -= 1
                queue.upcalls.on_torn(queue.id, TaskId(task), index, ran=ran, again=0)
            case ("failed", int(task), int(index), str(why)):
                raise DeviceFailed(f"kernel {index} of task {task} failed: {why}", queue=queue.id)

    def close(self) -> None:
        self._line.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:  # in the middle of a long block
            self._process.kill()
            self._process.wait()
        self.gates.close()


class _Meetings:
    def __init__(self, device: CpuDevice) -> None:
        self._device = device

    def hold(self, queue: QueueId) -> None:
        self._device.send("hold", queue)

    def release(self, queue: QueueId) -> None:
        """Reactivating, which follows, says so in one message."""


class CpuManager:
    """This machine's processors, as so many devices that are alike: each has its part of the cores
    and of the memory, and which core runs what is left to the kernel."""

    def __init__(self, programs: str = "", cores: Sequence[int] = (), count: int = 1) -> None:
        self._programs, self._cores, self._count = programs, cores, count

    @property
    def cpus(self) -> float:
        """Processors of one device."""
        return (len(self._cores) or len(os.sched_getaffinity(0))) / self._count

    def devices(self) -> tuple[DeviceFacts, ...]:
        memory = psutil.virtual_memory()
        used = memory.total - memory.available
        load = min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        each = memory.total // self._count, used // self._count, load
        name = f"{self.cpus:g} processors"
        return tuple(DeviceFacts(i, f"cpu-{i}", name, *each) for i in range(self._count))

    def driver(self) -> str:
        return ""

    def held(self, index: int) -> Mapping[int, int]:
        return {}  # the kernel counts what groups of processes have

    def open(self, index: int) -> CpuDevice:
        if index >= self._count or not self._programs:
            raise DeviceUnavailable(f"no CPU device {index} with programs to run", index=index)
        return CpuDevice(self._programs, self._cores)
