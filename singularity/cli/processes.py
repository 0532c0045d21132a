"""Child processes that a planet keeps alive: own session, own log, restarted when they die.

Every child leads a session of its own, so that ^C at the terminal reaches `singularity up` alone
and the stop happens in order. What a killed `up` left running is found again by its pid file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MOST_S: Final = 5.0
_STEADY_S: Final = 10.0  # after this long a death is news, not one more in a row
_POLL_S: Final = 0.02
_LOG_EVERY_S: Final = 5.0
_STATE, _START = 0, 19  # fields of /proc/<pid>/stat, counted after the command's name


def started_ticks(pid: int) -> int | None:
    """When process `pid` began, in ticks since boot; None when there is none alive. With the pid
    it names a process for as long as the machine runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat[_STATE] in ("Z", "X") else int(stat[_START])


def boot() -> str:
    """Names this run of the machine: pids and ticks mean nothing in the next."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class Known:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    ticks: int
    boot: str

    @classmethod
    def read(cls, text: str) -> Known | None:
        """From the JSON that a pid file, or a sandbox's record, holds; None if it is torn."""
        try:
            found = json.loads(text)
            return cls(int(found["pid"]), int(found["started_ticks"]), str(found["boot"]))
        except (ValueError, TypeError, KeyError):
            return None

    def alive(self) -> bool:
        return self.boot == boot() and started_ticks(self.pid) == self.ticks

    def end(self, number: signal.Signals, grace_s: float) -> None:
        """Send `number`, SIGKILL after `grace_s`. Returns when it is gone, at once if it is."""
        if not self.alive():
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
        if not wait_until(lambda: not self.alive(), grace_s):
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            wait_until(lambda: not self.alive(), grace_s)


def wait_until(condition: Callable[[], bool], deadline_s: float) -> bool:
    """Poll until `condition` holds; False when `deadline_s` passed first."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(_POLL_S)
    return True


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `stop` asks it to end; after `grace_s` it is killed."""

    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    user: int | None = None  # run as this uid and gid, for programs that refuse to be root
    stop: signal.Signals = signal.SIGTERM
    grace_s: float = 5.0


class Child:
    """One process and its successors. Not thread-safe: its `Supervisor` serialises."""

    def __init__(self, name: str, command: Command, directory: Path) -> None:
        """Its log is `<directory>/logs/<name>.log`, its pid file `<directory>/pids/<name>`."""
        self.name, self.command = name, command
        self.log = directory / "logs" / f"{name}.log"
        self._pid_file = directory / "pids" / name
        self._process: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0

    @property
    def pid(self) -> int | None:
        """None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Run it, after ending what an earlier supervisor may have left of it."""
        for path in (self.log, self._pid_file):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._reap()
        command = self.command
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(command.argv),
                env=None if command.env is None else dict(command.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                user=command.user,
                group=command.user,
                extra_groups=None if command.user is None else [],
            )
        self.started_s = time.monotonic()
        ticks = started_ticks(self._process.pid)
        if ticks is not None:
            text = {"pid": self._process.pid, "started_ticks": ticks, "boot": boot()}
            self._pid_file.write_text(json.dumps(text))

    def bound_log(self, most_bytes: int) -> None:
        """Once its log is longer than that, it begins anew; the end of what was there is kept
        beside it until the next time, and what is not kept at all is told in the first line."""
        older = self.log.with_name(f"{self.log.name}.1")
        with suppress(FileNotFoundError):
            if (size := self.log.stat().st_size) <= most_bytes:
                return
            dropped = size - most_bytes + (older.stat().st_size if older.exists() else 0)
            with suppress(OSError), self.log.open("rb") as log, older.open("wb") as kept:
                log.seek(size - most_bytes)  # where the disk is full, nothing is kept
                shutil.copyfileobj(log, kept)
            os.truncate(self.log, 0)  # whoever has it open writes at its end, wherever that is
            told = {"event": "log.rotated", "before": older.name, "dropped_bytes": dropped}
            with suppress(OSError), self.log.open("a") as log_anew:
                log_anew.write(json.dumps(told) + "\n")

    def kill(self) -> None:
        """SIGKILL to it alone, as the kernel's out-of-memory killer would."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            self._wait(self.command.grace_s)

    def stop(self) -> None:
        """Ask, wait, then kill whatever is left of its session. Idempotent."""
        if self._process is None:
            self._reap()
            return
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, self.command.stop)
            self._wait(self.command.grace_s)
        self.kill_session()
        self._pid_file.unlink(missing_ok=True)

    def kill_session(self) -> None:
        """SIGKILL to it and to everything it started that stayed in its session."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # none left, or none of ours
                os.killpg(self._process.pid, signal.SIGKILL)
            self._wait(self.command.grace_s)

    def tail(self, most_bytes: int = 2000) -> str:
        """The end of its log, to explain why it died."""
        with suppress(FileNotFoundError):
            return self.log.read_bytes()[-most_bytes:].decode(errors="replace").strip()
        return ""

    def _wait(self, deadline_s: float) -> None:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(deadline_s)

    def _reap(self) -> None:
        try:
            left = Known.read(self._pid_file.read_text())
        except FileNotFoundError:
            return
        if left is not None:
            left.end(self.command.stop, self.command.grace_s)
        self._pid_file.unlink(missing_ok=True)


