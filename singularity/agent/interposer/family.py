"""A job of one process that starts its ranks itself: `torch.multiprocessing.spawn` and its like.

Every process of such a job that builds a process group becomes a member: it has a control page of
its own beside that of the process which the plane launched, and is held at its boundaries like any
rank. A world of members is named by the store that the program meets at, for nobody else knows who
belongs to it; then it moves to a file, as every gang does, and nothing stays open of that store.
"""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path
from typing import Final, Protocol

from .page import Page, Rendezvous

_CLOSED_POLL_S: Final = 0.005
_KEY: Final = "singularity"


class Meeting(Protocol):
    """What is asked of the store that a program brings; torch's own are all like this."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def wait(self, keys: list[str], /) -> None: ...


def members(main: Path) -> Path:
    """The directory of the pages of members, each `PID.page`, for the rank with the page `main`."""
    return main.with_name(f"{main.stem}.members")


def semaphores(main: Path) -> str:
    """How the names begin that multiprocessing gives to the semaphores of that rank and of what it
    starts, so that those of processes that were killed can be told from others' and removed, also
    from those of another planet on this machine that has a job of the same name."""
    where = zlib.crc32(str(main).encode())
    return f"/mp-{where:08x}.{main.parent.name}.{main.stem}"


def join(main: Page, pid: int) -> Page:
    """The page of process `pid`, which may become a member. OSError where none can be made."""
    directory = members(main.path)
    directory.mkdir(exist_ok=True)
    draft = directory / f"{pid}.new"
    page = Page.create(draft)
    page.path = directory / f"{pid}.page"
    draft.replace(page.path)
    return page


def enter(main: Page, page: Page) -> None:
    """The process of `page` is about to connect; waits while a cut is being taken.

    An agent says `closed` before it counts the members, and we count ourselves in before we look:
    either it waits for us, or we for it.
    """
    while True:
        page.groups = max(1, page.groups)
        if not main.closed:
            return
        page.groups = 0
        while main.closed:
            time.sleep(_CLOSED_POLL_S)


def where(main: Page) -> Rendezvous:
    """Where the worlds of this family meet now. The agent may just be writing it."""
    while not (found := main.rendezvous)["store"]:
        time.sleep(_CLOSED_POLL_S)
    return found


def agree(store: Meeting, rank: int, world: int, use: str = "") -> str:
    """A name for the world of `world` processes that meets at `store`, which no other ever had.

    use   tells worlds apart that meet at one store one after another
    Whoever serves the store may take it away when this returns: nobody is still asking it.
    """
    key = f"{_KEY}/{use}"
    if rank == 0:
        store.set(f"{key}/name", f"{os.getpid()}-{time.monotonic_ns()}")
    name = store.get(f"{key}/name").decode()
    store.set(f"{key}/read/{rank}", "1")  # unlike add(), this waits for no answer
    if rank == 0:
        store.wait([f"{key}/read/{other}" for other in range(world)])
    return name
