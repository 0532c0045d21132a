"""The control page: 4 KiB shared by one rank and its agent, and the only channel between them.

The file is mapped and its descriptor closed, so polling costs no system call and a dump of the
rank finds nothing but a mapping to reopen by path. Each field has one writer. Every field is
naturally aligned and moved by one machine instruction (a cast memoryview copies whole words), so
neither side ever reads half of a value; struct's byte-wise little-endian mode would not do.

    offset  field       writer  meaning
    0       magic       agent   what this file is
    4       command     both    RESUME by the agent, back to RUN by the rank that obeyed
    8       state       rank    State
    12      sockets     rank    sockets left open at the park; 0 is what a dump wants
    16      step        rank    mini-batches completed
    24      stop        agent   hold at the mini-batch where step >= stop; 0 never
    32      commit      agent   park where step == commit; 0 never
    40      generation  rank    generation of the rendezvous in use
    44      slot        agent   time slice this rank belongs to; -1 none
    48      length      agent   bytes of JSON at 128: the rendezvous
    52      turn        rank    the slot whose turns it takes now; -1 none
    56      crossings   rank    places at which it could be held: what it came to that it does with
                                others, and its mini-batches
    64      groups      rank    process groups that it has, or is about to make
    68      closed      agent   1 while no process may join a world (see family.py)
    72      halt        agent   hold where crossings >= halt; 0 never
    80      settle      agent   park where crossings == settle; 0 never
    128     text        agent   the rendezvous
    2048    table       rank    what it has begun with others (see deals.py)

A gang is held by one of two clocks: where all ranks train, by mini-batches, whose numbers are equal
in all; else each by a number of its own, of what it has come to (agent/closure.py).
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, TypedDict

SIZE_BYTES: Final = 4096
MAGIC: Final = 0x53474C34  # "SGL4": a new layout takes a new number

_MAGIC, _COMMAND, _STATE, _SOCKETS = 0, 1, 2, 3  # 4-byte words
_GENERATION, _SLOT, _LENGTH, _TURN = 10, 11, 12, 13
STEP, STOP, COMMIT, CROSSINGS = 2, 3, 4, 7  # 8-byte words
_GROUPS, _CLOSED = 16, 17  # 4-byte words
HALT, SETTLE = 9, 10  # 8-byte words
_TEXT: Final = 128  # in bytes
_TABLE: Final = 2048  # in bytes
_TEXT_MAX_BYTES: Final = _TABLE - _TEXT
TABLE_WORDS: Final = (SIZE_BYTES - _TABLE) // 8

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (*(ctypes.c_void_p, ctypes.c_size_t), *(ctypes.c_int,) * 3, ctypes.c_long)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE


class Command(IntEnum):
    """What the agent asks of a parked rank."""

    RUN = 0
    RESUME = 1


class State(IntEnum):
    """Where the rank is, as it says itself."""

    NONE = 0  # the interposer never loaded: no torch, or one that it does not understand
    LOADED = 1  # torch is imported
    RUNNING = 2  # a boundary or a process group was seen: the rank can be cut
    HOLDING = 3  # waits at a boundary for the cut to be committed or raised
    PARKED = 4  # no socket left: may be dumped, killed or resumed
    REBUILDING = 5  # reconnects at the new rendezvous
    EXITED = 6  # the interpreter shut down in order


class Clock(IntEnum):
    """What a rank can be held by; a gang by the least of its ranks'."""

    NONE = 0  # it has come to no boundary yet
    CROSSINGS = 1  # no optimizer has stepped
    STEPS = 2


class _Meeting(TypedDict):
    store: str  # path on the volume; "" means that the rank connects as plain torch would
    generation: int
    ip: str  # this rank's own address; "" is 127.0.0.1


class Rendezvous(_Meeting, total=False):
    """Where the gang meets: a FileStore file, never used before in any earlier attempt."""

    note: int  # the step at which to note the hash of the parameters


NOWHERE: Final[Rendezvous] = {"store": "", "generation": 0, "ip": ""}


