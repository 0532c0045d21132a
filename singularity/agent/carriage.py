"""What of a rank cannot be carried elsewhere, and why, in words for the job's owner.

Asked before a dump, of a rank at rest. What is not named here is left to CRIU's judgement, which
refuses a dump by itself; some things it takes and then cannot restore, or restores to another
meaning, and those only we can refuse.
"""

from __future__ import annotations

import ast
import ipaddress
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

from singularity.primitives.errors import CheckpointFailed

from .runtime import contents as listing
from .runtime.holding import Contents, Descriptor, Process, Socket
from .runtime.sandbox import Sandbox

GHOST_MOST_BYTES: Final = 1 << 30  # of an unlinked file; a DataLoader's batches are such files
_TOLD_MOST: Final = 3
# Devices that are alike on every node; terminals of the sandbox's own are dumped with it.
_PLAIN_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "kmsg", "tty", "ptmx")
_OPENED_ANYWHERE: Final = (*(f"/dev/{name}" for name in _PLAIN_DEVICES), "/dev/pts/")
_MAPPED_ANYWHERE: Final = ("/dev/zero", "/dev/shm/", "/dev/null")
_CARRIED: Final = ("eventfd", "eventpoll", "signalfd", "timerfd", "inotify", "fanotify", "pidfd")
_ACCELERATORS: Final = ("/dev/nvidia", "/dev/dri/", "/dev/kfd", "/dev/accel", "/dev/habanalabs")
_GONE: Final = " (deleted)"


def look(sandbox: Sandbox, pid: int) -> Contents:
    """What the rank `pid` and all below it hold open, as seen inside its sandbox.

    Raises CheckpointFailed when nobody can look: the sandbox is gone.
    """
    done = sandbox.run([sys.executable, "-I", "-S", listing.__file__, str(pid)])
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        raise CheckpointFailed(f"nobody can look into {sandbox.directory.name}: {''.join(last)}")
    return cast(Contents, ast.literal_eval(done.stdout))


def obstacles(contents: Contents) -> tuple[str, ...]:
    """Why the processes listed cannot be carried; () when nothing is known to stand in the way.

    Every reason names the process, and what to do where something can be done.
    """
    processes = contents["processes"]
    inodes = {_inode(d["link"]) for p in processes for d in p["descriptors"]}
    sockets = {i: s for i, s in contents["sockets"].items() if i in inodes}
    ends = {_ends(s) for s in sockets.values()}
    found: list[str] = []
    for process in processes:
        reasons = [
            *(r for d in process["descriptors"] if (r := _of_descriptor(d, sockets, ends))),
            *(r for path in process["devices"] if (r := _of_mapping(path))),
            *(
                f"has a part of {path} just where its parent has another, and CRIU would mistake "
                "one for the other; start it with other addresses (setarch without -R)"
                for path in process["mistakable"]
            ),
        ]
        found += [f"{_who(process)} {reason}" for reason in dict.fromkeys(reasons)]
    return (*found, *_of_pipes(processes))


def told(reasons: Sequence[str]) -> str:
    """The first few, as one sentence."""
    more = len(reasons) - _TOLD_MOST
    return "; ".join(reasons[:_TOLD_MOST]) + (f"; and {more} more" if more > 0 else "")


def _of_descriptor(
    open_: Descriptor,
    sockets: Mapping[str, Socket],
    ends: set[tuple[str, str]],
) -> str:
    link = open_["link"]
    if open_["kind"] == "socket":
        found = sockets.get(_inode(link))
        return _of_socket(found, sockets, ends) if found else ""
    if link.startswith("anon_inode:"):
        name = link.removeprefix("anon_inode:").strip("[]")
        if name == "io_uring":
            return "has an io_uring open, whose queues live in this kernel only"
        return "" if name in _CARRIED or name.startswith("bpf-map") else f"has a {name} open"
    if open_["kind"] == "device" and not link.startswith(_OPENED_ANYWHERE):
        return _of_device(link)
    if open_["kind"] == "file" and link.endswith(_GONE):
        return _of_unlinked(link.removesuffix(_GONE), open_)
    return ""


def _of_socket(
    found: Socket,
    sockets: Mapping[str, Socket],
    ends: set[tuple[str, str]],
) -> str:
    if found["family"] == "unix":
        outside = found["state"] == "established" and str(found["peer"]) not in sockets
        return "is connected to a unix socket of a process outside the job" if outside else ""
    local, remote = _ends(found)
    if found["family"] == "tcp" and found["state"] in ("established", "closing"):
        if (remote, local) in ends:
            return (
                f"has a TCP connection within the job ({local} to {remote}): only process groups "
                "of torch are connected anew; ranks that the job starts itself need ranks: 1, "
                "others let the plane start, with ranks: N"
            )
        return f"has a TCP connection to {remote}"
    address = ipaddress.ip_address(found["local"][0])
    if found["local"][1] and not address.is_unspecified and not address.is_loopback:
        return f"has a {found['family'].upper()} socket bound to {local}, which is this node's"
    return ""


def _of_unlinked(path: str, open_: Descriptor) -> str:
    if open_["names"] > 0:
        return f"has {path} open, which was removed under this name and lives on under another"
    if open_["size"] > GHOST_MOST_BYTES:
        size = f"{open_['size'] / (1 << 30):.1f} GiB"
        return f"has the removed file {path} of {size} open; at most 1 GiB can be carried"
    return ""


def _of_mapping(path: str) -> str:
    if path.startswith("anon_inode:[io_uring]"):
        return "has an io_uring open, whose queues live in this kernel only"
    device = path.startswith("/dev/") and not path.startswith(_MAPPED_ANYWHERE)
    return _of_device(path) if device else ""


def _of_device(path: str) -> str:
    if path.startswith(_ACCELERATORS):
        return f"uses {path}, and its driver did not take the state out of the device"
    return f"has the device {path} open"


def _of_pipes(processes: Sequence[Process]) -> Iterator[str]:
    """A named pipe with one end in the job has the other outside. Pipes without a name cannot
    reach outside: the rank is handed none, and its pid namespace shows it no stranger's."""
    access: dict[str, set[int]] = {}
    holder: dict[str, Process] = {}
    for process in processes:
        for open_ in process["descriptors"]:
            if open_["kind"] == "pipe" and open_["link"].startswith("/"):
                access.setdefault(open_["link"], set()).add(open_["access"])
                holder.setdefault(open_["link"], process)
    for path, modes in sorted(access.items()):
        if os.O_RDWR not in modes and len(modes) == 1:
            end = "writing" if os.O_WRONLY in modes else "reading"
            other = "reads" if os.O_WRONLY in modes else "writes"
            who = _who(holder[path])
            yield f"{who} has the pipe {path} open for {end}; what {other} it is outside the job"


def _inode(link: str) -> str:
    return link[len("socket:[") : -1] if link.startswith("socket:[") else ""


def _who(process: Process) -> str:
    return f"process {process['pid']} ({process['command'] or 'without a name'})"


def _ends(found: Socket) -> tuple[str, str]:
    local, remote = found["local"], found["remote"]
    return _text(*local), _text(*remote)


def _text(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
