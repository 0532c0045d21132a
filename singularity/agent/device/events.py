"""What the device scheduler is told, what it asks to be done, and what it reports.

Events carry the time in nanoseconds of whatever clock their driver uses. Effects are performed in
their order; what comes of them is told as events.
"""

from __future__ import annotations

from dataclasses import dataclass

from .kernels import Footprint, Kernel, Launch, QueueId, Task, TaskId

# -- events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attach:
    """A best-effort process comes: it gets the next queue."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class Detach:
    """Its process is gone, and so is all it had on the device."""

    at_ns: int
    queue: QueueId


@dataclass(frozen=True, slots=True)
class Submit:
    at_ns: int
    queue: QueueId
    task: Task


@dataclass(frozen=True, slots=True)
class Completed:
    """All blocks of this launch have run, and those padded beside it."""

    at_ns: int
    queue: QueueId
    task: TaskId
    index: int


@dataclass(frozen=True, slots=True)
class Torn:
    """The launch at work was left: `ran` of its blocks have run and will not run again; `again`
    were begun and must be run anew."""

    at_ns: int
    queue: QueueId
    task: TaskId
    index: int
    ran: int
    again: int = 0


@dataclass(frozen=True, slots=True)
class Evicted:
    """A launch came back without having begun."""

    at_ns: int
    queue: QueueId
    task: TaskId
    index: int


@dataclass(frozen=True, slots=True)
class Quiesced:
    """Nothing of this queue runs, nor will until it is reactivated."""

    at_ns: int
    queue: QueueId


@dataclass(frozen=True, slots=True)
class Fused:
    """This pair may be launched as one grid, whose blocks take `footprint`; None: it cannot be."""

    at_ns: int
    rt: str
    be: str
    footprint: Footprint | None


Event = Attach | Detach | Submit | Completed | Torn | Evicted | Quiesced | Fused


# -- effects and reports ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    launch: Launch


@dataclass(frozen=True, slots=True)
class StartPadded:
    """One grid: the real-time launch, and `beside` in the units it leaves free."""

    launch: Launch
    beside: Launch


@dataclass(frozen=True, slots=True)
class Fuse:
    """Begin to compile this pair, where caps.fuse; say Fused some time. Never asked twice."""

    rt: Kernel
    be: Kernel


@dataclass(frozen=True, slots=True)
class Restore:
    """Run the rest of a torn kernel while the queue's other launches stay frozen."""

    launch: Launch


@dataclass(frozen=True, slots=True)
class Hold:
    """Level 1: say Quiesced when all that was launched has run."""

    queue: QueueId


@dataclass(frozen=True, slots=True)
class Deactivate:
    """Level 2: begin nothing more; say Quiesced when what runs has ended."""

    queue: QueueId


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Level 3, after Deactivate: do not wait for what runs."""

    queue: QueueId


@dataclass(frozen=True, slots=True)
class Reactivate:
    queue: QueueId


Effect = Start | StartPadded | Fuse | Restore | Hold | Deactivate | Interrupt | Reactivate


@dataclass(frozen=True, slots=True)
class Finished:
    queue: QueueId
    task: TaskId
    submitted_ns: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Preempted:
    """The device was quiet `took_ns` after real-time work had asked for it."""

    took_ns: int


Report = Finished | Preempted
