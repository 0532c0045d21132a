"""PID 1 of one sandbox: starts or awaits one rank, reaps, and writes down how the rank ended.

Run as `python -I -S supervisor.py DIRECTORY [LEASE]` inside fresh namespaces, with as little as can
be of the standard library, because there is one beside every rank, which waits for it to come up.
It takes a single order on stdin (marshalled: the agent runs the same Python), answers on stdout,
and from then on needs nobody. When the rank ends it exits, and the kernel takes everything else in
the sandbox with it; when it is killed, likewise.

An agent that dies changes nothing here until its lease (lease.py; LEASE is a descriptor) has been
over for a second: then everything in the sandbox is stopped, for another life of the job may begin
elsewhere. An agent that is heard again lets it go on, or kills it.
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
_LOOK_S = 0.5  # at the lease
_LATE_NS = 1_000_000_000  # an agent that lives fences its ranks itself
_STOPPED = ("T", "t", "Z", "X")  # states of a process that does nothing, or is being dumped
_ROUNDS = 20  # to catch processes that are forked while others are being stopped


def main(directory: str, lease: int = -1) -> None:
    os.chdir(directory)
    if lease >= 0:
        os.set_inheritable(lease, False)
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
    _wait_for(rank, lease)


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


def _wait_for(rank: int, lease: int) -> None:
    """Reap whatever ends, until the rank does; and look at the lease now and then, however much
    ends meanwhile.

    A restored rank becomes our child only when the restorer is done, so having no child is no
    reason to leave: SIGCHLD is.
    """
    look_s = time.monotonic()
    while True:
        if lease >= 0 and time.monotonic() >= look_s:
            _fence(lease)
            look_s = time.monotonic() + _LOOK_S
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pid, status = 0, 0
        if pid == rank:
            _record(pid, status)
            return
        if pid == 0 and lease < 0:
            signal.sigwaitinfo({signal.SIGCHLD})
        elif pid == 0:
            signal.sigtimedwait({signal.SIGCHLD}, max(0.0, look_s - time.monotonic()))


def _fence(lease: int) -> None:
    """Stop all that runs here if the lease is over. An agent that was heard in the same moment has
    let go of what was stopped before; what was stopped after that is let go here."""
    until = _until_ns(lease)
    if not 0 < until < time.monotonic_ns() - _LATE_NS:
        return
    stopped = _stop_all()
    if _until_ns(lease) != until:
        for pid in stopped:
            _signal(pid, signal.SIGCONT)


def _until_ns(lease: int) -> int:
    return int.from_bytes(os.pread(lease, 8, 0), "little")


def _stop_all() -> list[int]:
    """Whom it stopped, who was running. Not those who came in from outside, to dump a rank: it does
    not run meanwhile, and nobody would let them go on."""
    stopped: list[int] = []
    for _ in range(_ROUNDS):
        found = {int(name): _look(name) for name in os.listdir("/proc") if name.isdigit()}
        ours = {1}
        while more := {pid for pid, (up, _) in found.items() if up in ours and pid not in ours}:
            ours |= more
        running = [pid for pid in ours - {1, *stopped} if found[pid][1] not in _STOPPED]
        if not running:
            break
        for pid in running:
            _signal(pid, signal.SIGSTOP)
        stopped += running
    return stopped


def _look(pid: str) -> tuple[int, str]:
    """Its parent, 0 for one outside, and its state; (0, "X") where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, parent = file.read().rpartition(b") ")[2].split()[:2]
    except OSError:
        return 0, "X"
    return int(parent), state.decode()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass  # it is gone


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
    main(sys.argv[1], *map(int, sys.argv[2:]))
