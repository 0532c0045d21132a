"""Shares of this node's devices: what ranks that have them are held to, and how they fare.

Of processors the kernel holds them to it: memory and, of real-time ranks, compute by limits of
their cgroup; best-effort ranks are in a group that runs only when no real-time one wants to, and
divide that by weight (runtime/cgroup.py).
"""

from __future__ import annotations

import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from singularity.primitives.messages import SharerNote, Start
from singularity.primitives.sharing import DeviceShare, Precedence

from .device.fare import Fare
from .hal.cpu import CpuManager
from .runtime import cgroup
from .runtime.cgroup import Limits, Seat
from .runtime.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Sharer:
    """A rank that has a share of the device `index`."""

    start: Start
    rank: int
    index: int
    share: DeviceShare
    sandbox: Sandbox


class Sharing(Protocol):
    """`memory_bytes` of each device, 0 where no shares can be had; `preempts`: real-time ones can,
    or `reason` says why not. `whole`: devices can be had as a whole besides. `yields`: best-effort
    work leaves a device block by block. `fixed` says why ranks cannot go over to other devices
    while they run, "" where they can."""

    @property
    def memory_bytes(self) -> int: ...
    @property
    def preempts(self) -> bool: ...
    @property
    def whole(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def driven(self) -> bool: ...
    @property
    def yields(self) -> bool: ...
    @property
    def fixed(self) -> str: ...

    def refuses(self, share: DeviceShare) -> str:
        """Why no rank has such a share here, "" where it can."""

    def limits(self, start: Start, rank: int) -> Limits | None:
        """Of the sandbox of a rank that has a share."""

    def environment(self, start: Start, rank: int, sandbox: Sandbox) -> Mapping[str, str]:
        """What must be set in a rank to find its devices; it counts as there from now on."""

    def note(self, sandbox: Sandbox, images: Path) -> None:
        """The rank is off its device, and dumped to `images`: keep there what is known of it."""

    def reseat(self, start: Start, rank: int, sandbox: Sandbox, images: Path) -> None:
        """A rank that was noted there is about to come back, in this sandbox. Raises ImageUnfit
        where it holds more than its share."""

    def release(self, start: Start, rank: int) -> None:
        """The rank is gone."""

    def look(self, sharers: Iterable[Sharer]) -> Mapping[int, Sequence[SharerNote]]:
        """How they fared since the last look, by device."""


def seat_of(start: Start, rank: int) -> tuple[int, DeviceShare] | None:
    """The device of which a rank has a share, and the share."""
    if start.share is None:
        return None
    return start.indices[start.ranks.index(rank)], start.share


class Unshared:
    """A node that gives out no shares."""

    memory_bytes, preempts, whole, driven, yields, fixed = 0, False, True, False, False, ""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def refuses(self, share: DeviceShare) -> str:
        if not self.memory_bytes:
            return f"this node gives out no shares of devices: {self.reason}"
        if share.precedence is Precedence.REAL_TIME and not self.preempts:
            return "share.class rt: what runs on devices of this node cannot be preempted; use be"
        return ""

    def limits(self, start: Start, rank: int) -> Limits | None:
        return None

    def environment(self, start: Start, rank: int, sandbox: Sandbox) -> Mapping[str, str]:
        return {}

    def note(self, sandbox: Sandbox, images: Path) -> None:
        """Nothing was given."""

    def reseat(self, start: Start, rank: int, sandbox: Sandbox, images: Path) -> None:
        """Nothing was given."""

    def release(self, start: Start, rank: int) -> None:
        """Nothing was given."""

    def look(self, sharers: Iterable[Sharer]) -> Mapping[int, Sequence[SharerNote]]:
        return {}


@dataclass(frozen=True, slots=True)
class _Seen:
    """When a rank was looked at, what it had used and waited until then, and how it fared."""

    at_s: float
    cpu_s: float
    waited_s: float
    fare: Fare


class ProcessorSharing(Unshared):
    """`name` tells the groups of this node from those of others on the same machine."""

    def __init__(self, name: str, devices: CpuManager) -> None:
        super().__init__(cgroup.obstacle())
        self._prefix = f"{name}-{zlib.crc32(name.encode()):08x}"
        self._cpus = devices.cpus
        self.memory_bytes = 0 if self.reason else devices.devices()[0].memory_bytes
        self.preempts = cgroup.preempts()
        self._seen: dict[Path, _Seen] = {}

    def limits(self, start: Start, rank: int) -> Limits | None:
        if (found := seat_of(start, rank)) is None:
            return None
        index, share = found
        first = share.precedence is Precedence.REAL_TIME
        seat = Seat(f"{self._prefix}-{index}", self._cpus, share.compute_milli, first)
        return Limits(memory_bytes=share.memory_bytes, seat=seat)

    def look(self, sharers: Iterable[Sharer]) -> Mapping[int, Sequence[SharerNote]]:
        found: defaultdict[int, list[SharerNote]] = defaultdict(list)
        before, self._seen = self._seen, {}
        for sharer in sharers:
            found[sharer.index].append(self._note(sharer, before.get(sharer.sandbox.directory)))
        return found

    def _note(self, sharer: Sharer, before: _Seen | None) -> SharerNote:
        """What it had work for is what it ran and what it waited for a processor."""
        usage, now_s, fare = sharer.sandbox.usage(), time.monotonic(), Fare()
        if usage is not None:
            if before is not None:
                ran_s = max(0.0, usage.cpu_s - before.cpu_s) / self._cpus
                waited_s = max(0.0, usage.waited_s - before.waited_s) / self._cpus
                fare = before.fare.told().after(
                    sharer.share, now_s - before.at_s, ran_s + waited_s, ran_s
                )
            seen = _Seen(now_s, usage.cpu_s, usage.waited_s, fare)
            self._seen[sharer.sandbox.directory] = seen
        return noted(sharer, fare, usage.memory_bytes if usage else 0)


def noted(sharer: Sharer, fare: Fare, used_bytes: int, complaint: str = "") -> SharerNote:
    """What the heartbeat says of a rank that fares so."""
    return SharerNote(
        job=sharer.start.job,
        incarnation=sharer.start.incarnation,
        rank=sharer.rank,
        precedence=sharer.share.precedence,
        compute_milli=sharer.share.compute_milli,
        used_bytes=used_bytes,
        cap_bytes=sharer.share.memory_bytes,
        busy=fare.busy,
        slowdown=fare.slowdown,
        held_s=fare.held_s,
        lost_s=fare.lost_s,
        complaint=complaint,
    )
