"""What the agent asks of an accelerator. Backends: `model` (discrete events), `cpu` (a worker
process), `cuda`. One driver (driver.py) and one scheduler (agent/device) for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from singularity.agent.device.kernels import Caps, Footprint, Kernel, Launch, QueueId, TaskId


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One device as it was found just now. Bytes; `utilisation` is 0 to 1; None: not known.

    health   "" while it is well, else what is wrong
    links    indices of devices of this node that it reaches without the host
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    used_bytes: int
    utilisation: float | None = None
    temperature_c: int | None = None
    health: str = ""
    links: tuple[int, ...] = ()


class Upcalls(Protocol):
    """What a device says of launches, in the order in which it happens on each queue. May be
    called during a call to the device."""

    def on_complete(self, queue: QueueId, task: TaskId, index: int) -> None: ...

    def on_torn(
        self, queue: QueueId, task: TaskId, index: int, *, ran: int, again: int
    ) -> None: ...

    def on_evict(self, queue: QueueId, task: TaskId, index: int) -> None: ...

    def on_quiesce(self, queue: QueueId) -> None: ...

    def on_fused(self, rt: str, be: str, footprint: Footprint | None) -> None: ...


class ComputeQueue(Protocol):
    """One stream: launches run one after the other. No call blocks."""

    def launch(self, launch: Launch) -> None: ...

    def launch_padded(self, launch: Launch, beside: Launch) -> None:
        """As one grid with best-effort blocks; only where caps.pad, only on the real-time queue."""

    def fuse(self, rt: Kernel, be: Kernel) -> None:
        """Begin to make one grid of two; on_fused when it is known whether they are. Only where
        caps.fuse, only on the real-time queue."""

    def restore(self, launch: Launch) -> None:
        """Run the rest of a torn kernel although the queue is deactivated."""

    def depth(self) -> int: ...

    def deactivate(self) -> None:
        """Begin nothing more; on_quiesce when nothing runs. With caps.flush, everything that has
        not begun comes back first, the last launch first."""

    def reactivate(self) -> None: ...

    def interrupt(self) -> None:
        """Leave the running kernel at once; only where caps.levels says so."""

    def quiesced(self) -> bool: ...

    def close(self) -> None:
        """The process behind it is gone."""


class Communication(Protocol):
    """Ranks that meet in collectives: freezing one inside would stop its peers on other devices."""

    def hold(self, queue: QueueId) -> None:
        """Let everything launched run, then on_quiesce: the rank stands between collectives."""

    def release(self, queue: QueueId) -> None: ...


class Device(Protocol):
    @property
    def caps(self) -> Caps: ...

    @property
    def communication(self) -> Communication: ...

    def now_ns(self) -> int:
        """By the device's own clock, which events carry."""

    def queue(self, id_: QueueId, upcalls: Upcalls) -> ComputeQueue:
        """Open a stream; queue 0 is the real-time one."""

    def close(self) -> None: ...


class DeviceManager(Protocol):
    """The devices of this node. Raises DeviceUnavailable where there are none to be had."""

    def devices(self) -> tuple[DeviceFacts, ...]: ...

    def driver(self) -> str:
        """The version of what drives them; "" where the kernel does."""

    def held(self, index: int) -> Mapping[int, int]:
        """Bytes of a device that each process has, by its id, as far as the driver tells."""

    def open(self, index: int) -> Device: ...
