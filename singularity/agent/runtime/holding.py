"""What processes hold open, as contents.py tells it."""

from __future__ import annotations

from typing import TypedDict


class Descriptor(TypedDict):
    """`kind` is one of file, directory, device, pipe, socket, or "" for what has no type."""

    number: int
    link: str
    kind: str
    access: int  # os.O_RDONLY, O_WRONLY or O_RDWR
    names: int  # hard links
    size: int


class Socket(TypedDict):
    """`local` and `remote` are (address, port); `peer` is the inode of a unix socket's other
    end, or of the listener that has not accepted it; 0 where it is in no network of ours."""

    family: str
    state: str
    local: tuple[str, int]
    remote: tuple[str, int]
    peer: int


class Process(TypedDict):
    pid: int
    command: str
    descriptors: list[Descriptor]
    devices: list[str]  # that are mapped into its memory
    mistakable: list[str]  # files of which its parent has another part at the same place


class Contents(TypedDict):
    """`sockets` by inode: those of the sandbox's network, whoever holds them; none where no
    process holds any."""

    processes: list[Process]
    sockets: dict[str, Socket]