@dataclass(frozen=True, slots=True)
class ParkRecord:
    """What a rank notes beside its page when it parks, for those who dump it."""

    step: int
    sockets: tuple[str, ...]  # links of the descriptors that stayed open, e.g. "socket:[4711]"
    tensors: tuple[tuple[int, int], ...]  # (address, bytes): cut chunks here and ranks dedup
    teardown_s: float

    @staticmethod
    def path(page: Path) -> Path:
        """Where the record of the rank behind `page` lies."""
        return page.with_name(page.name + ".json")

    @classmethod
    def load(cls, page: Path) -> ParkRecord:
        """Read the record beside `page`; OSError if the rank never parked."""
        raw: Mapping[str, object] = json.loads(cls.path(page).read_text())
        return cls(
            step=_integer(raw["step"]),
            sockets=tuple(str(link) for link in _items(raw["sockets"])),
            tensors=tuple(_extent(pair) for pair in _items(raw["tensors"])),
            teardown_s=_real(raw["teardown_s"]),
        )

    def save(self, page: Path) -> None:
        """Write the record whole or not at all, before the state says PARKED."""
        target = self.path(page)
        scratch = target.with_name(target.name + ".new")
        scratch.write_text(json.dumps(asdict(self)))
        scratch.replace(target)


def note_path(job: Path, step: int, rank: str) -> Path:
    """Where `rank`, by the name of its page, notes a hash: in the job's directory on the volume."""
    return job / "digests" / f"{step}-{rank}.json"


