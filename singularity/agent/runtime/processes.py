"""Processes of this machine by name that cannot be mistaken, and the trees they form."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_STATE, _START = 0, 19  # fields of /proc/<pid>/stat, counted after the command's name
_DEAD = ("Z", "X")
_NOT_FOR_RANKS = ("SINGULARITY_", "AWS_")  # the second are the agent's keys to the store


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for ever: a pid returns to use, together with its start time it does not.

    `started_ticks` counts from the boot that `boot` names.
    """

    pid: int
    started_ticks: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """None when there is no such process (any more)."""
        stat = _stat(pid)
        return None if stat is None else cls(pid, int(stat[_START]), boot_id())

    def alive(self) -> bool:
        """Whether it runs; a process that has ended and waits to be reaped does not."""
        stat = _stat(self.pid)
        if stat is None or stat[_STATE] in _DEAD or int(stat[_START]) != self.started_ticks:
            return False
        return self.boot == boot_id()

    def kill(self, deadline_s: float) -> bool:
        """SIGKILL, and wait until the kernel is done with it: for PID 1 of a namespace that
        means with everything in it. False when that took longer than `deadline_s`."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive():  # asked after the handle was taken: it cannot change hands now
                return True
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            return bool(select.select([handle], [], [], deadline_s)[0])
        finally:
            os.close(handle)


def for_ranks(base: Mapping[str, str]) -> dict[str, str]:
    """What of the agent's environment ranks may see, in their own and in that of every process
    that is in a sandbox with them: anybody can read /proc/<pid>/environ of what runs as himself."""
    return {name: value for name, value in base.items() if not name.startswith(_NOT_FOR_RANKS)}


def children(pid: int) -> tuple[int, ...]:
    """Direct children, as pids of the caller's own namespace."""
    try:
        return tuple(map(int, (_PROC / f"{pid}/task/{pid}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return ()


def descendants(pid: int) -> Iterator[int]:
    """Everything below `pid`, parents first. Children of a parent's other threads included."""
    for child in _children_of_all_threads(pid):
        yield child
        yield from descendants(child)


def pid_namespace(pid: int) -> str:
    """That it is in, "" where that cannot be known."""
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return ""


def senders(namespace: str) -> list[int]:
    """Those outside of that pid namespace whose children are in it (nsenter)."""
    found = []
    for name in os.listdir("/proc") if namespace else ():
        with suppress(OSError):
            sends = name.isdigit() and os.readlink(f"/proc/{name}/ns/pid_for_children")
            if sends == namespace != os.readlink(f"/proc/{name}/ns/pid"):
                found.append(int(name))
    return found


def inner_pid(pid: int) -> int | None:
    """What `pid` is called in its own pid namespace."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in (_PROC / f"{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for the signal."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in (_PROC / f"{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def writes_to(pid: int, path: str) -> bool:
    """Whether the process has the file open for writing, under whatever name."""
    with suppress(OSError):
        wanted = os.stat(path)
        for number in os.listdir(_PROC / f"{pid}/fd"):
            with suppress(OSError):
                found = os.stat(_PROC / f"{pid}/fd/{number}")
                if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                    lines = (_PROC / f"{pid}/fdinfo/{number}").read_text().splitlines()
                    flags = next(line.split()[1] for line in lines if line.startswith("flags:"))
                    if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                        return True
    return False


def _children_of_all_threads(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in (_PROC / f"{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text().split())
    return found


def _stat(pid: int) -> list[str] | None:
    try:
        text = (_PROC / f"{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


@cache
def boot_id() -> str:
    """Of this machine, until it starts again."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
