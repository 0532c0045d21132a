"""The words that the device scheduler and the backends share: kernels, launches, capabilities."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NewType

QueueId = NewType("QueueId", int)
TaskId = NewType("TaskId", int)
RT: Final = QueueId(0)  # the real-time queue; best-effort queues count from 1


class Level(IntEnum):
    """How far a device can take work back; each level holds those below it."""

    NONE = 0  # nothing: what is submitted runs
    PENDING = 1  # what has not been handed to the device
    INFLIGHT = 2  # what the device has and has not begun
    RUNNING = 3  # what it is at work on


@dataclass(frozen=True, slots=True)
class Caps:
    """What one device can do.

    units   processors that each hold a block or more (SM, CU, core)
    levels  the highest level at which work can be taken back
    stall   launches of a deactivated queue stay where they are and go on later
    flush   they are handed back instead
    pad     a real-time and a best-effort kernel can be launched as one grid
    fuse    for that a pair must be compiled first, and not every pair can be
    """

    units: int
    levels: Level
    stall: bool = False
    flush: bool = False
    pad: bool = False
    fuse: bool = False


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one block takes of the unit that holds it; of a whole unit, what there is of it.

    `blocks` is how many blocks a unit holds whatever they take; without meaning for one block.
    """

    threads: int = 256
    registers: int = 8192  # of 4 bytes, all threads of the block together
    shared_bytes: int = 0
    blocks: int = 1


UNIT: Final = Footprint(threads=2048, registers=65536, shared_bytes=64 << 10, blocks=16)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel as it was profiled alone on the device.

    us          duration in microseconds
    wave_us     [k]: one wave with k + 1 blocks a unit, microseconds; () where nobody measured
    idempotent  running a block twice does no harm, so it may be reset in the middle
    collective  other ranks wait for it: it must not be frozen half-way
    """

    name: str
    blocks: int = 1
    us: float = 0.0
    wave_us: tuple[float, ...] = ()
    footprint: Footprint = Footprint()
    idempotent: bool = True
    collective: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """An inference, or one training step: kernels in their order."""

    id: TaskId
    kernels: tuple[Kernel, ...]
    submitted_ns: int = 0


@dataclass(frozen=True, slots=True)
class Launch:
    """`blocks` blocks from `first` on of kernel `index` of a task."""

    queue: QueueId
    task: TaskId
    index: int
    kernel: Kernel
    first: int
    blocks: int
