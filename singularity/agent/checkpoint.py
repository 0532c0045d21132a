"""Takes a rank out of memory and puts it back: by CRIU, or, where that cannot run, in place.

The rules, each learnt from a failure: the rank goes on running after its dump, whatever came of
it, and is released only when the images are safe; nothing ever interrupts a dump, for that kills
the rank; a restore has a deadline, for damaged images make it hang, and one that fails takes its
sandbox with it, half a rank and any record of its end included; output files are cut back to
their size at the checkpoint, or a rank that runs again writes its lines twice.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pydantic import TypeAdapter

from singularity.primitives.errors import (
    CannotCarry,
    CheckpointFailed,
    HandFailed,
    RestoreFailed,
    StoreFull,
)

from .carriage import GHOST_MOST_BYTES, look, obstacles, told
from .runtime import outputs
from .runtime.processes import Identity, for_ranks
from .runtime.sandbox import Sandbox

OUTPUTS: Final = "outputs.json"  # beside the images: which pid the rank has, and its output files
_ERRORS_MOST: Final = 3
_HARMLESS: Final = "Can't setup RLIMIT_NOFILE"  # CRIU says so wherever it may not, and goes on
# What CRIU says when the machine was short of something, or the rank not as it was a moment before.
_PASSING: Final = ("Cannot allocate memory", "Input/output error", "No such process", "SEIZE")
_NAMED_SEMAPHORE: Final = "Can't create link remap for /dev/shm/sem."
_ROOM_LEAST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Dump:
    """One rank in `images`. `files` are its open output files with their sizes at the dump."""

    seconds: float
    bytes: int
    files: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Outputs:
    pid: int
    sizes: Mapping[str, int]


_OUTPUTS = TypeAdapter(_Outputs)
_IDENTITY = TypeAdapter(Identity)


class Checkpointer(Protocol):
    """`dump`, and the rank runs on until somebody ends it; `restore` one that has ended.

    transparent   what was dumped can be restored in another sandbox, on another node; else only
                  where it stands, and only while that sandbox stands
    """

    @property
    def transparent(self) -> bool: ...

    def dump(self, sandbox: Sandbox, images: Path) -> Dump:
        """Write the rank to the empty or absent directory `images`; it runs on.

        Raises CheckpointFailed: the rank is unharmed, `images` may be thrown away. What is known
        to stand in the way (see carriage.py) is named before anything is written.
        """

    def idle(self, images: Path) -> bool:
        """Does the rank that was dumped to `images` hold nothing but memory while it is parked?"""

    def restore(self, sandbox: Sandbox, images: Path, deadline_s: float) -> float:
        """Bring the rank back, as it was at the dump; the seconds that took.

        Raises RestoreFailed: nothing of the rank runs and, if CRIU was at it, the sandbox is gone.
        """


class CriuCheckpointer:
    """Checkpoint/Restore In Userspace, version 4.2 or later; the program is at `criu`."""

    transparent: Final = True

    def __init__(self, criu: Path) -> None:
        self.criu = criu

    def dump(self, sandbox: Sandbox, images: Path) -> Dump:
        pid = sandbox.inner_pid
        if pid is None or not sandbox.alive():
            raise CheckpointFailed(f"there is no rank to dump in {sandbox.directory.name}")
        images = images.absolute()
        images.mkdir(parents=True, exist_ok=True)
        if reasons := obstacles(look(sandbox, pid)):
            raise CannotCarry(f"it cannot be carried, and runs on: {told(reasons)}")
        began_s, before = time.monotonic(), set(images.iterdir())
        with _alone(sandbox) as lock:
            try:
                self._dump(sandbox, pid, images, lock)
            except CannotCarry:  # it may have been something that befell the rank just then
                for path in set(images.iterdir()) - before:
                    path.unlink()
                self._dump(sandbox, pid, images, lock)
        found = _OUTPUTS.validate_json((images / OUTPUTS).read_bytes())
        size = sum(entry.stat().st_size for entry in images.iterdir())
        return Dump(time.monotonic() - began_s, size, found.sizes)

    def _dump(self, sandbox: Sandbox, pid: int, images: Path, lock: int) -> None:
        argv = self._criu("dump", sandbox, images)
        argv += ["--tree", str(pid), "--leave-running", "--network-lock", "skip"]
        argv += ["--action-script", str(_script(sandbox, pid, images))]
        if code := _spawn(sandbox.command(argv), images, lock).wait():
            raise _failure(sandbox, images, code)

    def idle(self, images: Path) -> bool:
        return True

    def restore(self, sandbox: Sandbox, images: Path, deadline_s: float) -> float:
        began_s, images = time.monotonic(), images.absolute()
        try:
            found = roll_back(images)
            sandbox.expect(found.pid, _free_pids(images))
            argv = sandbox.command(
                [*self._criu("restore", sandbox, images), "--restore-detached"], counted=True
            )
            self._restore(argv, images, deadline_s)
        except (OSError, ValueError) as error:
            sandbox.remove()
            raise RestoreFailed(f"these are no images of a rank: {error}") from error
        except RestoreFailed:
            sandbox.remove()
            raise
        return time.monotonic() - began_s

    def _restore(self, argv: Sequence[str], images: Path, deadline_s: float) -> None:
        process = _spawn(argv, images)
        try:
            code = process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise RestoreFailed(f"the restore was not done after {deadline_s:g} s") from None
        if code != 0:
            raise RestoreFailed(_complaint(images, "restore.log", code))

    def _criu(self, verb: str, sandbox: Sandbox, images: Path) -> list[str]:
        common = ["--images-dir", str(images), "--log-file", f"{verb}.log", "-v2"]
        common += ["--manage-cgroups=ignore", "--file-locks"]
        common += ["--ghost-limit", str(GHOST_MOST_BYTES)]
        if sandbox.rootless:
            common.append("--unprivileged")
        return [str(self.criu), verb, *common]


class SuspendInPlace:
    """Where CRIU cannot run: the rank stays in memory, stopped, and can only go on right there.

    Its devices come free, its memory does not, and it does not survive its node. `reason` says
    why CRIU cannot run.
    """

    transparent: Final = False

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def dump(self, sandbox: Sandbox, images: Path) -> Dump:
        """Writes down where the rank is, which is all there is to know about it."""
        if not sandbox.alive():
            raise CheckpointFailed(f"there is no rank to suspend in {sandbox.directory.name}")
        images.mkdir(parents=True, exist_ok=True)
        (images / OUTPUTS).write_bytes(_IDENTITY.dump_json(sandbox.supervisor))
        return Dump(0.0, 0, {})

    def idle(self, images: Path) -> bool:
        return False

    def restore(self, sandbox: Sandbox, images: Path, deadline_s: float) -> float:
        """Wakes the rank, which takes no time that a deadline could bound."""
        try:
            home = _IDENTITY.validate_json((images / OUTPUTS).read_bytes())
        except (OSError, ValueError) as error:
            raise RestoreFailed(f"this rank was not suspended in place: {error}") from error
        if home != sandbox.supervisor or not sandbox.alive():
            raise RestoreFailed(
                f"the rank is suspended in place, and that place is gone ({self.reason})"
            )
        sandbox.thaw()
        return 0.0


@contextmanager
def _alone(sandbox: Sandbox) -> Iterator[int]:
    """Wait for a dump of this rank that an earlier agent has left under way. The lock is CRIU's
    as much as ours: it opens when both have let go."""
    with (sandbox.directory / "dumping.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _spawn(argv: Sequence[str], images: Path, *handed_on: int) -> subprocess.Popen[bytes]:
    """CRIU in a session of its own, its output to a file: neither ^C at the agent nor the agent's
    death may reach it in the middle of a dump."""
    said = images / "criu.out"
    said.unlink(missing_ok=True)  # a link to another's, maybe
    with said.open("wb") as out:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=for_ranks(os.environ),
            start_new_session=True,
            pass_fds=handed_on,
        )


def _script(sandbox: Sandbox, pid: int, images: Path) -> Path:
    """What CRIU calls at each stage of a dump; it notes the output files at the last one.

    Written by another process: were this one to hold it open for writing just when another
    thread forks, executing it would fail ("text file busy").
    """
    path = sandbox.directory / "dumping.sh"
    note = [sys.executable, "-I", "-S", outputs.__file__, str(pid), str(images / OUTPUTS)]
    text = f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-dump ] || exec {shlex.join(note)}\n'
    write = ["sh", "-c", 'cat >"$1" && chmod 700 "$1"', "sh", str(path)]
    subprocess.run(write, input=text.encode(), check=True)
    return path


def _failure(sandbox: Sandbox, images: Path, code: int) -> HandFailed:
    """What a dump that failed was: CRIU's judgement of the rank, which it will not change if it
    says so twice; or the machine's doing, which may pass."""
    complaint = _complaint(images, "dump.log", code)
    detail = f"the rank runs on: {complaint}"
    room = os.statvfs(images)
    if "No space left" in complaint or room.f_bavail * room.f_frsize < _ROOM_LEAST_BYTES:
        # Where there is no room for images there may be none for the words that say so.
        return StoreFull(f"the rank runs on: No space left for its images ({complaint})")
    if _NAMED_SEMAPHORE in complaint:
        return CannotCarry(
            "it cannot be carried, and runs on: it shares a semaphore by name with programs that "
            "it started (multiprocessing by 'spawn'), which is no part of an image; workers that "
            "are forked can be carried"
        )
    passing = any(text in complaint for text in _PASSING)
    judged = code == 1 and "Error" in complaint and not passing and sandbox.alive()
    return CannotCarry(detail) if judged else CheckpointFailed(detail)


