"""A GPU of this machine as a device, by the driver's own interface. Loaded when it is opened.

Every launch of a queue is put behind a wait for the queue's gate, a word of host memory that the
GPU reads: while it is closed nothing begins, and all that was launched stays where it is. What
runs, runs to its end; nothing is reset. Beside real-time kernels a part of a best-effort kernel
that has not been launched yet may run, as one grid (pairs.py).
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from singularity.agent.device.fuser import Side
from singularity.agent.device.kernels import RT, Caps, Kernel, Launch, Level, QueueId
from singularity.primitives.errors import DeviceFailed, DeviceUnavailable, InvalidSpec

from .faces import Communication, ComputeQueue, DeviceFacts, Upcalls
from .nvml import open_nvml
from .pairs import Pair, Pairs

_LIBRARY: Final = "libcuda.so.1"
_UNITS_ATTRIBUTE: Final = 16  # multiprocessors
_WAIT_EQUAL, _DEVICEMAP, _NO_TIMING, _NON_BLOCKING = 1, 2, 2, 1
_NOT_READY: Final = 600
_GATES: Final = mmap.PAGESIZE // 4
_POLL_S: Final = 2e-5
_QUIET_POLLS: Final = 3  # a launch that has just passed the gate is seen to begin by then
_URGENT: Final = -5  # the driver takes the nearest priority that there is


@dataclass(frozen=True, slots=True)
class Program:
    """What a kernel's name stands for: a function of a loaded module, with its arguments."""

    function: int
    side: Side
    arguments: tuple[int, ...] = ()


@dataclass(slots=True)
class _Flight:
    launch: Launch
    begun: ctypes.c_void_p
    ended: ctypes.c_void_p


@dataclass(eq=False, slots=True)
class CudaQueue:
    device: CudaDevice
    id: QueueId
    upcalls: Upcalls
    stream: ctypes.c_void_p
    flights: deque[_Flight] = field(default_factory=deque)
    events: list[ctypes.c_void_p] = field(default_factory=list)  # to be used again
    asked: bool = False
    holding: bool = False
    quiet: int = 0  # polls in a row that saw nothing run

    def launch(self, launch: Launch) -> None:
        program = self.device.program(launch.kernel)
        if not launch.first:
            self._fly(launch, partial(self.device.start, program, launch.blocks, self.stream))
            return
        pair = self.device.pairs.slice_of(launch.kernel.name)
        if pair is None:
            raise InvalidSpec("a GPU runs a grid from its first block", queue=self.id)
        self._fly(launch, partial(self.device.start_pair, pair, None, launch, self.stream))

    def launch_padded(self, launch: Launch, beside: Launch) -> None:
        pair = self.device.pairs.made.get((launch.kernel.name, beside.kernel.name))
        if pair is None:
            raise InvalidSpec("these kernels were not fused", queue=self.id)
        self._fly(launch, partial(self.device.start_pair, pair, launch, beside, self.stream))

    def fuse(self, rt: Kernel, be: Kernel) -> None:
        one, other = self.device.program(rt), self.device.program(be)
        self.device.pairs.begin((rt.name, be.name), one.side, other.side)

    def _fly(self, launch: Launch, start: Callable[[], None]) -> None:
        flight, call, stream = (
            _Flight(launch, self._event(), self._event()),
            self.device.call,
            self.stream,
        )
        call("cuStreamWaitValue32_v2", stream, self.device.gate_at(self.id), 0, _WAIT_EQUAL)
        call("cuEventRecord", flight.begun, stream)
        start()
        call("cuEventRecord", flight.ended, stream)
        self.flights.append(flight)

    def restore(self, launch: Launch) -> None:
        raise InvalidSpec("kernels are not torn on this device", queue=self.id)

    def interrupt(self) -> None:
        raise InvalidSpec("a running kernel cannot be reset on this device", queue=self.id)

    def depth(self) -> int:
        return len(self.flights)

    def deactivate(self) -> None:
        self.device.gates[self.id] = 1
        self.asked, self.quiet = True, 0

    def reactivate(self) -> None:
        self.asked = self.holding = False
        self.device.gates[self.id] = 0

    def hold(self) -> None:
        self.asked = self.holding = True

    def quiesced(self) -> bool:
        return bool(self.device.gates[self.id]) and not self._running()

    def close(self) -> None:
        self.device.forget(self)

    def poll(self) -> bool:
        """Make the upcalls that are due; False: none was."""
        heard = False
        for (rt, be), pair in self.device.pairs.heard() if self.id == RT else ():
            self.upcalls.on_fused(rt, be, pair.footprint if pair else None)
            heard = True
        while self.flights and self.device.over(self.flights[0].ended):
            flight = self.flights.popleft()
            self.events += [flight.begun, flight.ended]
            self.upcalls.on_complete(self.id, flight.launch.task, flight.launch.index)
            heard = True
        if self.asked and self._still():
            self.asked = False
            self.upcalls.on_quiesce(self.id)
            heard = True
        return heard

    def _still(self) -> bool:
        if self.holding:
            return not self.flights
        self.quiet = 0 if self._running() else self.quiet + 1
        return self.quiet >= _QUIET_POLLS

    def _running(self) -> bool:
        if not self.flights:
            return False
        head = self.flights[0]
        return self.device.over(head.begun)  # it has not ended, or it would be gone from here

    def _event(self) -> ctypes.c_void_p:
        if self.events:
            return self.events.pop()
        event = ctypes.c_void_p()
        self.device.call("cuEventCreate", ctypes.byref(event), _NO_TIMING)
        return event


