"""Shares of GPUs: a control page for each device, and the shim in every rank that has one.

The shim (shim/) is loaded before the driver and does the work: best-effort launches wait on the
device while real-time ones are there, and memory over the cap is refused as the driver refuses it.
Here ranks are given their slots on the page, and slots of those that are gone are cleared: whoever
died with the gate closed would keep all others waiting for ever.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from singularity.primitives.errors import SandboxFailed
from singularity.primitives.messages import SharerNote, Start
from singularity.primitives.model import JobId
from singularity.primitives.sharing import Precedence

from .gpu import users
from .hal.faces import DeviceManager
from .runtime.cgroup import Limits
from .sharing import Sharer, seat_of
from .shim.page import SLOTS, Class, ControlPage, Mode, complaint

_SLOT: Final = "SINGULARITY_SHIM_SLOT"
_CLASS: Final = {Precedence.REAL_TIME: Class.RT, Precedence.BEST_EFFORT: Class.BE}
Key = tuple[JobId, int, int]  # job, incarnation, rank


class GpuSharing:
    """`library` is the shim, compiled; pages are kept in `directory`, where ranks find them.

    Raises DeviceUnavailable where the driver does not answer."""

    preempts, whole, reason = True, False, ""
    stuck = "a rank with a share of a GPU is not carried as it is in this release"

    def __init__(self, directory: Path, library: Path, devices: DeviceManager) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.memory_bytes = min(facts.memory_bytes for facts in devices.devices())
        self._directory, self._library = directory, library
        self._pages: dict[int, ControlPage] = {}
        self._slots: dict[Key, tuple[int, int]] = {}  # device and slot
        self._lock = threading.Lock()

    def limits(self, start: Start, rank: int) -> Limits | None:
        return None

    def environment(self, start: Start, rank: int) -> Mapping[str, str]:
        """Raises SandboxFailed when the device has no slot left."""
        if (seat := seat_of(start, rank)) is None:
            return {}
        index, share = seat
        with self._lock:
            page = self._page(index)
            taken = {slot for device, slot in self._slots.values() if device == index}
            free = (s for s in range(SLOTS) if s not in taken and not page.slot(s).kind)
            if (slot := next(free, None)) is None:
                raise SandboxFailed(f"device {index} is shared by {SLOTS} ranks already")
            self._slots[start.job, start.incarnation, rank] = index, slot
            found = page.admit(slot, _CLASS[share.precedence], share.memory_bytes)
        if users_own := dict(start.env).get("LD_PRELOAD"):
            found = {**found, "LD_PRELOAD": f"{found['LD_PRELOAD']}:{users_own}"}
        order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # in which NVML counts them, and so do we
        return {**found, **order, "CUDA_VISIBLE_DEVICES": str(index)}

    def release(self, start: Start, rank: int) -> None:
        with self._lock:
            if (found := self._slots.pop((start.job, start.incarnation, rank), None)) is not None:
                index, slot = found
                self._page(index).clear(slot)

    def look(self, sharers: Iterable[Sharer]) -> Mapping[int, Sequence[SharerNote]]:
        """And clear the slots that nobody has: of ranks that an agent before this one started."""
        found: defaultdict[int, list[SharerNote]] = defaultdict(list)
        with self._lock:
            for sharer in sharers:
                self._recall(sharer)
                found[sharer.index].append(self._note(sharer))
            held = set(self._slots.values())
            for index in self._known():
                page = self._page(index)
                for slot in range(SLOTS):
                    if page.slot(slot).kind and (index, slot) not in held:
                        page.clear(slot)
        return found

    def _page(self, index: int) -> ControlPage:
        if index not in self._pages:
            path = self._directory / f"{index}.page"
            made = ControlPage if path.exists() else ControlPage.create
            self._pages[index] = made(path, self._library)
            self._pages[index].rule(Mode.STALL)
        return self._pages[index]

    def _known(self) -> list[int]:
        return sorted(int(path.stem) for path in self._directory.glob("*.page"))

    def _recall(self, sharer: Sharer) -> None:
        """The slot of a rank that outlived its agent is in its own environment."""
        pid = sharer.sandbox.pid
        if _key(sharer) in self._slots or pid is None:
            return
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            said = dict(line.split(b"=", 1) for line in lines if b"=" in line)
            if (slot := said.get(_SLOT.encode())) is not None:
                self._slots[_key(sharer)] = sharer.index, int(slot)

    def _note(self, sharer: Sharer) -> SharerNote:
        """What the shim counts. How long launches wait on the device nobody counts."""
        share, seat = sharer.share, self._slots.get(_key(sharer))
        seen = self._page(seat[0]).slot(seat[1]) if seat else None
        uses = seen is not None and any(True for _ in users(sharer.sandbox))
        return SharerNote(
            job=sharer.start.job,
            rank=sharer.rank,
            precedence=share.precedence,
            compute_milli=share.compute_milli,
            used_bytes=seen.used_bytes if seen else 0,
            cap_bytes=share.memory_bytes,
            complaint=complaint(seen) if seen and uses else "",
        )


def _key(sharer: Sharer) -> Key:
    return sharer.start.job, sharer.start.incarnation, sharer.rank
