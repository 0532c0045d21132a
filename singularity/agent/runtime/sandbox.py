"""One rank's sandbox: made, found again, entered, and killed with everything in it.

Its namespaces (pid, mount, IPC, and network where ranks have addresses of their own) are held by a
supervisor, supervisor.py, that does not depend on the agent. The directory is all the agent needs
to take a sandbox over after a restart: `state.json` (ours), `rank.json` and `exit.json` (the
supervisor's).
"""

from __future__ import annotations

import json
import marshal
import os
import select
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from singularity.primitives.errors import SandboxFailed

from . import supervisor
from .cgroup import Cgroup, Limits, Usage, make_cgroup
from .network import Network
from .processes import (
    Identity,
    children,
    descendants,
    for_ranks,
    inner_pid,
    pid_namespace,
    senders,
)

_START_S: Final = 20.0  # for a supervisor to answer, on a machine that is very busy
_DIE_SOON_S: Final = 2.0  # as nearly all do
_DIE_S: Final = 20.0  # for the kernel to take a sandbox down; a rank in a device driver is slow
_OVERRUN: Final = "overrun"  # a file in the sandbox's directory, where it was ended for that
_FREEZE_ROUNDS: Final = 20  # to catch processes that are forked while others are being stopped


@dataclass(frozen=True, slots=True)
class RankSpec:
    """One process of a job. `env` is its whole environment; `log` takes stdout and stderr."""

    job: str
    incarnation: int
    rank: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    workdir: Path
    log: Path


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a rank ended: by itself with `code`, or by `signal`. `pid` as known in the sandbox."""

    pid: int
    code: int | None
    signal: int | None
    at_s: float


@dataclass(frozen=True, slots=True)
class _State:
    supervisor: Identity
    address: str
    namespaces: tuple[str, ...]  # options of unshare and nsenter alike
    rootless: bool
    cgroup: Cgroup | None


@dataclass(frozen=True, slots=True)
class _Rank:
    pid: int


_STATE = TypeAdapter(_State)
_RANK = TypeAdapter(_Rank)
_EXIT = TypeAdapter(ExitRecord)


class Sandbox:
    """Made by `create` or found by `adopt`; used once: for one rank, launched or restored."""

    def __init__(
        self,
        directory: Path,
        state: _State,
        process: subprocess.Popen[bytes] | None = None,
        unlimited: str = "",
    ) -> None:
        self.directory, self._state, self._process = directory, state, process
        self.unlimited = unlimited  # why the limits asked for are not in force, "" if they are

    # -- making and finding ----------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        directory: Path,
        network: Network,
        limits: Limits | None = None,
        view: int | None = None,
        lease: Path | None = None,
    ) -> Sandbox:
        """A sandbox with nothing in it yet; some 50 ms. It sees the files that the process `view`
        sees, or this machine's, and stops itself when `lease` (lease.py) is over. Raises
        SandboxFailed, leaving nothing."""
        directory = directory.resolve()
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        cgroup, unlimited = None, ""
        if limits is not None:
            mark = zlib.crc32(str(directory).encode())
            cgroup, unlimited = make_cgroup(f"{directory.name}-{mark:08x}", limits)
        rootless = os.geteuid() != 0
        namespaces = ("-p", "-m", "-i", *(("-n",) if network.isolated else ()))
        process = _start(directory, namespaces, cgroup, view, lease)
        try:
            _hear(process, directory)
            (pid,) = children(process.pid)
            identity = Identity.of(pid)
            assert identity is not None, "a supervisor that waits for an order does not end"
            state = _State(identity, network.attach(pid), namespaces, rootless, cgroup)
            (directory / "state.json").write_bytes(_STATE.dump_json(state))
        except BaseException:
            _abandon(process, cgroup)
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return cls(directory, state, process, unlimited)

    @classmethod
    def adopt(cls, directory: Path) -> Sandbox | None:
        """What an earlier agent made here, if it lives or left a record of its rank's end.

        None, with `directory` removed, when there is nothing to take over.
        """
        with suppress(FileNotFoundError, NotADirectoryError, ValidationError):
            state = _STATE.validate_json((directory / "state.json").read_bytes())
            found = cls(directory.resolve(), state)
            if found.alive() or found.exit() is not None:
                return found
            found.kill()
        shutil.rmtree(directory, ignore_errors=True)
        return None

    # -- one order, once -------------------------------------------------------------------------

    def launch(self, spec: RankSpec) -> None:
        """Start the rank. A program that cannot be started ends with code 126 or 127."""
        order = {
            "argv": [*_fixed_addresses(), *spec.argv],
            "env": dict(spec.env),
            "workdir": str(spec.workdir.absolute()),
            "log": str(spec.log.absolute()),
        }
        self._order({"launch": order})

    def expect(self, pid: int, next_pid: int) -> None:
        """A rank is about to be restored here as `pid`; what is forked until and after then gets
        pids from `next_pid` on, out of the way of the restored ones."""
        self._order({"await": pid, "next_pid": next_pid})

    def _order(self, order: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin, "an adopted sandbox has its rank"
        try:
            self._process.stdin.write(marshal.dumps(order))
            self._process.stdin.close()
        except BrokenPipeError as error:
            raise SandboxFailed(f"the sandbox {self.directory.name} is gone") from error
        _hear(self._process, self.directory)
        assert self._process.stdout
        self._process.stdout.close()

    # -- looking ---------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The sandbox's own IPv4 address, "" when it shares the machine's network."""
        return self._state.address

    @property
    def rootless(self) -> bool:
        return self._state.rootless

    @property
    def supervisor(self) -> Identity:
        return self._state.supervisor

    @property
    def inner_pid(self) -> int | None:
        """The rank's pid as it knows it itself; None before there was a rank."""
        try:
            return _RANK.validate_json((self.directory / "rank.json").read_bytes()).pid
        except FileNotFoundError:
            return None

    @property
    def pid(self) -> int | None:
        """The rank's pid on this machine; None when it does not run."""
        inner = self.inner_pid
        candidates = children(self._state.supervisor.pid) if self.alive() else ()
        return next((pid for pid in candidates if inner_pid(pid) == inner), None)

    def alive(self) -> bool:
        """Whether the sandbox stands. It falls when its rank ends."""
        return self._state.supervisor.alive()

    def exit(self) -> ExitRecord | None:
        """How the rank ended; None while it runs, and when it was killed with the sandbox."""
        try:
            return _EXIT.validate_json((self.directory / "exit.json").read_bytes())
        except FileNotFoundError:
            return None

    def usage(self) -> Usage | None:
        """None when the sandbox has no cgroup."""
        return self._state.cgroup.usage() if self._state.cgroup else None

    def overran(self) -> bool:
        """Was something in it killed because it took more memory than it may, by the kernel or
        by `end_overrun`?"""
        by_kernel = self._state.cgroup is not None and self._state.cgroup.overran()
        return by_kernel or (self.directory / _OVERRUN).exists()

    def end_overrun(self) -> None:
        """Kill it because it holds more memory than it may, of a kind that no group counts."""
        (self.directory / _OVERRUN).touch()
        self.kill()

    # -- acting ----------------------------------------------------------------------------------

    def command(self, argv: Sequence[str], *, counted: bool = False) -> list[str]:
        """`argv` as a command that runs inside the sandbox; `counted`, under its limits as well."""
        user = ["-U", "--preserve-credentials"] if self._state.rootless else []
        target = ["nsenter", "-t", str(self._state.supervisor.pid)]
        inside = [*target, *user, *self._state.namespaces, "--", *argv]
        if counted and self._state.cgroup is not None:
            return self._state.cgroup.enter(inside)
        return inside

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command inside the sandbox to its end."""
        return subprocess.run(
            self.command(argv),
            env=for_ranks(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )

    def freeze(self) -> None:
        """Stop every process of the rank where it is (SIGSTOP)."""
        stopped: set[int] = set()
        for _ in range(_FREEZE_ROUNDS):
            running = [pid for pid in self._processes() if pid not in stopped]
            if not running:
                return
            _signal(running, signal.SIGSTOP)
            stopped.update(running)

    def thaw(self) -> None:
        _signal(list(self._processes()), signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send it to the rank, if it runs."""
        if (pid := self.pid) is not None:
            _signal([pid], number)

    def kill(self) -> None:
        """Kill the rank and all it ever started, and wait until none is left. Idempotent.

        Raises SandboxFailed when the kernel cannot: a process is stuck in it. It also waits for
        those who came in from outside, and they for their parents, which may be stopped.
        """
        inside = pid_namespace(self.supervisor.pid)  # not to be read while it dies
        if not self._state.supervisor.kill(_DIE_SOON_S):
            _signal(senders(inside), signal.SIGKILL)
            if not self._state.supervisor.kill(_DIE_S):
                raise SandboxFailed(f"the sandbox {self.directory.name} does not die")
        if self._process is not None:
            _reap(self._process)
        if self._state.cgroup is not None:
            self._state.cgroup.remove()

    def remove(self) -> None:
        """Forget the sandbox: after `kill`, or after its rank has ended."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def rename(self, directory: Path) -> None:
        """Be found at `directory` from now on, by this agent and by those after it. Whatever is
        inside does not notice."""
        shutil.rmtree(directory, ignore_errors=True)
        self.directory.rename(directory)
        self.directory = directory.resolve()

    def _processes(self) -> tuple[int, ...]:
        return tuple(descendants(self._state.supervisor.pid)) if self.alive() else ()


def _start(
    directory: Path,
    namespaces: Sequence[str],
    cgroup: Cgroup | None,
    view: int | None,
    lease: Path | None,
) -> subprocess.Popen[bytes]:
    user = ["-U", "-r"] if os.geteuid() != 0 else []
    files = ["nsenter", "-t", str(view), "-m", "--"] if view is not None else []
    argv = [*files, "unshare", *user, *namespaces, "-f", "--propagation", "slave", "--mount-proc"]
    argv += [sys.executable, "-I", "-S", supervisor.__file__, str(directory)]
    with (directory / "supervisor.err").open("wb") as errors, ExitStack() as opened:
        handed_on = []
        if lease is not None:  # as a descriptor: a sandbox may see other files, and be moved
            handed_on.append(opened.enter_context(lease.open("rb")).fileno())
        return subprocess.Popen(
            [*(cgroup.enter(argv) if cgroup else argv), *map(str, handed_on)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=for_ranks(os.environ),
            pass_fds=handed_on,
            start_new_session=True,  # a ^C at the agent's terminal is not meant for ranks
        )


def _hear(process: subprocess.Popen[bytes], directory: Path) -> Mapping[str, Any]:
    """The supervisor's next answer. Raises SandboxFailed with what it complained of instead."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], _START_S)[0]:
        raise SandboxFailed(f"the supervisor of {directory.name} does not answer")
    line = process.stdout.readline()
    if line:
        answer: Mapping[str, Any] = json.loads(line)
        return answer
    process.wait()
    complaint = (directory / "supervisor.err").read_text(errors="replace").strip()
    last = complaint.splitlines()[-1] if complaint else f"ended with {process.returncode}"
    advice = ""
    if last.startswith("unshare: unshare failed"):
        advice = "; run the agent as root, or let users make namespaces (user.max_user_namespaces)"
    raise SandboxFailed(f"the kernel gives no sandbox: {last}{advice}")


def _abandon(process: subprocess.Popen[bytes], cgroup: Cgroup | None) -> None:
    """End a half-made sandbox: without an order its supervisor leaves by itself."""
    _reap(process)
    if cgroup is not None:
        cgroup.remove()


def _reap(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    try:
        process.wait(_DIE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@cache
def _fixed_addresses() -> tuple[str, ...]:
    """The prefix that switches address randomisation off, so that equal memory of two ranks lies
    at equal addresses and is stored once; nothing where a container forbids it."""
    argv = ("setarch", "-R")
    if shutil.which("setarch") is None:
        return ()
    allowed = subprocess.run([*argv, "true"], capture_output=True, check=False).returncode == 0
    return argv if allowed else ()