class Page:
    """One mapped control page. Both sides hold one; see the module for who writes which field."""

    def __init__(self, path: Path) -> None:
        """Map the page at `path`. OSError if there is none, ValueError if it is not a page."""
        if sys.byteorder != "little":
            raise ValueError("the control page is defined for little-endian machines only")
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size < SIZE_BYTES:  # touching the rest would be fatal
                raise ValueError(f"not a control page: {path}")
            self._view(_map_shared(self, descriptor))
        finally:
            os.close(descriptor)
        if self._words[_MAGIC] != MAGIC:
            raise ValueError(f"not a control page: {path}")

    @classmethod
    def create(cls, path: Path) -> Page:
        """Make the page, or wipe the one that is there, with every field zero and no slot.

        Wiped in place: shortening a file under a rank that maps it would kill the rank.
        """
        blank = bytearray(SIZE_BYTES)
        words, signed = memoryview(blank).cast("I"), memoryview(blank).cast("i")
        words[_MAGIC] = MAGIC
        signed[_SLOT] = signed[_TURN] = -1
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, SIZE_BYTES)
            os.pwrite(descriptor, blank, 0)
        finally:
            os.close(descriptor)
        return cls(path)

    def detach(self) -> None:
        """Swap the shared page for private memory: a forked child must not speak for its parent."""
        private = memoryview(bytearray(SIZE_BYTES))
        private.cast("i")[_SLOT] = -1
        self._view(private)

    def _view(self, memory: memoryview) -> None:
        self._bytes = memory
        self._words = self._bytes.cast("I")
        self._signed = self._bytes.cast("i")
        self.longs = self._bytes.cast("Q")  # by STEP and its like; what a rank does all the time
        self.table = self._bytes[_TABLE:].cast("Q")

    # -- the agent's verbs -----------------------------------------------------------------------
    def acknowledges(self, stop: int) -> bool:
        """Whether the rank is sure to hold at `stop`, or holds there. Ask 1 ms after writing it.

        A rank that shows count == stop without holding may already be past the look at `stop`.
        """
        count = self.count
        return count < stop or (count == stop and self.state in (State.HOLDING, State.PARKED))

    @property
    def clock(self) -> Clock:
        """By what the rank can be held now; it never becomes less."""
        if self.step:
            return Clock.STEPS
        return Clock.CROSSINGS if self.crossings else Clock.NONE

    @property
    def count(self) -> int:
        """How far the rank is, by its clock."""
        return self.step or self.crossings

    def hold_at(self, count: int) -> None:
        """By its clock; 0 for nowhere."""
        self.stop, self.halt = (0, count) if self.clock is Clock.CROSSINGS else (count, 0)

    def resume(self, rendezvous: Rendezvous, stop: int = 0) -> None:
        """Tell a parked rank to reconnect and go on, until `stop` where that is not 0; the cut's
        own fields are cleared first."""
        self.hold_at(stop)
        self.commit = self.settle = 0
        self.rendezvous = rendezvous
        self.command = Command.RESUME

    # -- fields ----------------------------------------------------------------------------------
    @property
    def command(self) -> Command:
        return Command(self._words[_COMMAND])

    @command.setter
    def command(self, value: Command) -> None:
        self._words[_COMMAND] = value

    @property
    def state(self) -> State:
        return State(self._words[_STATE])

    @state.setter
    def state(self, value: State) -> None:
        self._words[_STATE] = value

    @property
    def sockets(self) -> int:
        return self._words[_SOCKETS]

    @sockets.setter
    def sockets(self, value: int) -> None:
        self._words[_SOCKETS] = value

    @property
    def step(self) -> int:
        return self.longs[STEP]

    @step.setter
    def step(self, value: int) -> None:
        self.longs[STEP] = value

    @property
    def crossings(self) -> int:
        return self.longs[CROSSINGS]

    @crossings.setter
    def crossings(self, value: int) -> None:
        self.longs[CROSSINGS] = value

    @property
    def stop(self) -> int:
        return self.longs[STOP]

    @stop.setter
    def stop(self, value: int) -> None:
        self.longs[STOP] = value

    @property
    def commit(self) -> int:
        return self.longs[COMMIT]

    @commit.setter
    def commit(self, value: int) -> None:
        self.longs[COMMIT] = value

    @property
    def halt(self) -> int:
        return self.longs[HALT]

    @halt.setter
    def halt(self, value: int) -> None:
        self.longs[HALT] = value

    @property
    def settle(self) -> int:
        return self.longs[SETTLE]

    @settle.setter
    def settle(self, value: int) -> None:
        self.longs[SETTLE] = value

    @property
    def generation(self) -> int:
        return self._words[_GENERATION]

    @generation.setter
    def generation(self, value: int) -> None:
        self._words[_GENERATION] = value

    @property
    def slot(self) -> int:
        return self._signed[_SLOT]

    @slot.setter
    def slot(self, value: int) -> None:
        self._signed[_SLOT] = value

    @property
    def turn(self) -> int:
        return self._signed[_TURN]

    @turn.setter
    def turn(self, value: int) -> None:
        self._signed[_TURN] = value

    @property
    def groups(self) -> int:
        return self._words[_GROUPS]

    @groups.setter
    def groups(self, value: int) -> None:
        self._words[_GROUPS] = value

    @property
    def closed(self) -> bool:
        return bool(self._words[_CLOSED])

    @closed.setter
    def closed(self, value: bool) -> None:
        self._words[_CLOSED] = value

    @property
    def rendezvous(self) -> Rendezvous:
        """The rendezvous last written, or the empty one. Written before the launch or RESUME."""
        length = self._words[_LENGTH]
        if not length:
            return NOWHERE
        raw = json.loads(bytes(self._bytes[_TEXT : _TEXT + length]))
        found: Rendezvous = {
            "store": str(raw["store"]),
            "generation": int(raw["generation"]),
            "ip": str(raw["ip"]),
        }
        if "note" in raw:
            found["note"] = int(raw["note"])
        return found

    @rendezvous.setter
    def rendezvous(self, value: Rendezvous) -> None:
        text = json.dumps(value).encode()
        if len(text) > _TEXT_MAX_BYTES:
            raise ValueError(f"rendezvous of {len(text)} bytes; at most {_TEXT_MAX_BYTES} fit")
        self._words[_LENGTH] = 0  # nobody reads new bytes at the old length
        self._bytes[_TEXT : _TEXT + len(text)] = text
        self._words[_LENGTH] = len(text)


def _map_shared(owner: Page, descriptor: int) -> memoryview:
    """Map the file for as long as `owner` lives. mmap.mmap would keep a descriptor to it open."""
    address = _LIBC.mmap(None, SIZE_BYTES, _READ_WRITE, mmap.MAP_SHARED, descriptor, 0)
    if address in (None, _MAP_FAILED):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # Not at exit: the rank's last word is written later than that.
    weakref.finalize(owner, _LIBC.munmap, address, SIZE_BYTES).atexit = False
    return memoryview((ctypes.c_ubyte * SIZE_BYTES).from_address(address)).cast("B")


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError(f"not an integer in a park record: {value!r}")
    return value


def _real(value: object) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"not a number in a park record: {value!r}")
    return float(value)


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"not a list in a park record: {value!r}")
    return value


def _extent(value: object) -> tuple[int, int]:
    address, size_bytes = _items(value)
    return _integer(address), _integer(size_bytes)
