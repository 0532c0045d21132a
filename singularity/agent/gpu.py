"""Ranks that use CUDA, taken out of memory and put back: the driver's checkpoint around CRIU's.

Before a dump each process of the rank that has a CUDA context is locked and its device memory
brought into its own (the driver closes its device files meanwhile); then CRIU sees an ordinary
process. Afterwards the memory goes back and the process runs on. A restored process is brought back
the same way, on other GPUs of the same type by a map of their UUIDs.

The driver is asked through ctypes: five calls of its C interface (driver 570 and later, a map of
GPUs 580 and later), whose arguments are 64 bytes each, zero where unused.
"""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

from pydantic import TypeAdapter

from singularity.primitives.errors import CheckpointFailed, ImageUnfit, RestoreFailed

from .checkpoint import CriuCheckpointer, Dump
from .runtime.processes import descendants
from .runtime.sandbox import Sandbox

log = logging.getLogger(__name__)

_LIBRARY: Final = "libcuda.so.1"
_NOTE: Final = "gpus.json"  # beside the images of a rank: the UUIDs of the node's GPUs, in order
_GPUS: Final = TypeAdapter(tuple[UUID, ...])
_LOCK_MS: Final = 10_000  # for what a process has queued on its devices
_HOLDS_MEMORY: Final = """
import ctypes, sys
cuda, size = ctypes.CDLL(sys.argv[1]), 1 << 20
context, memory, device = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_int()
before = ctypes.create_string_buffer(bytes(range(256)) * 4096, size)
after = (ctypes.c_char * size)()
codes = [
    cuda.cuInit(0),
    cuda.cuDeviceGet(ctypes.byref(device), 0),
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
    cuda.cuCtxSetCurrent(context),
    cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(size)),
    cuda.cuMemcpyHtoD_v2(memory, before, ctypes.c_size_t(size)),
]
print("failed" if any(codes) else "ready", flush=True)
sys.stdin.readline()
code = cuda.cuMemcpyDtoH_v2(after, memory, ctypes.c_size_t(size))
print("same" if not code and after.raw == before.raw else "other", flush=True)
"""
_NEEDED: Final = ("GetState", "Lock", "Checkpoint", "Restore", "Unlock")


class Process(IntEnum):
    """What the driver says of a process; more states may come with newer drivers."""

    RUNNING = 0
    LOCKED = 1
    CHECKPOINTED = 2
    FAILED = 3


class DriverRefused(Exception):
    """A call of the driver ended with an error; says which and of what process."""


class Driver(Protocol):
    """The part of the CUDA driver that moves a process off its devices and back."""

    @property
    def gpus(self) -> tuple[UUID, ...]: ...

    def state(self, pid: int) -> int: ...

    def lock(self, pid: int) -> None: ...

    def checkpoint(self, pid: int) -> None: ...

    def restore(self, pid: int, pairs: Sequence[tuple[UUID, UUID]]) -> None:
        """`pairs` are (was on, goes to) for every GPU, () to go back to the same."""

    def unlock(self, pid: int) -> None: ...


class _LockArgs(ctypes.Structure):
    _fields_ = (("timeout_ms", ctypes.c_uint), ("reserved", ctypes.c_char * 60))


class _Pair(ctypes.Structure):
    _fields_ = (("old", ctypes.c_ubyte * 16), ("new", ctypes.c_ubyte * 16))


class _RestoreArgs(ctypes.Structure):
    _fields_ = (
        ("pairs", ctypes.POINTER(_Pair)),
        ("count", ctypes.c_uint),
        ("reserved", ctypes.c_char * 52),
    )


class _Nothing(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_char * 64),)


