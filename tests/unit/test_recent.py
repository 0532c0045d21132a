"""What a node keeps in memory beside the store is bounded, the newest, and never half there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singularity.agent import recent
from singularity.agent.gang import CutRef
from singularity.agent.images import Images
from singularity.agent.recent import Held, Recent, link, to_drop
from singularity.agent.runtime.sandbox import Sandbox
from singularity.agent.scratch import Memory
from singularity.primitives.messages import Start
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId
from singularity.primitives.sharing import DeviceShare
from singularity.store.imagestore import Copy
from singularity.store.manifest import ImageKey

JOB, OTHER = JobId("j-1"), JobId("j-2")
PROJECT = "vision"
PLENTY, NONE = Memory(1 << 40, 1 << 40), Memory(0, 1 << 40)
held = st.builds(
    Held,
    st.integers(0, 9).map(lambda n: JobId(f"j-{n}")),
    st.integers(1, 100),
    st.integers(0, 9000).map(float),
)


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "in_memory", lambda directory: "disk" not in directory.parts)


def made(root: Path, cut: int, job: JobId = JOB) -> tuple[Path, dict[int, Copy]]:
    """Two ranks as a dump leaves them."""
    directory, key = root / f"{job}.1.{cut}", ImageKey(job, 1, cut, NodeId("n"))
    for rank in (0, 1):
        (directory / str(rank)).mkdir(parents=True)
        (directory / str(rank) / "pages-1.img").write_bytes(b"%d of %d" % (rank, cut))
    return directory, {r: Copy(key, f"digest {cut}", directory / str(r)) for r in (0, 1)}


@given(st.lists(held, unique_by=lambda h: h.job), st.integers(0, 400), st.integers(0, 400))
def test_no_more_goes_than_must_and_the_oldest_first(
    entries: list[Held], available: int, wanted: int
) -> None:
    now_s, memory = 9000.0, Memory(available, 400)
    gone, enough = to_drop(entries, now_s, memory, wanted)
    assert gone == to_drop(reversed(entries), now_s, memory, wanted)[0], "in whatever order"
    dropped = [h for h in entries if h.job in gone]
    kept = [h for h in entries if h.job not in gone]
    left = available - wanted - 100 + sum(h.bytes for h in dropped)
    assert enough == (left >= 0)
    assert not kept or enough, "all goes before others are short"
    assert all(now_s - h.at_s <= 1800 for h in kept)
    young = [h for h in dropped if now_s - h.at_s <= 1800]
    assert all(d.at_s <= k.at_s for d in young for k in kept)
    if young:
        last = max(young, key=lambda h: (h.at_s, h.job))
        assert left - last.bytes < 0, "the last one had to go"


def test_the_last_cut_of_a_job_is_kept_and_the_one_before_goes(tmp_path: Path) -> None:
    kept = Recent(lambda: PLENTY)
    for cut in (1, 2):
        directory, copies = made(tmp_path, cut)
        kept.keep(JOB, PROJECT, copies, directory)
        assert not directory.exists(), "its name is free for the next"
    found = kept.of(JOB)
    assert {(c.key.cut, c.digest) for c in found.values()} == {(2, "digest 2")}
    assert (found[1].path / "pages-1.img").read_bytes() == b"1 of 2"
    until(lambda: len(list(tmp_path.iterdir())) == 1)
    assert kept.of(OTHER) == {}


def test_of_a_project_the_job_itself_comes_first_then_who_was_kept_last(tmp_path: Path) -> None:
    kept = Recent(lambda: PLENTY)
    third = JobId("j-3")
    for job in (JOB, OTHER, third):
        kept.keep(job, PROJECT, *reversed(made(tmp_path, 1, job)))
    kept.keep(JobId("j-4"), "speech", *reversed(made(tmp_path, 1, JobId("j-4"))))
    found = [{copy.key.job for copy in copies.values()} for copies in kept.near(JOB, PROJECT)]
    assert found == [{JOB}, {third}, {OTHER}]
    assert kept.near(JOB, "nobody's") == ()


@pytest.mark.parametrize(("where", "memory"), [("disk", PLENTY), ("shm", NONE)])
def test_nothing_is_kept_on_a_disk_or_where_memory_is_scarce(
    tmp_path: Path, where: str, memory: Memory
) -> None:
    now = [PLENTY]
    kept = Recent(lambda: now[0])
    directory, copies = made(tmp_path, 1)
    kept.keep(JOB, PROJECT, copies, directory)
    now[0] = memory
    directory, copies = made(tmp_path / where, 2)
    kept.keep(JOB, PROJECT, copies, directory)
    assert kept.of(JOB) == {}
    until(lambda: not [name for _, _, names in os.walk(tmp_path) for name in names])


def test_what_is_kept_makes_way(tmp_path: Path) -> None:
    now = [PLENTY]
    kept = Recent(lambda: now[0])
    for job in (JOB, OTHER):
        kept.keep(job, PROJECT, *reversed(made(tmp_path, 1, job)))
    assert kept.room()
    assert kept.of(JOB) and kept.of(OTHER)
    assert not kept.room(2 << 40)
    assert not kept.of(JOB) and not kept.of(OTHER)
    until(lambda: not list(tmp_path.iterdir()))


def test_a_link_is_what_was_there(tmp_path: Path) -> None:
    directory, copies = made(tmp_path, 1)
    link(copies[1].path, tmp_path / "target")
    assert (tmp_path / "target" / "pages-1.img").read_bytes() == b"1 of 1"
    link(directory / "gone", tmp_path / "nothing")
    assert list((tmp_path / "nothing").iterdir()) == [], "which the store then finds not whole"


class Rank:
    """What is asked of a sandbox, and what was; it can be taken for one that stands."""

    def __init__(self, *, alive: bool = True) -> None:
        self.done: list[str] = []
        self._alive, self.sandbox = alive, self

    def end(self) -> None:
        self.remove()

    def alive(self) -> bool:
        return self._alive

    def freeze(self) -> None:
        self.done.append("stopped")

    def remove(self) -> None:
        self.done.append("gone")


def stood(root: Path, cut: int = 1, look: Callable[[], Memory] = lambda: PLENTY) -> Recent:
    kept = Recent(look)
    directory, copies = made(root, cut)
    kept.keep(JOB, PROJECT, copies, directory)
    return kept


def names(cut: int = 1) -> dict[int, tuple[ImageKey, str]]:
    return {rank: (ImageKey(JOB, 1, cut, NodeId("n")), f"digest {cut}") for rank in (0, 1)}


def test_ranks_that_stand_are_woken_once_and_for_their_own_cut_only(tmp_path: Path) -> None:
    kept, ranks = stood(tmp_path), {0: Rank(), 1: Rank()}
    assert not kept.stand(JOB, 2, ranks), "they were saved by another cut"
    assert not kept.stand(OTHER, 1, ranks)
    assert [rank.done for rank in ranks.values()] == [[], []]
    assert kept.stand(JOB, 1, ranks)
    assert [rank.done for rank in ranks.values()] == [["stopped"], ["stopped"]]
    assert kept.wake(JOB, names()) == ranks
    assert kept.wake(JOB, names()) == {}
    assert kept.of(JOB), "the images stay, to be compared with"


@pytest.mark.parametrize("why", ["another cut", "dead", "elsewhere"])
def test_who_stands_for_nothing_is_ended(tmp_path: Path, why: str) -> None:
    kept, ranks = stood(tmp_path), {0: Rank(), 1: Rank(alive=why != "dead")}
    kept.stand(JOB, 1, ranks)
    wanted = names(2) if why == "another cut" else names()
    if why == "elsewhere":
        del wanted[1]
    woken = kept.wake(JOB, wanted)
    assert woken == ({} if why == "another cut" else {0: ranks[0]})
    assert ranks[1].done[-1] == "gone"


@pytest.mark.parametrize("how", ["memory", "the next cut", "a new epoch"])
def test_ranks_go_with_the_images_that_they_stand_for(tmp_path: Path, how: str) -> None:
    now = [PLENTY]
    kept, ranks = stood(tmp_path, look=lambda: now[0]), {0: Rank(), 1: Rank()}
    kept.stand(JOB, 1, ranks)
    if how == "memory":
        now[0] = NONE
        kept.room()
    elif how == "the next cut":
        kept.keep(JOB, PROJECT, *reversed(made(tmp_path, 2)))
    else:
        kept.clear()
    until(lambda: all(rank.done == ["stopped", "gone"] for rank in ranks.values()))
    assert kept.wake(JOB, names()) == {}


def test_who_would_take_the_last_memory_does_not_stand(tmp_path: Path) -> None:
    now = [PLENTY]
    kept, ranks = stood(tmp_path, look=lambda: now[0]), {0: Rank()}
    now[0] = NONE
    assert not kept.stand(JOB, 1, ranks)
    until(lambda: ranks[0].done[-1] == "gone")


def test_who_had_a_share_of_a_device_does_not_stand() -> None:
    """Others are given its memory, and its limits are those of a device that its job may leave."""
    start = Start(
        job=JOB,
        node=NodeId("n"),
        incarnation=1,
        gang=(NodeId("n"),),
        world=1,
        ranks=(0,),
        slots=(0,),
        devices=1,
        run=("x",),
        share=DeviceShare(500, 1),
        indices=(0,),
    )
    images = Mock()
    assert Images.stand(images, start, CutRef(JOB, 1, 1), {0: Mock(spec=Sandbox)}) is False
    images.recent.stand.assert_not_called()
