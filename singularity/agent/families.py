"""Whom a cut must hold on this node: its ranks, or the processes that a rank has started to be some
(see interposer/family.py)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from .interposer.family import members, semaphores
from .interposer.page import Page, Rendezvous, State
from .runtime.processes import descendants, inner_pid
from .runtime.sandbox import Sandbox
from .stall import Who

_SEMAPHORES: Final = Path("/dev/shm")  # where glibc keeps those with a name
_AT_REST: Final = (State.HOLDING, State.PARKED)


class Families:
    """`pages` are those of the ranks of this node, `ranks` their sandboxes: both may still change.
    Only a rank that is `alone` in its gang has a family."""

    def __init__(
        self, pages: Mapping[int, Page], ranks: Mapping[int, Sandbox], *, alone: bool
    ) -> None:
        self._pages, self._ranks, self._alone = pages, ranks, alone
        self._known: dict[Path, Page] = {}

    def held(self) -> dict[Who, Page]:
        """The pages that have to be at rest in a cut: of all processes that hold connections, and
        where none does, of the ranks themselves."""
        found = self._ranked()
        if not (family := self._members()):
            return found
        busy = {who: page for who, page in family.items() if _busy(page)}
        if busy:
            found = {rank: page for rank, page in found.items() if _busy(page)}
        return {**found, **busy}

    def parked(self) -> dict[Who, Page]:
        """Those that wait to be resumed."""
        everybody: dict[Who, Page] = {**self._ranked(), **self._members()}
        return {who: page for who, page in everybody.items() if page.state is State.PARKED}

    def at_rest(self) -> bool:
        """Is every process that the plane knows of parked? Those that a rank started are not known
        to be, where they are a family."""
        pages = self._ranked().values()
        return not self._members() and all(page.state is State.PARKED for page in pages)

    def close(self, closed: bool) -> None:
        """Let no process join a world while a cut is being taken."""
        if self._alone:
            for page in list(self._pages.values()):
                page.closed = closed

    def release(self) -> None:
        """The cut is over: nobody holds for it who was not parked."""
        for page in self._members().values():
            if page.state is not State.PARKED:
                page.stop = page.halt = 0

    def move(self, rendezvous: Callable[[int], Rendezvous]) -> None:
        """Where worlds meet from now on, for those that are yet to come."""
        if self._alone:
            for rank, page in self._pages.items():
                page.rendezvous = rendezvous(rank)

    def _ranked(self) -> dict[Who, Page]:
        found: dict[Who, Page] = {}
        found.update(list(self._pages.items()))  # at once: another thread may be adding
        return found

    def _members(self) -> dict[Who, Page]:
        """Of processes that run; the pages of others are removed."""
        found: dict[Who, Page] = {}
        for rank, page in list(self._pages.items()) if self._alone else ():
            paths = list(members(page.path).glob("*.page"))
            sandbox = self._ranks.get(rank)
            if not paths or sandbox is None:
                continue
            alive = {inner_pid(pid) for pid in descendants(sandbox.supervisor.pid)}
            for path in sorted(paths):
                if int(path.stem) not in alive:
                    self._known.pop(path, None)
                    path.unlink(missing_ok=True)
                    continue
                with suppress(FileNotFoundError):
                    member = self._page(path)
                    if member.state is not State.EXITED:
                        found[f"process {path.stem}"] = member
        return found

    def _page(self, path: Path) -> Page:
        """Mapped once."""
        if path not in self._known:
            self._known[path] = Page(path)
        return self._known[path]


def forget_page(main: Path) -> None:
    """Of a rank that is no more, and of its family; who still maps one keeps it."""
    main.unlink(missing_ok=True)
    shutil.rmtree(members(main), ignore_errors=True)


def forget_semaphores(main: Path) -> None:
    """Of a rank that has ended, whichever way: nobody else has a use for them. Those of one that
    was dumped stay, for its image may name them."""
    for path in _SEMAPHORES.glob(f"sem.{semaphores(main).removeprefix('/')}-*"):
        path.unlink(missing_ok=True)


def _busy(page: Page) -> bool:
    return page.groups > 0 or page.state in _AT_REST