class CudaDriver:
    """The driver of this machine, initialised in this process."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.gpus = tuple(self._gpus())

    @classmethod
    def open(cls) -> CudaDriver:
        """Raises DriverRefused with what is missing: the driver, a GPU, or a newer driver."""
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise DriverRefused(f"no CUDA driver is installed: {error}") from error
        missing = [n for n in _NEEDED if not hasattr(library, f"cuCheckpointProcess{n}")]
        if missing:
            raise DriverRefused("the CUDA driver is older than 570, and cannot move a process")
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # GPUs have the numbers that NVML gives them
        if code := library.cuInit(0):
            raise DriverRefused(f"the CUDA driver does not start: error {code}")
        return cls(library)

    def state(self, pid: int) -> int:
        found = ctypes.c_int()
        self._call("GetState", pid, ctypes.byref(found))
        return found.value

    def lock(self, pid: int) -> None:
        self._call("Lock", pid, ctypes.byref(_LockArgs(timeout_ms=_LOCK_MS)))

    def checkpoint(self, pid: int) -> None:
        self._call("Checkpoint", pid, ctypes.byref(_Nothing()))

    def restore(self, pid: int, pairs: Sequence[tuple[UUID, UUID]]) -> None:
        array = (_Pair * len(pairs))()
        for slot, (old, new) in zip(array, pairs, strict=True):
            slot.old[:], slot.new[:] = tuple(old.bytes), tuple(new.bytes)
        args = _RestoreArgs(pairs=array if pairs else None, count=len(pairs))
        self._call("Restore", pid, ctypes.byref(args))

    def unlock(self, pid: int) -> None:
        self._call("Unlock", pid, ctypes.byref(_Nothing()))

    def _call(self, name: str, pid: int, argument: object) -> None:
        if code := getattr(self._library, f"cuCheckpointProcess{name}")(pid, argument):
            raise DriverRefused(f"the CUDA driver answers {name.lower()} of {pid} with {code}")

    def _gpus(self) -> Iterator[UUID]:
        count, found = ctypes.c_int(), (ctypes.c_ubyte * 16)()
        if code := self._library.cuDeviceGetCount(ctypes.byref(count)):
            raise DriverRefused(f"the CUDA driver does not count its devices: error {code}")
        for device in range(count.value):
            if code := self._library.cuDeviceGetUuid_v2(found, device):
                raise DriverRefused(f"GPU {device} does not tell its UUID: error {code}")
            yield UUID(bytes=bytes(found))


def prove(driver: Driver) -> float:
    """Seconds that a process with a little memory on a GPU was off it; its memory was as before.
    Raises DriverRefused with what went wrong."""
    argv = [sys.executable, "-I", "-S", "-c", _HOLDS_MEMORY, _LIBRARY]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        if child.stdout.readline() != "ready\n":
            raise DriverRefused("a process gets no memory on the first GPU")
        began_s = time.monotonic()
        try:
            driver.lock(child.pid)
            driver.checkpoint(child.pid)
            driver.restore(child.pid, ())
            driver.unlock(child.pid)
            took_s = time.monotonic() - began_s
            child.stdin.write("go on\n")
            child.stdin.flush()
            if child.stdout.readline() != "same\n":
                raise DriverRefused("a process did not find its memory as it was")
        finally:
            child.kill()
    return took_s


def nothing(_sandbox: Sandbox, _images: Path) -> None:
    """Nothing is known of the rank's devices besides."""


def nowhere(_directory: Path) -> Mapping[int, int]:
    """No GPU follows another than that of its number."""
    return {}


