"""Where images lie between CRIU and the store: in memory while there is plenty, else on disk.

On disk they would be written back while they are read, and every flush of the store would wait
for them too. In memory the kernel gives out pages of 4 KiB, unless the file system was made for
larger ones: to write, to read and to free those takes half of the time. So it is one of our own,
where we may make one, and the same for all agents of this user: images are linked between them.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import stat
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .runtime.processes import descendants
from .runtime.sandbox import Sandbox

KEPT: Final = "kept.json"  # in a directory that is to outlive the agent
_MEMORY: Final = Path("/dev/shm")
# As large as fit into a file; "always" would give 2 MiB to the smallest.
_OPTIONS: Final = "huge=within_size,mode=700"
_SPARE: Final = 2.0  # times what is expected must be free: others need memory meanwhile


@dataclass(frozen=True, slots=True)
class Scratch:
    disk: Path
    memory: Path | None = None

    @contextmanager
    def directory(self, name: str, expected_bytes: int) -> Iterator[Path]:
        """An empty one, removed in the end."""
        found = self.make(name, expected_bytes)
        try:
            yield found
        finally:
            shutil.rmtree(found, ignore_errors=True)

    def make(self, name: str, expected_bytes: int) -> Path:
        """An empty directory, until `remove`."""
        found = self._home(expected_bytes) / name
        self.remove(name)  # what an agent that died has left
        found.mkdir(parents=True)
        return found

    def remove(self, name: str) -> None:
        for home in self.homes:
            shutil.rmtree(home / name, ignore_errors=True)

    @property
    def homes(self) -> tuple[Path, ...]:
        """Where its directories may lie."""
        return (self.disk,) if self.memory is None else (self.disk, self.memory)

    def kept(self) -> Iterator[Path]:
        """Directories that an agent means to find again."""
        for home in self.homes:
            for mark in home.glob(f"*/{KEPT}"):
                yield mark.parent

    def clear(self) -> None:
        """Nothing is left but those."""
        found = list(self.disk.glob("*.[0-9]*.[0-9]*"))
        found += self.memory.iterdir() if self.memory is not None else ()
        for directory in found:
            if not (directory / KEPT).exists():
                shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        self.clear()
        if self.memory is not None:
            with suppress(OSError):  # what is kept is in it
                self.memory.rmdir()

    def _home(self, expected_bytes: int) -> Path:
        if self.memory is None or not os.path.ismount(_MEMORY):
            return self.disk
        free_bytes = min(memory().available_bytes, shutil.disk_usage(self.memory.parent).free)
        return self.memory if free_bytes >= _SPARE * expected_bytes else self.disk


def open_scratch(node_dir: Path, configured: Path | None) -> Scratch:
    """As configured, or both. What an earlier agent of this node has left is removed, but for what
    it kept."""
    if configured is not None:
        found = Scratch(configured)
    else:
        mark = zlib.crc32(str(node_dir.resolve()).encode())
        root = _MEMORY / f"singularity-{os.getuid()}"
        ours = _is_ours(root)
        if ours and not any((node_dir / "sandboxes").glob("*")):
            make_roomy(root)
        memory = root / f"{mark:08x}"
        found = Scratch(node_dir / "images", memory if ours and _is_ours(memory) else None)
    found.clear()
    return found


def make_roomy(root: Path) -> None:
    """Put a file system with large pages on `root`, if we may and there is none yet. It stays: who
    is in a mount namespace of its own keeps what it found, so this is for before there is one."""
    lock = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.geteuid() == 0 and not os.path.ismount(root):
            mount = ["mount", "-t", "tmpfs", "-o", _OPTIONS, "tmpfs", str(root)]
            subprocess.run(mount, capture_output=True, check=False)  # it works without
    except FileNotFoundError:
        pass  # no such program
    finally:
        os.close(lock)


def _is_ours(directory: Path) -> bool:
    """Made now, or by an agent before: anybody may have put something there."""
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    try:
        found = directory.lstat()
    except OSError:
        return False
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    return private and found.st_uid == os.getuid()


def resident_bytes(sandbox: Sandbox) -> int:
    """Of all processes in it: no dump is larger, but for what lies in swap."""
    found = 0
    for pid in descendants(sandbox.supervisor.pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            resident_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            found += resident_pages * mmap.PAGESIZE
    return found


def in_memory(directory: Path) -> bool:
    device = directory.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as file:
        mounts = (line.split() for line in file)
        return any(m[2] == number and m[m.index("-") + 1] == "tmpfs" for m in mounts)


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the machine; `available_bytes` can be had without swapping."""

    available_bytes: int
    total_bytes: int


def memory() -> Memory:
    """0 of what cannot be found out."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    found = {line[0]: int(line[1]) << 10 for line in lines}
    return Memory(found.get("MemAvailable:", 0), found.get("MemTotal:", 0))
