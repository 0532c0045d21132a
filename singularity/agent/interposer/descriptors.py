"""This process's own descriptors: which are sockets, and which a forked child must not share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_OWN: Final = Path("/proc/self/fd")
_CHANNELS: Final = ("socket:", "pipe:", "anon_inode:[eventpoll]")  # what a gloo device opens


def _links() -> dict[int, str]:
    links = {}
    for name in os.listdir(_OWN):
        try:
            links[int(name)] = os.readlink(_OWN / name)
        except OSError:  # the listing's own descriptor, closed by now
            continue
    return links


def sockets() -> tuple[str, ...]:
    """Links of all open sockets, e.g. ("socket:[4711]",): what would make a dump fail."""
    return tuple(link for link in _links().values() if link.startswith("socket:"))


class Channels:
    """The descriptors that communicators opened, so that a forked child can let go of them.

    A DataLoader worker inherits every socket of its parent and would keep the connection alive
    after the parent dropped it.
    """

    def __init__(self) -> None:
        self._links: dict[int, str] = {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Count the channels that appear while the body runs as the communicator's."""
        before = _links()
        try:
            yield
        finally:
            for number, link in _links().items():
                if link.startswith(_CHANNELS) and before.get(number) != link:
                    self._links[number] = link

    def clear(self) -> None:
        """The communicators are gone, and their descriptors with them."""
        self._links.clear()

    def drop_in_child(self) -> None:
        """Put /dev/null in the place of each: freeing the numbers would let the communicator's
        copy in this child close whatever file takes them next."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        now = _links()
        for number, link in self._links.items():
            if now.get(number) == link:
                os.dup2(null, number)
        os.close(null)
        self._links.clear()
