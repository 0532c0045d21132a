"""What else a user would ask of a machine: room, speed, limits, and the tools that jobs rely on.

Each is found out by doing it, with something small, and says what to do where it is not as it
should be.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from singularity.primitives.errors import HandFailed

from .interposer.inject import prepare
from .interposer.page import Page, State
from .runtime.view import View
from .stacks import py_spy

_FILES_LEAST: Final = 4096  # a rank with data loaders holds hundreds, an agent a few per rank
_PROCESSES_LEAST: Final = 4096
_SAMPLE_BYTES: Final = 64 << 20
_ROOM_LEAST_BYTES: Final = 10 << 30  # some images of a small gang
_SLOW_BYTES_S: Final = 100e6  # 4 ranks of 250 MB would take 10 s at that
_TOOL_S: Final = 60.0  # to import torch on a machine that is very busy
_SLEEPER: Final = "import sys, time; print(flush=True); time.sleep(600)"
_IMPORT: Final = "import torch; print(torch.__version__)"


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    verdict: Literal["ok", "missing", "failed"]
    detail: str


def fitness() -> Iterator[Check]:
    yield _aside()
    yield _limits()
    yield from _volume()
    yield _spying()
    yield _torch()


def dirty_tracking(criu: Path) -> Check:
    """Whether CRIU can tell which pages have changed: checkpoints could then be smaller sooner."""
    name = "mem-track"
    argv = [str(criu), "check", "--feature", "mem_dirty_track"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError as error:
        return Check(name, "failed", f"{criu} does not start: {error.strerror}")
    if done.returncode == 0:
        return Check(name, "ok", "the kernel tells CRIU which pages have changed")
    detail = "the kernel does not tell CRIU which pages have changed (CONFIG_MEM_SOFT_DIRTY): "
    return Check(name, "missing", f"{detail}every dump reads all, the store keeps what is new")


def _aside() -> Check:
    with tempfile.TemporaryDirectory(prefix="singularity-doctor-") as scratch:
        probe = Path(scratch).resolve() / "probe"
        probe.write_text("ours")
        try:
            view = View(Path(scratch).resolve() / "view", (), {})
        except HandFailed as error:
            detail = f"{error.detail}: checkpoints are not verified here, nor jobs preflighted"
            return Check("aside", "missing", detail)
        try:
            view.path(probe).write_text("theirs")
            if probe.read_text() != "ours":
                return Check("aside", "failed", "what is written aside is not kept apart")
        except OSError as error:
            return Check("aside", "failed", f"nothing can be written aside: {error.strerror}")
        finally:
            view.close()
    return Check("aside", "ok", "checkpoints can be restored aside, on copies of all files")


def _limits() -> Check:
    found = {}
    for name, kind, least in (
        ("open files", resource.RLIMIT_NOFILE, _FILES_LEAST),
        ("processes", resource.RLIMIT_NPROC, _PROCESSES_LEAST),
    ):
        _, most = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY and most < least:
            flag = "n" if kind == resource.RLIMIT_NOFILE else "u"
            detail = f"at most {most} {name}: raise it to {least} or more (ulimit -H{flag})"
            return Check("limits", "failed", detail)
        found[name] = "unlimited" if most == resource.RLIM_INFINITY else str(most)
    return Check("limits", "ok", ", ".join(f"{value} {name}" for name, value in found.items()))


def _volume() -> Iterator[Check]:
    """Of the volume that the environment names, else of where temporary files go."""
    named = os.environ.get("SINGULARITY_VOLUME", "")
    path = Path(named or tempfile.gettempdir())
    what = f"the volume {path}" if named else f"{path} (SINGULARITY_VOLUME names no other)"
    try:
        room = os.statvfs(path)
        free_bytes = room.f_bavail * room.f_frsize
        gib = f"{free_bytes / (1 << 30):.1f} GiB free on {what}"
        if free_bytes < _ROOM_LEAST_BYTES:
            yield Check(
                "disk", "missing", f"only {gib}: checkpoints will soon fail for want of room"
            )
        else:
            yield Check("disk", "ok", gib)
        yield _speed(path, free_bytes)
    except OSError as error:
        yield Check("disk", "failed", f"{what} cannot be written: {error.strerror}")


def _speed(path: Path, free_bytes: int) -> Check:
    if free_bytes < 2 * _SAMPLE_BYTES:
        return Check("disk-speed", "missing", "not measured: the disk is full")
    piece = os.urandom(1 << 20)
    with tempfile.NamedTemporaryFile(dir=path, prefix=".singularity-doctor-") as file:
        began_s = time.monotonic()
        for _ in range(_SAMPLE_BYTES // len(piece)):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        speed = _SAMPLE_BYTES / max(time.monotonic() - began_s, 1e-6)
    detail = f"{speed / 1e6:.0f} MB/s written and synced"
    if speed < _SLOW_BYTES_S:
        return Check("disk-speed", "missing", f"{detail}: suspending takes long; use a faster disk")
    return Check("disk-speed", "ok", detail)


def _spying() -> Check:
    """Whether where a rank stands can be read, for the stacks of those that hang."""
    program = py_spy()
    if program is None:
        return Check("py-spy", "missing", "py-spy is not installed: no stacks of ranks that hang")
    argv = [sys.executable, "-I", "-S", "-c", _SLEEPER]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            look = [program, "dump", "--pid", str(child.pid)]
            done = subprocess.run(
                look, capture_output=True, text=True, check=False, timeout=_TOOL_S
            )
        except subprocess.TimeoutExpired:
            return Check("py-spy", "failed", f"py-spy was not done after {_TOOL_S:g} s")
        finally:
            child.kill()
    if done.returncode != 0:
        last = done.stderr.strip().rsplit("\n", 1)[-1]
        detail = f"{last}: allow ptrace (SYS_PTRACE, or kernel.yama.ptrace_scope=0) for stacks"
        return Check("py-spy", "failed", detail)
    return Check("py-spy", "ok", "the stack of a running process was read")


def _torch() -> Check:
    """Whether `import torch` by this interpreter brings the interposer with it."""
    with tempfile.TemporaryDirectory(prefix="singularity-doctor-") as scratch:
        page = Page.create(Path(scratch) / "page")
        inject = prepare(Path(scratch) / "inject")
        env = {**os.environ, "PYTHONPATH": str(inject), "SINGULARITY_PAGE": str(page.path)}
        argv = [sys.executable, "-c", _IMPORT]
        try:
            done = subprocess.run(
                argv, env=env, capture_output=True, text=True, check=False, timeout=_TOOL_S
            )
        except subprocess.TimeoutExpired:
            return Check("torch", "failed", f"torch was not imported after {_TOOL_S:g} s")
        if done.returncode != 0:
            detail = f"{sys.executable} has no torch that starts: jobs need one of their own"
            return Check("torch", "missing", detail)
        version = done.stdout.strip()
        if page.state is State.NONE:
            last = done.stderr.strip().rsplit("\n", 1)[-1]
            return Check("torch", "failed", f"torch {version} is not understood: {last}")
        return Check("torch", "ok", f"torch {version} brings the interposer with it")
