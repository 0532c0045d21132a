"""Limits and accounting of one sandbox, by cgroup v2 or v1, where this process may make one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_MOUNT: Final = Path("/sys/fs/cgroup")
_PERIOD_US: Final = 100_000
_LEAST_QUOTA_US: Final = 1_000
_REMOVE_S: Final = 2.0
_CONTROLLERS_V1: Final = ("memory", "cpu", "cpuacct", "pids")
_HANDED_ON: Final = "+memory +cpu +pids"
_IDLE: Final = "be"  # the group of a device for those that take what the others leave
_TRIES: Final = 5  # against whoever removes a group as empty while we make one inside
# Enters each cgroup named before `--`, then becomes the command named after it.
_ENTER: Final = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit 125; shift; done; shift; exec "$@"'


@dataclass(frozen=True, slots=True)
class Seat:
    """A part of a device that consists of processors, `cpus` in all; groups that name the same
    `device` share it. With `first` a group goes before those without, and has its part at most;
    those without divide in the ratio of their parts what is left."""

    device: str
    cpus: float
    milli: int
    first: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use at most; None is no limit. `cpus` may be a fraction."""

    memory_bytes: int | None = None
    cpus: float | None = None
    processes: int | None = None
    seat: Seat | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox uses (memory) and has used (processor seconds). `waited_s` is how long its
    threads could have run in all, and were not let: others ran, or its quota was used up."""

    memory_bytes: int
    cpu_s: float
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cgroup:
    """`paths` is one directory (v2), or one for each controller (v1); `above` are those that it
    shares with others, the innermost first."""

    paths: tuple[Path, ...]
    unified: bool
    above: tuple[Path, ...] = ()

    def enter(self, argv: Sequence[str]) -> list[str]:
        """`argv` as a command that runs inside this group, from its first instruction on."""
        doors = [str(path / "cgroup.procs") for path in self.paths]
        return ["sh", "-c", _ENTER, "sh", *doors, "--", *argv]

    def usage(self) -> Usage | None:
        """None when the group is gone."""
        waited_s = self._waited_s()
        try:
            if self.unified:
                stat = dict(map(str.split, (self.paths[0] / "cpu.stat").read_text().splitlines()))
                memory = int((self.paths[0] / "memory.current").read_text())
                return Usage(memory, int(stat["usage_usec"]) / 1e6, waited_s)
            memory = int((self.path("memory") / "memory.usage_in_bytes").read_text())
            cpu = int((self.path("cpuacct") / "cpuacct.usage").read_text())
            return Usage(memory, cpu / 1e9, waited_s)
        except FileNotFoundError:
            return None

    def overran(self) -> bool:
        """Has the kernel killed a process in it for want of memory?"""
        name = "memory.events" if self.unified else "memory.oom_control"
        with contextlib.suppress(FileNotFoundError):
            lines = (self.path("memory") / name).read_text().splitlines()
            return dict(map(str.split, lines)).get("oom_kill", "0") != "0"
        return False

    def path(self, controller: str) -> Path:
        return self.paths[0 if self.unified else _CONTROLLERS_V1.index(controller)]

    def _waited_s(self) -> float:
        """Of the threads that are there now: on a run queue and not running, throttled or not."""
        found_ns = 0
        with contextlib.suppress(FileNotFoundError):
            for pid in (self.path("cpu") / "cgroup.procs").read_text().split():
                for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                    with contextlib.suppress(OSError, IndexError):
                        found_ns += int(thread.read_text().split()[1])
        return found_ns / 1e9

    def remove(self) -> None:
        """Once its processes are gone; the kernel takes a moment to notice that they are."""
        deadline_s = time.monotonic() + _REMOVE_S
        for path in self.paths:
            while path.exists() and time.monotonic() < deadline_s:
                try:
                    path.rmdir()
                except OSError:
                    time.sleep(0.005)
        for path in self.above:
            with contextlib.suppress(OSError):  # others are in it still
                path.rmdir()


@dataclass(frozen=True, slots=True)
class _Parent:
    """Where groups can be made, or (no paths) why not."""

    paths: tuple[Path, ...]
    unified: bool
    reason: str = ""


def make_cgroup(name: str, limits: Limits) -> tuple[Cgroup | None, str]:
    """A group called `name` with these limits, or None and the reason why there is none."""
    parent = _parent()
    if not parent.paths:
        return None, parent.reason
    group = _named(parent, name, limits.seat)
    try:
        _make(group, limits.seat)
        for file, value in _settings(group, limits):
            file.write_text(value)
    except OSError as error:
        group.remove()
        return None, f"cgroup {name}: {error}"
    return group, ""


def obstacle() -> str:
    """Why no groups can be made here, "" where they can."""
    return _parent().reason


def preempts() -> bool:
    """Can a group of processes here go before others on the same processors? Found by trying."""
    name = f"probe-{os.getpid()}"
    group, _ = make_cgroup(name, Limits(seat=Seat(name, 1.0, 1, first=False)))
    if group is None:
        return False
    found = (group.above[0] / "cpu.idle").exists()
    group.remove()
    return found


def _named(parent: _Parent, name: str, seat: Seat | None) -> Cgroup:
    """Processors are shared where the controller of processors is; all of them, with v2."""
    if seat is None:
        return Cgroup(tuple(path / name for path in parent.paths), parent.unified)
    at = 0 if parent.unified else _CONTROLLERS_V1.index("cpu")
    device = parent.paths[at] / seat.device
    above = (device,) if seat.first else (device / _IDLE, device)
    paths = [path / name for path in parent.paths]
    paths[at] = above[0] / name
    return Cgroup(tuple(paths), parent.unified, above)


def _make(group: Cgroup, seat: Seat | None) -> None:
    """From the top down, and again where somebody removed a group that was empty meanwhile."""
    for left in reversed(range(_TRIES)):
        try:
            for path in reversed(group.above):  # each hands on what it was handed
                path.mkdir(exist_ok=True)
                if group.unified:
                    (path / "cgroup.subtree_control").write_text(_HANDED_ON)
            for path in group.paths:
                path.mkdir(exist_ok=True)
            break
        except FileNotFoundError:
            if not left:
                raise
    if seat is not None and not seat.first:
        if (idle := group.above[0] / "cpu.idle").exists():  # Linux 5.15 and later
            idle.write_text("1")
        for file, value in _quota(group.above[0], seat.cpus, group.unified):
            file.write_text(value)


def _quota(path: Path, cpus: float, unified: bool) -> list[tuple[Path, str]]:
    quota_us = max(_LEAST_QUOTA_US, int(cpus * _PERIOD_US))
    if unified:
        return [(path / "cpu.max", f"{quota_us} {_PERIOD_US}")]
    return [
        (path / "cpu.cfs_period_us", str(_PERIOD_US)),
        (path / "cpu.cfs_quota_us", str(quota_us)),
    ]


def _part(path: Path, seat: Seat, unified: bool) -> list[tuple[Path, str]]:
    """As a limit for whoever goes first, as a weight among the others."""
    if seat.first:
        return _quota(path, seat.cpus * seat.milli / 1000, unified)
    if unified:
        return [(path / "cpu.weight", str(max(1, seat.milli // 10)))]
    return [(path / "cpu.shares", str(max(2, seat.milli * 1024 // 1000)))]


def _settings(group: Cgroup, limits: Limits) -> list[tuple[Path, str]]:
    cpu = group.path("cpu")
    memory = "memory.max" if group.unified else "memory.limit_in_bytes"
    found = []
    if limits.memory_bytes is not None:
        found.append((group.path("memory") / memory, str(limits.memory_bytes)))
    if limits.processes is not None:
        found.append((group.path("pids") / "pids.max", str(limits.processes)))
    if limits.cpus:
        found += _quota(cpu, limits.cpus, group.unified)
    if limits.seat is not None:
        found += _part(cpu, limits.seat, group.unified)
    return found


@cache
def _parent() -> _Parent:
    """Found once: mounts and rights do not change under a running agent."""
    if (_MOUNT / "cgroup.controllers").exists():
        return _parent_v2()
    own = _own_groups()
    paths = []
    for name in _CONTROLLERS_V1:
        path = (_MOUNT / name).joinpath(own.get(name, "/").lstrip("/"))
        path = path if path.is_dir() else _MOUNT / name  # seen from inside a container
        if not os.access(path, os.W_OK):
            return _Parent((), False, f"{path} is not writable: ranks run without limits")
        paths.append(path)
    return _Parent(tuple(paths), False)


def _parent_v2() -> _Parent:
    """Groups that hold processes cannot hand controllers on, so ours hang under the root's."""
    home = _MOUNT / "singularity"
    try:
        (_MOUNT / "cgroup.subtree_control").write_text(_HANDED_ON)
        home.mkdir(exist_ok=True)
        (home / "cgroup.subtree_control").write_text(_HANDED_ON)
    except OSError as error:
        return _Parent((), True, f"no delegated cgroup ({error}): ranks run without limits")
    return _Parent((home,), True)


def _own_groups() -> dict[str, str]:
    """Controller -> path of this process's group, of a v1 hierarchy."""
    found: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            found |= dict.fromkeys(controllers.split(","), path)
    return found
