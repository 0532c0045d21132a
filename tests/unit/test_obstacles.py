"""What cannot be carried is named; what can be is not."""

from __future__ import annotations

import os
from typing import Any

import pytest

from singularity.agent.carriage import GHOST_MOST_BYTES, obstacles, told
from singularity.agent.runtime.holding import Contents, Descriptor, Process, Socket

NOWHERE = ("0.0.0.0", 0)


def opened(link: str, kind: str = "", **changes: Any) -> Descriptor:
    plain: Descriptor = {
        "number": 3,
        "link": link,
        "kind": kind,
        "access": os.O_RDWR,
        "names": 1,
        "size": 0,
    }
    return {**plain, **changes}  # type: ignore[typeddict-item]


def sock(inode: int) -> Descriptor:
    return opened(f"socket:[{inode}]", "socket")


def process(
    *descriptors: Descriptor,
    devices: list[str] | None = None,
    mistakable: list[str] | None = None,
    pid: int = 1000,
) -> Process:
    command = "python train.py"
    return {
        "pid": pid,
        "command": command,
        "descriptors": list(descriptors),
        "devices": devices or [],
        "mistakable": mistakable or [],
    }


def tcp(state: str, local: tuple[str, int], remote: tuple[str, int] = NOWHERE) -> Socket:
    return {"family": "tcp", "state": state, "local": local, "remote": remote, "peer": 0}


def unix(peer: int, state: str = "established") -> Socket:
    return {"family": "unix", "state": state, "local": ("", 0), "remote": ("", 0), "peer": peer}


def found(*processes: Process, sockets: dict[int, Socket] | None = None) -> tuple[str, ...]:
    contents: Contents = {
        "processes": list(processes),
        "sockets": {str(inode): s for inode, s in (sockets or {}).items()},
    }
    return obstacles(contents)


CARRIED = (
    opened("/dev/null", "device"),
    opened("/dev/urandom", "device"),
    opened("/dev/pts/3", "device"),
    opened("/data/log", "file"),
    opened("/data/log (deleted)", "file", names=0, size=GHOST_MOST_BYTES),
    opened("/memfd:batch (deleted)", "file", names=0),
    opened("pipe:[7]", "pipe", access=os.O_WRONLY),
    *(opened(f"anon_inode:[{name}]") for name in ("eventfd", "eventpoll", "timerfd", "signalfd")),
    opened("anon_inode:inotify"),
    opened("anon_inode:[fanotify]"),
    opened("anon_inode:bpf-map"),
)


@pytest.mark.parametrize("descriptor", CARRIED, ids=lambda d: d["link"])
def test_what_criu_carries_stands_in_nobodys_way(descriptor: Descriptor) -> None:
    assert found(process(descriptor)) == ()


@pytest.mark.parametrize(
    ("descriptor", "named"),
    [
        (opened("anon_inode:[io_uring]"), "io_uring"),
        (opened("anon_inode:[userfaultfd]"), "userfaultfd"),
        (opened("anon_inode:[perf_event]"), "perf_event"),
        (opened("/dev/nvidia0", "device"), "/dev/nvidia0, and its driver"),
        (opened("/dev/net/tun", "device"), "the device /dev/net/tun"),
        (opened("/d/a (deleted)", "file", names=1), "lives on under another"),
        (opened("/d/a (deleted)", "file", names=0, size=3 << 30), "of 3.0 GiB"),
        (opened("/d/fifo", "pipe", access=os.O_WRONLY), "what reads it is outside"),
        (opened("/d/fifo", "pipe", access=os.O_RDONLY), "what writes it is outside"),
    ],
)
def test_what_cannot_be_carried_is_named_with_its_process(
    descriptor: Descriptor, named: str
) -> None:
    (reason,) = found(process(descriptor))
    assert named in reason
    assert reason.startswith("process 1000 (python train.py) ")


def test_a_mapped_device_counts_like_an_open_one() -> None:
    (reason,) = found(process(devices=["/dev/nvidiactl", "/dev/shm/x", "/dev/zero"]))
    assert "/dev/nvidiactl" in reason


def test_a_child_that_lies_almost_like_its_parent_is_named() -> None:
    (reason,) = found(process(mistakable=["/lib/libdl.so.2"]))
    assert "/lib/libdl.so.2" in reason and "setarch" in reason


def test_a_connection_is_told_from_a_listener_and_from_one_within_the_job() -> None:
    outside = tcp("established", ("10.0.0.2", 4000), ("93.184.216.34", 443))
    (reason,) = found(process(sock(1)), sockets={1: outside})
    assert "a TCP connection to 93.184.216.34:443" in reason
    assert found(process(sock(1)), sockets={1: tcp("listening", ("0.0.0.0", 80))}) == ()
    assert found(process(sock(1)), sockets={1: tcp("listening", ("127.0.0.1", 80))}) == ()
    (reason,) = found(process(sock(1)), sockets={1: tcp("listening", ("10.0.0.2", 80))})
    assert "10.0.0.2:80, which is this node's" in reason
    one, other = ("127.0.0.1", 5000), ("127.0.0.1", 6000)
    pair = {1: tcp("established", one, other), 2: tcp("established", other, one)}
    reasons = found(process(sock(1)), process(sock(2), pid=1001), sockets=pair)
    assert len(reasons) == 2
    assert all("within the job" in r and "ranks: N" in r for r in reasons)


def test_a_connection_of_somebody_else_is_nobodys_obstacle() -> None:
    assert found(process(), sockets={1: tcp("established", ("::1", 1), ("::1", 2))}) == ()


def test_a_unix_socket_must_have_its_other_end_in_the_job() -> None:
    pair = {1: unix(2), 2: unix(1)}
    assert found(process(sock(1)), process(sock(2), pid=1001), sockets=pair) == ()
    (reason,) = found(process(sock(1)), sockets=pair)
    assert "a process outside the job" in reason
    assert len(found(process(sock(3)), sockets={3: unix(0)})) == 1, "nobody accepted it yet"
    for state in ("listening", "closed", "shut"):
        assert found(process(sock(3)), sockets={3: unix(0, state)}) == ()


def test_a_named_pipe_within_the_job_is_its_own_affair() -> None:
    ends = [opened("/d/fifo", "pipe", access=a) for a in (os.O_RDONLY, os.O_WRONLY)]
    assert found(process(ends[0]), process(ends[1], pid=1001)) == ()
    assert found(process(opened("/d/fifo", "pipe", access=os.O_RDWR))) == ()


def test_only_the_first_few_reasons_are_told() -> None:
    assert told(("a", "b")) == "a; b"
    assert told(("a", "b", "c", "d", "e")) == "a; b; c; and 2 more"
