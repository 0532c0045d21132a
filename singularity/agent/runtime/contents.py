"""Lists what the processes of a rank hold open, seen from inside its sandbox.

Run as `python -I -S contents.py PID` in the sandbox's namespaces, where /proc, /proc/net and the
socket diagnostics are the rank's own; writes one literal of Python to stdout. What is gone when it
is looked at is left out. Ranks wait for it: of the standard library it imports what costs nothing
(json and typing take longer than all that is done here).
"""

from __future__ import annotations

import os
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .holding import Contents, Descriptor, Process, Socket

_TABLES = ("tcp", "tcp6", "udp", "udp6")
_STATES = {0x01: "established", 0x07: "closed", 0x0A: "listening"}
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)  # or another's, a setuid program
_SOCK_DIAG, _BY_FAMILY, _DUMP = 4, 20, 0x301  # netlink: protocol, message, REQUEST | DUMP
_SHOW = 0x4 | 0x8  # peers, and connections waiting at a listener
_PEER, _PENDING, _SHUTDOWN, _BOTH_WAYS = 2, 3, 6, 3
_DONE, _ERROR = 3, 2
_HEADER, _UNIX = struct.Struct("=IHHII"), struct.Struct("=BBBBIII")


def main(pid: int) -> None:
    processes = [found for p, above in _tree(pid) if (found := _process(p, above)) is not None]
    held = any(d["kind"] == "socket" for found in processes for d in found["descriptors"])
    sockets = {**_internet(), **_unix()} if held else {}
    contents: Contents = {"processes": processes, "sockets": sockets}
    sys.stdout.write(repr(contents))


def _tree(pid: int, parent: int = 0) -> Iterator[tuple[int, int]]:
    """Each with its parent, 0 for the first."""
    yield pid, parent
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except _GONE:
        return
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                below = file.read().split()
        except _GONE:
            continue
        for child in below:
            yield from _tree(int(child), pid)


def _process(pid: int, parent: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            command = " ".join(file.read().split("\0")[:4]).strip()
        numbers = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))
        descriptors = [d for n in numbers if (d := _descriptor(pid, n)) is not None]
        return {
            "pid": pid,
            "command": command,
            "descriptors": descriptors,
            "devices": _mapped_devices(pid),
            "mistakable": _mistakable(pid, parent) if parent else [],
        }
    except _GONE:
        return None


def _descriptor(pid: int, number: int) -> Descriptor | None:
    try:
        path = f"/proc/{pid}/fd/{number}"
        link, found = os.readlink(path), os.stat(path)
        with open(f"/proc/{pid}/fdinfo/{number}") as file:
            flags = next(line.split()[1] for line in file if line.startswith("flags:"))
    except _GONE:
        return None
    return {
        "number": number,
        "link": link,
        "kind": _KINDS.get(stat.S_IFMT(found.st_mode), ""),
        "access": int(flags, 8) & os.O_ACCMODE,
        "names": found.st_nlink,
        "size": found.st_size,
    }


def _mapped_devices(pid: int) -> list[str]:
    found = set()
    with open(f"/proc/{pid}/maps", errors="replace") as file:
        for line in file:
            path = line.rstrip("\n").split(maxsplit=5)[5:]
            if path and path[0].startswith(("/dev/", "anon_inode:")):
                found.add(path[0])
    return sorted(found)


def _mistakable(pid: int, parent: int) -> list[str]:
    """CRIU compares where parent and child have a file, and not which part of it."""
    mine, above = _file_parts(pid), _file_parts(parent)
    return sorted(
        {part[0] for place, part in mine.items() if _same_file(part, above.get(place, part))}
    )


def _same_file(one: tuple[str, str], other: tuple[str, str]) -> bool:
    return one[0] == other[0] and one[1] != other[1]


def _file_parts(pid: int) -> dict[str, tuple[str, str]]:
    """By range of addresses: path and offset of what is mapped there privately."""
    found = {}
    with open(f"/proc/{pid}/maps", errors="replace") as file:
        for line in file:
            place, mode, offset, _, inode, *path = line.rstrip("\n").split(maxsplit=5)
            if path and inode != "0" and mode.endswith("p"):
                found[place] = (path[0], offset)
    return found


def _internet() -> dict[str, Socket]:
    found: dict[str, Socket] = {}
    for table in _TABLES:
        try:
            with open(f"/proc/net/{table}") as file:
                lines = file.readlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            _, local, remote, state, _, _, _, _, _, inode = line.split()[:10]
            found[inode] = {
                "family": table.rstrip("6"),
                "state": _STATES.get(int(state, 16), "closing"),
                "local": _endpoint(local),
                "remote": _endpoint(remote),
                "peer": 0,
            }
    return found


def _endpoint(text: str) -> tuple[str, int]:
    """The kernel writes an address as words of the machine's byte order, in hexadecimal."""
    words, _, port = text.partition(":")
    raw = b"".join(
        int(words[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(words), 8)
    )
    import socket

    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, raw), int(port, 16)


def _unix() -> dict[str, Socket]:
    """Which unix socket is whose other end only the kernel's diagnostics tell."""
    import socket

    request = _UNIX.pack(socket.AF_UNIX, 0, 0, 0, 0xFFFFFFFF, 0, _SHOW) + b"\0" * 8
    found: dict[str, Socket] = {}
    waiting: dict[str, int] = {}  # connections that nobody has accepted yet -> the listener
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as diag:
        diag.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 1, 0) + request)
        while data := diag.recv(1 << 18):
            while data:
                length, kind, _, _, _ = _HEADER.unpack_from(data)
                if kind in (_DONE, _ERROR):
                    for inode, listener in waiting.items():
                        if inode in found:
                            found[inode]["peer"] = listener
                    return found
                _unix_message(data[_HEADER.size : length], found, waiting)
                data = data[(length + 3) & ~3 :]
    return found


def _unix_message(body: bytes, found: dict[str, Socket], waiting: dict[str, int]) -> None:
    """Note one unix_diag_msg: bytes of family, type, state and padding, the inode, two words of
    cookie; then attributes, each a length and a kind of two bytes before its words."""
    inode = struct.unpack_from("=I", body, 4)[0]
    state, peer, at = _STATES.get(body[2], ""), 0, 16
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        value = body[at + 4 : at + length]
        if kind == _PEER:
            peer = struct.unpack("=I", value)[0]
        elif kind == _PENDING:
            for (client,) in struct.iter_unpack("=I", value):
                waiting[str(client)] = inode
        elif kind == _SHUTDOWN and value[0] == _BOTH_WAYS:
            state = "shut"  # its other end is closed
        at += max(4, (length + 3) & ~3)
    nowhere = ("", 0)
    found[str(inode)] = {
        "family": "unix",
        "state": state,
        "local": nowhere,
        "remote": nowhere,
        "peer": peer,
    }


if __name__ == "__main__":
    main(int(sys.argv[1]))
