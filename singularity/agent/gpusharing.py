"""Shares of GPUs: a control page for each device, and the shim in every rank that has one.

The shim (shim/) is loaded before the driver and does the work: best-effort launches wait on the
device while real-time ones are there, and memory over the cap is refused as the driver refuses it.
Here ranks are given their slots on the page, slots of those that are gone are cleared (whoever died
with the gate closed would keep all others waiting for ever), and what the shims count is turned
into how tightly best-effort work is held (device/pace.py) and how each rank fares.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from singularity.primitives.errors import DeviceUnavailable, ImageUnfit, InvalidSpec, SandboxFailed
from singularity.primitives.messages import SharerNote, Start
from singularity.primitives.model import JobId
from singularity.primitives.sharing import Precedence

from . import seats
from .device.fare import Fare
from .device.pace import Bound
from .gpu import users
from .hal.faces import DeviceManager
from .pacing import SharedGpu, now_ns
from .runtime.sandbox import Sandbox
from .seats import Carried, Held, Seat
from .sharing import Sharer, Unshared, noted, seat_of
from .shim.page import SLOTS, Class, ControlPage, complaint

_CLASS: Final = {Precedence.REAL_TIME: Class.RT, Precedence.BEST_EFFORT: Class.BE}
# What each process has on a GPU besides what it asks for: its context, code, stacks.
_BESIDE_BYTES: Final = 1 << 30
log = logging.getLogger(__name__)
Key = tuple[JobId, int, int]  # job, incarnation, rank


@dataclass(frozen=True, slots=True)
class _Sits:
    held: Held
    seat: Seat
    sandbox: Sandbox


@dataclass(frozen=True, slots=True)
class Shim:
    """`library` is it, compiled; the devices' pages are kept in `directory`, on the file system of
    those of ranks. `yields`: best-effort kernels leave the device block by block."""

    directory: Path
    library: Path
    yields: bool = False


class GpuSharing(Unshared):
    """`rank_page` tells where the pages of ranks are.

    Raises DeviceUnavailable where the driver does not answer."""

    preempts, whole, driven = True, False, True

    def __init__(
        self,
        shim: Shim,
        devices: DeviceManager,
        rank_page: Callable[[JobId, int], Path],
        bound: Bound | None = None,
    ) -> None:
        super().__init__("")
        shim.directory.mkdir(parents=True, exist_ok=True)
        self.memory_bytes = min(facts.memory_bytes for facts in devices.devices())
        self._devices = devices
        self._shim, self._rank_page, self.yields = shim, rank_page, shim.yields
        self._bound = bound or Bound()
        self._gpus: dict[int, SharedGpu] = {}
        self._ranks: dict[Key, _Sits] = {}
        self._lock = threading.RLock()

    # -- coming and going ------------------------------------------------------------------------

    def environment(self, start: Start, rank: int, sandbox: Sandbox) -> Mapping[str, str]:
        """Raises SandboxFailed when the device has no slot left."""
        if (found := seat_of(start, rank)) is None:
            return {}
        index, share = found
        with self._lock:
            gpu, slot = self._gpu(index), self._free(index)
            env = gpu.page.admit(slot, _CLASS[share.precedence], share.memory_bytes)
            env = {**env, **self._sit(start, rank, sandbox, Held(index, slot))}
        del env["SINGULARITY_SHIM_SLOT"]  # the seat tells
        if users_own := dict(start.env).get("LD_PRELOAD"):
            env["LD_PRELOAD"] += f":{users_own}"
        if self.yields and share.precedence is Precedence.BEST_EFFORT:
            env["SINGULARITY_YIELD"] = "1"  # the compilers of the rank hear of it (hook.py)
        order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # in which NVML counts them, and so do we
        return {**env, **order, "CUDA_VISIBLE_DEVICES": str(index)}

    def note(self, sandbox: Sandbox, images: Path) -> None:
        """And nobody waits for a rank that is away."""
        with self._lock:
            if (held := seats.recall(sandbox.directory)) is not None:
                page = self._gpu(held.index).page
                page.let_pass(held.slot)
                seats.note(images, Carried(held, page.counts(held.slot).hex()))

    def reseat(self, start: Start, rank: int, sandbox: Sandbox, images: Path) -> None:
        """Raises ImageUnfit also where nothing, or nothing of sense, was noted."""
        if (found := seat_of(start, rank)) is None:
            return
        index, share = found
        try:
            carried = seats.noted(images)
            counts = bytes.fromhex(carried.counts) if carried else b""
        except ValueError as error:
            raise ImageUnfit(f"what is noted of its device is no such note: {error}") from error
        if carried is None:
            raise ImageUnfit("it was saved without a share of a GPU, and knows of none")
        with self._lock:
            gpu, slot = self._gpu(index), self._free(index)
            try:
                gpu.page.carry_on(slot, counts, share.memory_bytes)
            except InvalidSpec as error:
                raise ImageUnfit(f"rank {rank} has no room in its share: {error.detail}") from error
            was = carried.held
            self._sit(start, rank, sandbox, Held(index, slot, was.life + 1, was.index))

    def release(self, start: Start, rank: int) -> None:
        with self._lock:
            self._rise((start.job, start.incarnation, rank))

    # -- looking ---------------------------------------------------------------------------------

    def pace(self) -> None:
        """Look at what was launched, and hold best-effort work as tightly as that demands."""
        with self._lock:
            for gpu in self._gpus.values():
                gpu.look(now_ns())

    def look(self, sharers: Iterable[Sharer]) -> Mapping[int, Sequence[SharerNote]]:
        """And clear the slots that nobody has: of ranks that an agent before this one started. Who
        holds more than its cap got it past the shim, and takes it from others: it is ended."""
        found: defaultdict[int, list[SharerNote]] = defaultdict(list)
        sharers = list(sharers)
        for sharer in self._over(sharers):
            log.warning("a rank of %s holds more of a GPU than its cap", sharer.start.job)
            sharer.sandbox.end_overrun()
        with self._lock:
            for sharer in sharers:
                self._recall(sharer)
                found[sharer.index].append(self._note(sharer))
            self._bury()
            held = {(sits.held.index, sits.held.slot) for sits in self._ranks.values()}
            for index in self._known():
                page = self._gpu(index).page
                for slot in range(SLOTS):
                    if page.slot(slot).kind and (index, slot) not in held:
                        page.clear(slot)
        return found

    def _over(self, sharers: Sequence[Sharer]) -> Iterator[Sharer]:
        """By what the driver tells, which is no less than what the shim counts."""
        for index in {sharer.index for sharer in sharers}:
            try:
                held = self._devices.held(index)
            except DeviceUnavailable:
                continue  # the inventory says so
            for sharer in (s for s in sharers if s.index == index) if held else ():
                each = [held[pid] for pid in users(sharer.sandbox) if pid in held]
                if sum(each) > sharer.share.memory_bytes + _BESIDE_BYTES * len(each):
                    yield sharer

    def _note(self, sharer: Sharer) -> SharerNote:
        sits = self._ranks.get(_key(sharer))
        guest = self._gpu(sits.held.index).guests.get(sits.held.slot) if sits else None
        if sits is None or guest is None:
            return noted(sharer, Fare(), 0)
        seen, fare = self._gpu(sits.held.index).page.slot(sits.held.slot), guest.fare
        guest.fare = fare.told()
        uses = any(True for _ in users(sharer.sandbox))
        told = complaint(seen) or self._gpu(sits.held.index).stiff(seen)
        note = noted(sharer, fare, seen.used_bytes, told if uses else "")
        if not self.yields or seen.kind is not Class.BE or not seen.launched:
            return note
        return note.model_copy(update={"unyielding": seen.whole / seen.launched})

    # -- small things ----------------------------------------------------------------------------

    def _gpu(self, index: int) -> SharedGpu:
        if index not in self._gpus:
            path = self._shim.directory / f"{index}.page"
            made = ControlPage if path.exists() else ControlPage.create
            page = made(path, self._shim.library)
            self._gpus[index] = SharedGpu(page, self._bound, yields=self.yields)
        return self._gpus[index]

    def _known(self) -> list[int]:
        return sorted(int(path.stem) for path in self._shim.directory.glob("*.page"))

    def _free(self, index: int) -> int:
        self._bury()
        page = self._gpu(index).page
        taken = {s.held.slot for s in self._ranks.values() if s.held.index == index}
        free = (s for s in range(SLOTS) if s not in taken and not page.slot(s).kind)
        if (slot := next(free, None)) is None:
            raise SandboxFailed(f"device {index} is shared by {SLOTS} ranks already")
        return slot

    def _sit(self, start: Start, rank: int, sandbox: Sandbox, held: Held) -> dict[str, str]:
        seat, found = Seat.of(self._rank_page(start.job, rank)), seat_of(start, rank)
        assert found is not None
        gpu = self._gpu(held.index)
        self._ranks[start.job, start.incarnation, rank] = _Sits(held, seat, sandbox)
        gpu.enter(held.slot, found[1])
        seats.remember(sandbox.directory, held)
        return seat.take(gpu.page.path, held)

    def _rise(self, key: Key) -> None:
        if (sits := self._ranks.pop(key, None)) is not None:
            gpu = self._gpu(sits.held.index)
            gpu.leave(sits.held.slot)
            if sits.seat.at(gpu.page.path):  # else the rank is on another node by now
                sits.seat.leave()

    def _bury(self) -> None:
        """Ranks that stood here for their job's next life, and of which nothing came."""
        for key in [k for k, sits in self._ranks.items() if not sits.sandbox.alive()]:
            self._rise(key)

    def _recall(self, sharer: Sharer) -> None:
        """Of a rank that outlived its agent, or stayed here into its job's next life."""
        key, held = _key(sharer), seats.recall(sharer.sandbox.directory)
        if key in self._ranks or held is None:
            return
        before = [k for k, s in self._ranks.items() if s.held == held]
        for old in before:
            del self._ranks[old]
        seat = Seat.of(self._rank_page(sharer.start.job, sharer.rank))
        self._ranks[key] = _Sits(held, seat, sharer.sandbox)
        gpu = self._gpu(held.index)
        if held.slot not in gpu.guests:
            gpu.enter(held.slot, sharer.share)


def _key(sharer: Sharer) -> Key:
    return sharer.start.job, sharer.start.incarnation, sharer.rank
