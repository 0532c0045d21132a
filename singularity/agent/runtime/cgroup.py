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
# Enters each cgroup named before `--`, then becomes the command named after it.
_ENTER: Final = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit 125; shift; done; shift; exec "$@"'


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use at most; None is no limit. `cpus` may be a fraction."""

    memory_bytes: int | None = None
    cpus: float | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox uses (memory) and has used (processor seconds)."""

    memory_bytes: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Cgroup:
    """`paths` is one directory (v2), or one for each controller (v1)."""

    paths: tuple[Path, ...]
    unified: bool

    def enter(self, argv: Sequence[str]) -> list[str]:
        """`argv` as a command that runs inside this group, from its first instruction on."""
        doors = [str(path / "cgroup.procs") for path in self.paths]
        return ["sh", "-c", _ENTER, "sh", *doors, "--", *argv]

    def usage(self) -> Usage | None:
        """None when the group is gone."""
        try:
            if self.unified:
                stat = dict(map(str.split, (self.paths[0] / "cpu.stat").read_text().splitlines()))
                memory = int((self.paths[0] / "memory.current").read_text())
                return Usage(memory, int(stat["usage_usec"]) / 1e6)
            by_name = dict(zip(_CONTROLLERS_V1, self.paths, strict=True))
            memory = int((by_name["memory"] / "memory.usage_in_bytes").read_text())
            cpu = int((by_name["cpuacct"] / "cpuacct.usage").read_text())
            return Usage(memory, cpu / 1e9)
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Once its processes are gone; the kernel takes a moment to notice that they are."""
        deadline_s = time.monotonic() + _REMOVE_S
        for path in self.paths:
            while path.exists() and time.monotonic() < deadline_s:
                try:
                    path.rmdir()
                except OSError:
                    time.sleep(0.005)


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
    group = Cgroup(tuple(path / name for path in parent.paths), parent.unified)
    try:
        for path in group.paths:
            path.mkdir(exist_ok=True)
        for file, value in _settings(group, limits):
            file.write_text(value)
    except OSError as error:
        group.remove()
        return None, f"cgroup {name}: {error}"
    return group, ""


def _settings(group: Cgroup, limits: Limits) -> list[tuple[Path, str]]:
    quota_us = max(_LEAST_QUOTA_US, int((limits.cpus or 0) * _PERIOD_US))
    if group.unified:
        (path,) = group.paths
        wanted = [
            (path / "memory.max", limits.memory_bytes),
            (path / "cpu.max", f"{quota_us} {_PERIOD_US}" if limits.cpus else None),
            (path / "pids.max", limits.processes),
        ]
    else:
        at = dict(zip(_CONTROLLERS_V1, group.paths, strict=True))
        wanted = [
            (at["memory"] / "memory.limit_in_bytes", limits.memory_bytes),
            (at["cpu"] / "cpu.cfs_period_us", _PERIOD_US if limits.cpus else None),
            (at["cpu"] / "cpu.cfs_quota_us", quota_us if limits.cpus else None),
            (at["pids"] / "pids.max", limits.processes),
        ]
    return [(file, str(value)) for file, value in wanted if value is not None]


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
    controllers = "+memory +cpu +pids"
    try:
        (_MOUNT / "cgroup.subtree_control").write_text(controllers)
        home.mkdir(exist_ok=True)
        (home / "cgroup.subtree_control").write_text(controllers)
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
