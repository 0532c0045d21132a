"""One GPU that is shared: its page, who is on it, how best-effort work is held, how all fare."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from singularity.primitives.sharing import DeviceShare, Precedence

from .device.fare import Fare
from .device.pace import Bound, Look, Pace, paced
from .shim.page import Class, ControlPage, Mode, Slot

log = logging.getLogger(__name__)

EVERY_S: Final = 0.05  # between two looks
_CALM_S: Final = 5.0  # after a look that failed
_TRIAL_NS: Final = 1_000_000_000  # by then a trial is over, or its agent is dead
_SHUT: Final = 0.9  # of a look: behind a gate closed for so long nobody launches
_STALLED: Final = 32  # launches, by which one has waited on the device if any can


@dataclass(slots=True)
class Guest:
    """The rank in one slot: what its shim had counted when it was last looked at, whether it had
    work then, and how it fares."""

    share: DeviceShare
    seen: Slot
    works: bool = False
    fare: Fare = field(default_factory=Fare)

    @property
    def first(self) -> bool:
        return self.share.precedence is Precedence.REAL_TIME


class SharedGpu:
    """Looked at from one thread at a time."""

    def __init__(self, page: ControlPage, bound: Bound, *, yields: bool = False) -> None:
        """Where it `yields`, best-effort kernels leave the device block by block."""
        self.page, self._bound, self._yields = page, bound, yields
        self.pace = Pace()
        self.guests: dict[int, Guest] = {}  # by slot
        self._looked_ns = self._shut_ns = 0
        page.open_gate()  # an agent before this one may have died in a trial
        self._rule()

    def enter(self, slot: int, share: DeviceShare) -> None:
        self.guests[slot] = Guest(share, self.page.slot(slot))

    def leave(self, slot: int) -> None:
        self.guests.pop(slot, None)
        self.page.clear(slot)

    def look(self, now_ns: int) -> None:
        """Count what was since the last time, and set what holds until the next."""
        shut_ns = self.page.shut_ns(now_ns)
        wall_s, shut_s = (now_ns - self._looked_ns) / 1e9, (shut_ns - self._shut_ns) / 1e9
        first, self._looked_ns, self._shut_ns = not self._looked_ns, now_ns, shut_ns
        launches, busy_s, beside = 0, 0.0, False
        found: list[tuple[Guest, int, float]] = []
        for slot, guest in self.guests.items():
            before, now = guest.seen, self.page.slot(slot)
            guest.seen = now
            more, more_s = now.launched - before.launched, (now.busy_ns - before.busy_ns) / 1e9
            found.append((guest, more, more_s))
            if guest.first:
                launches, busy_s = launches + more, busy_s + more_s
            else:
                guest.works = more > 0 or (guest.works and shut_s > _SHUT * wall_s)
                beside = beside or guest.works
        if first:
            return
        for guest, more, more_s in found:
            wanted_s, got_s = wall_s, max(0.0, wall_s - shut_s)
            if guest.first:
                wanted_s, got_s = more_s, self.pace.alone(more, more_s)
            elif not guest.works:
                wanted_s = got_s = 0.0
            guest.fare = guest.fare.after(guest.share, wall_s, wanted_s, got_s)
        self._set(paced(self.pace, Look(launches, busy_s, beside), self._bound), now_ns)

    def _set(self, pace: Pace, now_ns: int) -> None:
        before, self.pace = self.pace, pace
        if pace.trial and not before.trial:
            self.page.close_gate(now_ns + _TRIAL_NS)
        elif before.trial and not pace.trial:
            self.page.open_gate()
        self._rule()

    def _rule(self) -> None:
        """Launches that do not wait on the device wait in their process, a few ahead of it."""
        loose = any(_loose(guest.seen) for guest in self.guests.values() if not guest.first)
        rule, mode = self.pace.rule, Mode.STALL | Mode.WINDOW if loose else Mode.STALL
        if self._yields:
            mode |= Mode.YIELD
        self.page.rule(mode, window=rule.window, hold_off_us=rule.hold_off_us)

    def stiff(self, slot: Slot) -> str:
        """Why nothing of what that best-effort process runs can yield, as it should; "" else."""
        if not self._yields or slot.kind is not Class.BE or not _loose(slot):
            return ""
        return "its launches cannot wait on the device, so nothing of it yields (see its log)"


def _loose(slot: Slot) -> bool:
    """Its launches do not wait on the device."""
    return slot.launched >= _STALLED and not slot.gated


class Pacemaker(threading.Thread):
    """Calls `look` again and again, until it is stopped; whatever goes wrong in one look, there is
    another."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__(name="pacemaker", daemon=True)
        self._look, self._over = look, threading.Event()

    def run(self) -> None:
        while not self._over.wait(EVERY_S):
            try:
                self._look()
            except Exception:
                log.exception("shared devices were not looked at")
                self._over.wait(_CALM_S)

    def stop(self) -> None:
        self._over.set()
        self.join()


def now_ns() -> int:
    """By the clock of the shims."""
    return time.monotonic_ns()