class Supervisor:
    """Restarts children that die, each with a delay that doubles while it keeps dying, and keeps
    their logs within a size."""

    def __init__(self, log_most_bytes: int = 8 << 20) -> None:
        self._log_most_bytes, self._looked_s = log_most_bytes, 0.0
        self._lock = threading.RLock()
        self._children: dict[str, Child] = {}
        self._down: set[str] = set()  # held down on purpose
        self._again_s: dict[str, float] = {}
        self._delay_s: dict[str, float] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def add(self, child: Child) -> None:
        """Keep `child` alive from now on; it is started unless it runs already."""
        with self._lock:
            if child.pid is None:
                child.start()
            self._children[child.name] = child
            if not self._thread.is_alive():
                self._thread.start()

    def get(self, name: str) -> Child:
        """Raises KeyError for a name that was never added."""
        return self._children[name]

    def names(self) -> tuple[str, ...]:
        return tuple(self._children)

    def kill(self, name: str) -> None:
        """kill -9; it comes back by itself."""
        with self._lock:
            self._children[name].kill()

    def hold_down(self, name: str) -> None:
        """Kill `name` with its session, and leave it dead until `release`."""
        with self._lock:
            self._down.add(name)
            self._children[name].kill_session()

    def release(self, name: str) -> None:
        with self._lock:
            if name in self._down:
                self._down.remove(name)
                self._delay_s.pop(name, None)
                self._children[name].start()

    def forget(self, name: str) -> Child | None:
        """Stop watching `name`, which stays as it is."""
        with self._lock:
            return self._children.pop(name, None)

    def stop(self, *groups: Sequence[str]) -> None:
        """End the children group by group: all of a group are asked before any is waited for."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        for group in groups:
            threads = [
                threading.Thread(target=child.stop, name=f"stop {name}")
                for name in group
                if (child := self.forget(name)) is not None
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _watch(self) -> None:
        while not self._ending.wait(_POLL_S):
            with self._lock:
                for child in self._children.values():
                    if child.name not in self._down and child.pid is None:
                        self._revive(child)
                self._bound_logs()

    def _bound_logs(self) -> None:
        if time.monotonic() - self._looked_s >= _LOG_EVERY_S:
            self._looked_s = time.monotonic()
            for child in self._children.values():
                child.bound_log(self._log_most_bytes)

    def _revive(self, child: Child) -> None:
        now_s = time.monotonic()
        if child.name not in self._again_s:
            steady = now_s - child.started_s > _STEADY_S
            delay_s = _BACKOFF_FIRST_S if steady else self._delay_s.get(child.name, 0.0)
            self._again_s[child.name] = now_s + delay_s
            self._delay_s[child.name] = min(max(delay_s * 2, _BACKOFF_FIRST_S), _BACKOFF_MOST_S)
        elif now_s >= self._again_s[child.name]:
            del self._again_s[child.name]
            child.start()
