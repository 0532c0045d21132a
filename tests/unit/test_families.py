"""A rank that starts ranks of its own: who must be at rest in a cut; how a world gets its name."""

from __future__ import annotations

import _multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from singularity.agent.families import Families, forget_page, forget_semaphores
from singularity.agent.interposer import family
from singularity.agent.interposer.page import Page, State

GONE = 4_000_000  # above any pid of this kernel


class Store:
    """A key-value store that blocks, as torch's do."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._changed = threading.Condition()

    def set(self, key: str, value: str) -> None:
        with self._changed:
            self._values[key] = value
            self._changed.notify_all()

    def get(self, key: str) -> bytes:
        self.wait([key])
        return self._values[key].encode()

    def wait(self, keys: list[str]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: set(keys) <= set(self._values), 20)


@pytest.fixture
def main(tmp_path: Path) -> Page:
    return Page.create(tmp_path / "rank-0.page")


@pytest.fixture
def child() -> Iterator[int]:
    """The pid of a child of this process, which plays the supervisor."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as made:
        yield made.pid


def families(main: Page, *, alone: bool = True) -> Families:
    sandbox: Any = SimpleNamespace(supervisor=SimpleNamespace(pid=os.getpid()))
    return Families({0: main}, {0: sandbox}, alone=alone)


def meet(store: Store, rank: int, world: int, names: dict[int, tuple[str, ...]]) -> None:
    names[rank] = tuple(family.agree(store, rank, world, use) for use in ("a", "b"))


@pytest.mark.parametrize("world", [1, 2, 5])
def test_a_world_has_one_name_and_the_next_another(world: int) -> None:
    store, names = Store(), dict[int, tuple[str, ...]]()
    threads = [
        threading.Thread(target=meet, args=(store, rank, world, names)) for rank in range(world)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((first, second),) = set(names.values())
    assert len(names) == world and first != second


def test_who_serves_the_store_lets_go_of_it_last() -> None:
    store, done = Store(), list[int]()
    first = threading.Thread(target=lambda: done.append(len(family.agree(store, 0, 2))))
    first.start()
    first.join(0.05)
    assert not done, "rank 1 has not read the name yet"
    family.agree(store, 1, 2)
    first.join()
    assert done


def test_nobody_enters_a_world_during_a_cut(main: Page) -> None:
    page = family.join(main, 7)
    main.closed = True
    entered = threading.Thread(target=family.enter, args=(main, page))
    entered.start()
    entered.join(0.05)
    assert entered.is_alive() and page.groups == 0
    main.closed = False
    entered.join()
    assert page.groups == 1


def test_a_rank_without_a_family_is_held_itself(main: Page) -> None:
    assert families(main).held() == {0: main}


def test_members_with_connections_are_held_in_place_of_who_started_them(
    main: Page, child: int
) -> None:
    found = families(main)
    page = family.join(main, child)
    assert set(found.held()) == {0}, "one with no connection harms nobody"
    page.groups = 1
    assert set(found.held()) == {f"process {child}"}
    main.groups = 1  # the first takes part as well
    assert set(found.held()) == {0, f"process {child}"}
    page.state, main.state = State.PARKED, State.PARKED
    page.groups = 0
    assert set(found.parked()) == {0, f"process {child}"}


def test_members_that_ended_do_not_count(main: Page, child: int) -> None:
    found = families(main)
    for pid in (child, GONE):
        family.join(main, pid).groups = 1
    found.held()[f"process {child}"].state = State.EXITED
    assert found.held() == {0: main}
    left = [path.name for path in family.members(main.path).iterdir()]
    assert left == [f"{child}.page"], "the page of a process that is gone is removed"
    forget_page(main.path)
    assert not main.path.exists() and not family.members(main.path).exists()


def test_a_rank_of_a_gang_has_no_family(main: Page, child: int) -> None:
    family.join(main, child).groups = 1
    assert families(main, alone=False).held() == {0: main}


def test_who_holds_for_a_cut_that_is_over_goes_on(main: Page, child: int) -> None:
    found = families(main)
    page = family.join(main, child)
    page.stop, page.state = 9, State.RUNNING
    found.release()
    assert page.stop == 0


def test_semaphores_of_killed_processes_are_told_by_their_names_and_removed(tmp_path: Path) -> None:
    """Those of another rank, and of a planet beside this one with a job of that name, stay."""
    mine, other = (tmp_path / f"{os.getpid()}" / f"rank-{rank}.page" for rank in (1, 11))
    beside = tmp_path / "beside" / mine.parent.name / mine.name
    kinds = {page: f"{family.semaphores(page)}-x1" for page in (mine, other, beside)}
    for name in kinds.values():
        _multiprocessing.SemLock(0, 1, 1, name, False)  # as one that nobody was left to unlink
    there = {page: Path(f"/dev/shm/sem.{name.removeprefix('/')}") for page, name in kinds.items()}
    forget_semaphores(mine)
    assert not there[mine].exists() and there[other].exists() and there[beside].exists()
    for page in (other, beside):
        forget_semaphores(page)
        assert not there[page].exists()