class CudaDevice:
    """One GPU, in the primary context of this process. Upcalls are made by `pump`, in the thread of
    the caller, which must be the one that opened the device."""

    def __init__(self, library: Any, index: int) -> None:
        self._library, self._queues = library, dict[QueueId, CudaQueue]()
        self.programs: dict[str, Program] = {}
        device, context, units = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), index)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.call("cuDeviceGetAttribute", ctypes.byref(units), _UNITS_ATTRIBUTE, device)
        self._device = device
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self.gates = (ctypes.c_uint32 * _GATES).from_buffer(self._page)
        host, at = ctypes.c_void_p(ctypes.addressof(self.gates)), ctypes.c_uint64()
        self.call("cuMemHostRegister_v2", host, ctypes.c_size_t(mmap.PAGESIZE), _DEVICEMAP)
        self.call("cuMemHostGetDevicePointer_v2", ctypes.byref(at), host, 0)
        self._gates_at = at.value
        self._caps = Caps(units.value, Level.INFLIGHT, stall=True, pad=True, fuse=True)
        self.pairs = Pairs(self.call, context)

    @property
    def caps(self) -> Caps:
        return self._caps

    @property
    def communication(self) -> Communication:
        return _Meetings(self._queues)

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def load(self, image: str, name: str, threads: int, arguments: Sequence[int] = ()) -> None:
        """Compile a PTX module; its kernel `name` may then be launched. Arguments are 8 bytes."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(image.encode()))
        self.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        side = Side(image, name, (threads, 1, 1))
        self.programs[name] = Program(function.value or 0, side, tuple(arguments))

    def program(self, kernel: Kernel) -> Program:
        if (found := self.programs.get(kernel.name)) is None:
            raise InvalidSpec(f"no program {kernel.name} was loaded")
        return found

    def queue(self, id_: QueueId, upcalls: Upcalls) -> ComputeQueue:
        if id_ >= _GATES:
            raise InvalidSpec(f"a GPU has {_GATES} queues in its life", queue=id_)
        stream, priority = ctypes.c_void_p(), _URGENT if id_ == RT else 0
        self.call("cuStreamCreateWithPriority", ctypes.byref(stream), _NON_BLOCKING, priority)
        self._queues[id_] = CudaQueue(self, id_, upcalls, stream)
        return self._queues[id_]

    def forget(self, queue: CudaQueue) -> None:
        """Its launches run to their end, unheard; a closed gate would keep them for ever."""
        self.gates[queue.id] = 0
        self._queues.pop(queue.id, None)

    def gate_at(self, queue: QueueId) -> ctypes.c_uint64:
        return ctypes.c_uint64(self._gates_at + 4 * queue)

    def start(self, program: Program, blocks: int, stream: ctypes.c_void_p) -> None:
        self._start(program.function, blocks, program.side.threads, program.arguments, stream)

    def start_pair(
        self, pair: Pair, launch: Launch | None, beside: Launch, stream: ctypes.c_void_p
    ) -> None:
        """Blocks of `launch`, if any, and those of `beside` behind them."""
        be, rt = self.program(beside.kernel), self.program((launch or beside).kernel)
        split = launch.blocks if launch else 0
        own = rt.arguments if launch else (0,) * pair.rt_parameters
        grids = (split or 1, 1, 1, beside.kernel.blocks, 1, 1)
        values = (*own, *be.arguments, split, beside.first, *grids)
        self._start(pair.function, split + beside.blocks, pair.threads, values, stream)

    def _start(
        self,
        function: int,
        blocks: int,
        threads: int,
        arguments: tuple[int, ...],
        stream: ctypes.c_void_p,
    ) -> None:
        values = [ctypes.c_uint64(value) for value in arguments]
        kept = (ctypes.c_void_p * max(1, len(values)))(*map(ctypes.addressof, values))
        shape = (blocks, 1, 1, threads, 1, 1, 0)
        self.call("cuLaunchKernel", ctypes.c_void_p(function), *shape, stream, kept, None)

    def over(self, event: ctypes.c_void_p) -> bool:
        code = self._library.cuEventQuery(event)
        if code not in (0, _NOT_READY):
            raise DeviceFailed(f"the GPU reports error {code}", code=code)
        return bool(code == 0)

    def pump(self, wait_s: float) -> bool:
        """Make the upcalls that are due; look for them up to `wait_s`. False: none came.

        Raises DeviceFailed when a kernel has failed.
        """
        until_s = time.monotonic() + wait_s
        while True:
            heard = [queue.poll() for queue in list(self._queues.values())]
            if any(heard) or time.monotonic() >= until_s:
                return any(heard)
            time.sleep(_POLL_S)

    def call(self, name: str, *arguments: object) -> None:
        """Raises DeviceFailed with the name of the call and the driver's error."""
        if code := getattr(self._library, name)(*arguments):
            raise DeviceFailed(f"{name} ended with {code}", call=name, code=code)

    def close(self) -> None:
        for queue in list(self._queues.values()):
            self.forget(queue)
        self.pairs.close()
        self.call("cuCtxSynchronize")
        self.call("cuDevicePrimaryCtxRelease_v2", self._device)


class _Meetings:
    def __init__(self, queues: dict[QueueId, CudaQueue]) -> None:
        self._queues = queues

    def hold(self, queue: QueueId) -> None:
        self._queues[queue].hold()

    def release(self, queue: QueueId) -> None:
        self._queues[queue].holding = False


class CudaManager:
    """The GPUs of this machine. Nothing is loaded before it is asked."""

    def __init__(self, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        self._load = load

    def devices(self) -> tuple[DeviceFacts, ...]:
        with open_nvml() as nvml:
            return nvml.devices()

    def driver(self) -> str:
        with open_nvml() as nvml:
            return nvml.driver()

    def held(self, index: int) -> Mapping[int, int]:
        with open_nvml() as nvml:
            return nvml.held(index)

    def open(self, index: int) -> CudaDevice:
        try:
            library = self._load(_LIBRARY)
        except OSError as error:
            raise DeviceUnavailable("no CUDA driver is installed here, so no GPUs") from error
        try:
            return CudaDevice(library, index)
        except DeviceFailed as error:
            raise DeviceUnavailable(f"GPU {index} cannot be used: {error.detail}") from error
