"""The control page of a device: 4 KiB shared by the agent and all processes that use the device.

    offset  field        writer  meaning
    0       magic        agent   what this file is
    4       gate         both    a bit for each slot that has closed it, AGENT's bit besides; 0 open
    8       mode         agent   Mode
    12      window       agent   launches of a stream in flight at most
    16      gate_every   agent   a wait for the gate before every n-th launch; 0 means 1
    20      hold_off_us  agent   how long real-time work is idle before the gate opens
    24      shut_ns      both    for how long the gate was closed in all, until it last opened
    32      since_ns     both    when it was last closed, by the monotonic clock
    40      until_ns     agent   when the agent's bit of the gate counts no more; 0 never
    48      together     agent   bytes that all processes of the page may hold; 0: each its own cap
    128     30 slots of 128 bytes, one for each process; their fields see _WORDS and _LONGS

Real-time processes close and open the gate themselves, without the agent. shim.h has the layout
in C. Every field is moved by one machine instruction.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Final

from singularity.agent.device.pace import Rule
from singularity.primitives.errors import InvalidSpec

SIZE_BYTES: Final = 4096
SLOTS: Final = 30
AGENT: Final = 1 << 31  # of the gate
_MAGIC: Final = 0x53475331
_FIRST: Final = 128
_STRIDE: Final = 128
_GATE, _MODE, _WINDOW, _EVERY, _HOLD_OFF = 1, 2, 3, 4, 5  # 4-byte words of the page
_SHUT, _SINCE, _UNTIL, _TOGETHER = 3, 4, 5, 6  # 8-byte words of the page
_CLASS, _PID, _STATUS = 0, 1, 2  # 4-byte words of a slot
# 8-byte words of a slot, in their order
_LONGS: Final = (
    *("launched", "completed", "gated", "blocked_ns"),
    *("used_bytes", "cap_bytes", "denied", "raised"),
    *("whole", "handed", "busy_ns", "left", "repairs", "mended"),
)
_CAP: Final = 2 + _LONGS.index("cap_bytes")


class Mode(IntFlag):
    """What best-effort processes are held to."""

    NONE = 0
    WINDOW = 1  # at most so many launches in flight
    STALL = 2  # launches wait on the device until the gate is open
    STRICT = 4  # a process whose launches are not seen is ended with 78
    YIELD = 8  # kernels that exist as PTX are left block by block, and repaired


class Class(IntEnum):
    NONE = 0
    RT = 1
    BE = 2


class Status(IntEnum):
    """Of the shim in one process."""

    ABSENT = 0  # never loaded: nothing is enforced there
    LOADED = 1  # loaded, no launch seen yet
    SEEING = 2
    BLIND = 3  # the process uses the device by a road that the shim does not know


@dataclass(frozen=True, slots=True)
class Slot:
    """One process as its shim counts. `busy_ns` is for how long real-time work was in flight."""

    kind: Class
    pid: int
    status: Status
    launched: int
    completed: int
    gated: int
    blocked_ns: int
    used_bytes: int
    cap_bytes: int
    denied: int
    raised: int
    whole: int  # launches that ran through where they should yield: machine code, graphs
    handed: int
    busy_ns: int
    left: int  # blocks that yielded
    repairs: int  # grids launched again for them
    mended: int  # torn launches that are whole again


class ControlPage:
    """The agent's side. `library` is the shim itself: the gate is written by many processes at
    once, and Python has no atomic instruction."""

    def __init__(self, path: Path, library: Path) -> None:
        self.path, self.library = path, library
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE_BYTES)
        self._set = ctypes.CDLL(str(library)).singularity_gate
        self._set.argtypes, self._set.restype = (ctypes.c_void_p, *(ctypes.c_uint32,) * 2), None
        self._words = memoryview(self._map).cast("I")
        self._longs = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls, path: Path, library: Path) -> ControlPage:
        path.write_bytes(bytes(SIZE_BYTES))
        path.chmod(0o600)  # whatever the umask: CRIU insists on the mode
        page = cls(path, library)
        page._words[0] = _MAGIC
        return page

    def rule(
        self, mode: Mode, *, window: int = 4, gate_every: int = 1, hold_off_us: int = 200
    ) -> None:
        """Set what holds for the whole device from the next launch on."""
        self._words[_WINDOW], self._words[_EVERY] = window, gate_every
        self._words[_HOLD_OFF], self._words[_MODE] = hold_off_us, int(mode)

    def rules(self) -> tuple[Mode, Rule]:
        """What holds now."""
        return Mode(self._words[_MODE]), Rule(self._words[_WINDOW], self._words[_HOLD_OFF])

    @property
    def gate(self) -> int:
        return self._words[_GATE]

    def close_gate(self, until_ns: int = 0) -> None:
        """Let nothing of the best-effort processes begin. Real-time ones open it after `until_ns`
        (monotonic clock), should the agent not be there to do it; 0 for never."""
        self._longs[_UNTIL] = until_ns
        self._gate(AGENT, 0)

    def open_gate(self) -> None:
        self._gate(0, AGENT)

    def let_pass(self, slot: int) -> None:
        """Open what one process has closed; it goes on where it is."""
        self._gate(0, 1 << slot)

    def shut_ns(self, now_ns: int) -> int:
        """For how long the gate was closed in all, by now."""
        since_ns, shut_ns = int(self._longs[_SINCE]), int(self._longs[_SHUT])
        return shut_ns + (max(0, now_ns - since_ns) if self.gate else 0)

    def _gate(self, close: int, open_: int) -> None:
        page = ctypes.c_uint32.from_buffer(self._map)
        self._set(ctypes.addressof(page), close, open_)

    def admit(self, slot: int, kind: Class, cap_bytes: int = 0) -> Mapping[str, str]:
        """Give a slot to a process to be started; what its environment needs.

        Raises InvalidSpec when the slot does not exist or is taken by a process that lives.
        """
        if not 0 <= slot < SLOTS:
            raise InvalidSpec(f"a device is shared by {SLOTS} processes at most", slot=slot)
        if self._word(slot, _CLASS) and _lives(self._word(slot, _PID)):
            raise InvalidSpec(f"slot {slot} is in use", pid=self._word(slot, _PID))
        self.clear(slot)
        self._words[self._at(slot, 4) + _CLASS] = int(kind)
        self._longs[self._at(slot, 8) + _CAP] = cap_bytes
        return {
            "LD_PRELOAD": str(self.library),
            "SINGULARITY_SHIM_PAGE": str(self.path),
            "SINGULARITY_SHIM_SLOT": str(slot),
        }

    def share(self, cap_bytes: int) -> Mapping[str, str]:
        """For the processes of one container, and of no other: they take slots by themselves, and
        all together hold no more than this. What their environment needs."""
        self._longs[_TOGETHER] = cap_bytes
        return {
            "LD_PRELOAD": str(self.library),
            "SINGULARITY_SHIM_PAGE": str(self.path),
            "SINGULARITY_SHIM_SLOT": "any",
        }

    def cap(self, slot: int, cap_bytes: int) -> None:
        """0 is no cap. Raises InvalidSpec where the process holds more already."""
        held = self.slot(slot).used_bytes
        if cap_bytes and cap_bytes < held:
            raise InvalidSpec(f"it holds {held} bytes, more than a cap of {cap_bytes}", slot=slot)
        self._longs[self._at(slot, 8) + _CAP] = cap_bytes

    def counts(self, slot: int) -> bytes:
        """All that is known of a process, to be taken along when it is carried elsewhere."""
        begin = _FIRST + slot * _STRIDE
        return bytes(self._map[begin : begin + _STRIDE])

    def carry_on(self, slot: int, counts: bytes, cap_bytes: int) -> None:
        """A process that was counted elsewhere goes on in this slot, under this cap.

        Raises InvalidSpec where it holds more, and leaves the slot free.
        """
        begin = _FIRST + slot * _STRIDE
        self.clear(slot)
        self._map[begin : begin + _STRIDE] = counts
        try:
            self.cap(slot, cap_bytes)
        except InvalidSpec:
            self.clear(slot)
            raise

    def slot(self, slot: int) -> Slot:
        long = self._at(slot, 8) + 2
        counts = {name: self._longs[long + i] for i, name in enumerate(_LONGS)}
        kind, status = Class(self._word(slot, _CLASS)), Status(self._word(slot, _STATUS))
        return Slot(kind, self._word(slot, _PID), status, **counts)

    def clear(self, slot: int) -> None:
        """Forget a process, and open what it has closed."""
        begin = _FIRST + slot * _STRIDE
        self._gate(0, 1 << slot)
        self._map[begin : begin + _STRIDE] = bytes(_STRIDE)

    def sweep(self) -> list[int]:
        """Free the slots of processes that are gone; one that died while it held the gate closed
        would freeze all others for ever."""
        gone = [
            slot for slot in range(SLOTS) if (pid := self._word(slot, _PID)) and not _lives(pid)
        ]
        for slot in gone:
            self.clear(slot)
        return gone

    def close(self) -> None:
        self._words.release()
        self._longs.release()
        self._map.close()

    def _at(self, slot: int, size: int) -> int:
        return (_FIRST + slot * _STRIDE) // size

    def _word(self, slot: int, word: int) -> int:
        return self._words[self._at(slot, 4) + word]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def complaint(slot: Slot) -> str:
    """What is wrong with a process that was given this slot and uses its device; "" nothing."""
    if slot.status is Status.ABSENT:
        return "the shim was never loaded (a static program, or LD_PRELOAD was taken away)"
    if slot.status is Status.BLIND:
        return "it uses the device, but none of its launches is seen"
    return ""
