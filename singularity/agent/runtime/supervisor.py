"""PID 1 of one sandbox: starts or awaits one rank, reaps, and writes down how the rank ended.

Run as `python -I -S supervisor.py DIRECTORY` inside fresh namespaces, with as little as can be of
the standard library, because there is one beside every rank, which waits for it to come up. It
takes a single order on stdin (marshalled: the agent runs the same Python), answers on stdout, and
from then on needs nobody: an agent that dies changes nothing here. When the rank ends it exits, and
the kernel takes everything else in the sandbox with it; when it is killed, likewise.
"""

from __future__ import annotations

import marshal
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn, TypedDict

    class Launch(TypedDict):
        """Start this program; stdout and stderr are appended to `log`."""

        argv: list[str]
        env: dict[str, str]
        workdir: str
        log: str


FIRST_PID = 1000  # of a rank: the pids below are for those who restore one into a new sandbox
NOT_FOUND, NOT_STARTED = 127, 126  # what a shell answers for a program it cannot start
_FIXED = {signal.SIGKILL, signal.SIGSTOP}


def main(directory: str) -> None:
    os.chdir(directory)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    _say({"up": 1})
    order = marshal.loads(sys.stdin.buffer.read() or marshal.dumps(None))
    if order is None:
        return  # the agent went away before it had a use for this sandbox
    if "launch" in order:
        _next_pid(FIRST_PID)
        rank = _start(order["launch"])
    else:
        _next_pid(order["next_pid"])
        rank = order["await"]
    _write("rank.json", {"pid": rank})
    _say({"pid": rank})
    _let_go_of_the_agent()
    _wait_for(rank)


def _start(order: Launch) -> int:
    pid = os.fork()
    if pid == 0:
        _become(order)
    return pid


def _become(order: Launch) -> NoReturn:
    """Turn this fork into the rank: a session of its own, no stdin, output to the log."""
    try:
        os.setsid()
        for number in signal.valid_signals() - _FIXED:
            signal.signal(number, signal.SIG_DFL)  # whoever started the agent may ignore some
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Opened here and not handed in: a descriptor from outside the mount namespace cannot be
        # checkpointed.
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.closerange(3, 256)
        os.chdir(order["workdir"])
        os.execvpe(order["argv"][0], order["argv"], order["env"])
    except OSError as error:
        os.write(2, f"cannot start {order['argv'][0]}: {error}\n".encode())
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_STARTED)


def _wait_for(rank: int) -> None:
    """Reap whatever ends, until the rank does.

    A restored rank becomes our child only when the restorer is done, so having no child is no
    reason to leave: SIGCHLD is.
    """
    while True:
        signal.sigwaitinfo({signal.SIGCHLD})
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == rank:
                _record(pid, status)
                return


def _record(pid: int, status: int) -> None:
    killed = os.WIFSIGNALED(status)
    found = {
        "pid": pid,
        "code": None if killed else os.WEXITSTATUS(status),
        "signal": os.WTERMSIG(status) if killed else None,
        "at_s": time.time(),
    }
    _write("exit.json", found)


def _write(name: str, value: Mapping[str, float | None]) -> None:
    """Durably, and whole or not at all."""
    draft = f".{name}.new"
    with open(draft, "w") as file:
        file.write(_text(value))
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, name)
    directory = os.open(".", os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _next_pid(pid: int) -> None:
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(pid - 1))


def _say(answer: Mapping[str, float | None]) -> None:
    os.write(1, _text(answer).encode() + b"\n")


def _text(numbers: Mapping[str, float | None]) -> str:
    """As JSON."""
    said = ((name, "null" if value is None else value) for name, value in numbers.items())
    return "{" + ", ".join(f'"{name}": {value}' for name, value in said) + "}"


def _let_go_of_the_agent() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


if __name__ == "__main__":
    main(sys.argv[1])