class GpuCheckpointer(CriuCheckpointer):
    """A rank that uses no GPU goes through it as through CRIU alone. `note` is called while it is
    off its devices; `moves`, of the directory of the sandbox that it is brought back to, tells by
    number which GPU it goes to from which."""

    def __init__(
        self,
        criu: Path,
        driver: Driver,
        note: Callable[[Sandbox, Path], None] = nothing,
        moves: Callable[[Path], Mapping[int, int]] = nowhere,
    ) -> None:
        super().__init__(criu)
        self._driver, self._note, self._moves = driver, note, moves

    def dump(self, sandbox: Sandbox, images: Path) -> Dump:
        began_s = time.monotonic()
        with self._off_devices(sandbox) as pids:
            images.mkdir(parents=True, exist_ok=True)
            self._note(sandbox, images)
            dump = super().dump(sandbox, images)
            if pids:
                (images / _NOTE).write_bytes(_GPUS.dump_json(self._driver.gpus))
        return Dump(time.monotonic() - began_s, dump.bytes, dump.files)

    def idle(self, images: Path) -> bool:
        return not (images / _NOTE).exists()  # its memory is back on the device

    def restore(self, sandbox: Sandbox, images: Path, deadline_s: float) -> float:
        began_s = time.monotonic()
        note = images / _NOTE
        was_on = _GPUS.validate_json(note.read_bytes()) if note.exists() else ()
        pairs = paired(was_on, self._driver.gpus, self._moves(sandbox.directory))
        super().restore(sandbox, images, deadline_s)
        try:
            for pid in users(sandbox) if was_on else ():
                self._driver.restore(pid, pairs)
                self._driver.unlock(pid)
        except DriverRefused as error:
            sandbox.remove()
            raise RestoreFailed(str(error)) from error
        return time.monotonic() - began_s

    @contextmanager
    def _off_devices(self, sandbox: Sandbox) -> Iterator[tuple[int, ...]]:
        """The processes that use CUDA, with their device memory in their own. Whatever happens,
        they are back on their devices afterwards; one that cannot go back is killed, and its gang
        fails over, for it would wait for ever."""
        pids = tuple(users(sandbox))
        try:
            try:
                for pid in pids:
                    self._driver.lock(pid)
                for pid in pids:
                    self._driver.checkpoint(pid)
            except DriverRefused as error:
                raise CheckpointFailed(f"{error}; it runs on") from error
            yield pids
        finally:
            self._bring_back(sandbox, pids)

    def _bring_back(self, sandbox: Sandbox, pids: Iterable[int]) -> None:
        for pid in pids:
            try:
                state = self._driver.state(pid)
                if state == Process.CHECKPOINTED:
                    self._driver.restore(pid, ())
                if state in (Process.CHECKPOINTED, Process.LOCKED):
                    self._driver.unlock(pid)
                if state == Process.FAILED:
                    raise DriverRefused(f"process {pid} lost its devices")
            except DriverRefused:
                log.exception("a rank cannot go back to its devices, and is killed")
                sandbox.kill()
                return


def paired(
    was_on: Sequence[UUID], now: Sequence[UUID], moves: Mapping[int, int]
) -> tuple[tuple[UUID, UUID], ...]:
    """Where each GPU of the node before has its successor: as `moves` says by number, else the one
    of its number, else another that follows none. () where all are the same.

    Raises ImageUnfit when there are not as many.
    """
    if len(now) < len(was_on):
        raise ImageUnfit(f"it was on a node with {len(was_on)} GPUs, and this one has {len(now)}")
    to = {old: new for old, new in moves.items() if was_on}
    if any(old >= len(was_on) or new >= len(now) for old, new in to.items()):
        raise ImageUnfit(f"of its GPUs {sorted(to)} one was not there, or is not here")
    free = [new for new in range(len(now)) if new not in to.values()]
    for old in range(len(was_on)):  # those first that can be followed by their like
        if old not in to and old in free:
            free.remove(old)
            to[old] = old
    left = iter(free)
    after = [now[to[old] if old in to else next(left)] for old in range(len(was_on))]
    if list(was_on) == after:
        return ()
    return tuple(zip(was_on, after, strict=True))


def users(sandbox: Sandbox) -> Iterator[int]:
    """Processes of the sandbox that have loaded the driver."""
    for pid in descendants(sandbox.supervisor.pid):
        with suppress(OSError):
            if "/libcuda.so" in Path(f"/proc/{pid}/maps").read_text():
                yield pid