def _complaint(images: Path, log: str, code: int) -> str:
    """The first errors CRIU wrote, which are the cause; later ones are consequences."""
    lines: list[str] = []
    with suppress(FileNotFoundError):
        lines = (images / log).read_text(errors="replace").splitlines()
    errors = [line.strip() for line in lines if "Error" in line and _HARMLESS not in line]
    errors = errors[:_ERRORS_MOST]
    with suppress(FileNotFoundError):
        errors = errors or (images / "criu.out").read_text(errors="replace").splitlines()[-1:]
    return "; ".join(errors) or f"criu ended with {code} and no word"


def roll_back(images: Path) -> _Outputs:
    """Cut the rank's output files back to what they were. A file that is gone, or shorter, CRIU
    itself judges: it refuses where the rank would notice. Raises OSError, ValueError."""
    found = _OUTPUTS.validate_json((images / OUTPUTS).read_bytes())
    for path, size in sorted(found.sizes.items()):
        with suppress(FileNotFoundError):
            file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                now = os.fstat(file)
                if stat.S_ISREG(now.st_mode) and now.st_size > size:
                    os.ftruncate(file, size)
            finally:
                os.close(file)
    return found


def _free_pids(images: Path) -> int:
    """Where pids are free that no process or thread in `images` has: CRIU's own processes, and
    whatever the rank forks later, must not be in the way of this restore or of a later one."""
    taken = sorted(int(path.stem.removeprefix("core-")) for path in images.glob("core-*.img"))
    if not taken:
        raise RestoreFailed("the images hold no process")
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    gaps = zip(taken, [*taken[1:], most], strict=True)
    return max(gaps, key=lambda gap: gap[1] - gap[0])[0] + 1
