"""The control page: one layout, every field where the other side looks for it."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singularity.agent.interposer.page import (
    MAGIC,
    SIZE_BYTES,
    Command,
    Page,
    ParkRecord,
    Rendezvous,
    State,
)

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page.create(tmp_path_factory.mktemp("run") / "rank-0.page")


def test_a_new_page_is_blank_and_outside_any_slot(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    assert (tmp_path / "page").stat().st_size == SIZE_BYTES
    assert (page.command, page.state, page.slot) == (Command.RUN, State.NONE, -1)
    assert page.step == page.stop == page.commit == page.generation == page.sockets == 0
    assert page.rendezvous == {"store": "", "generation": 0, "ip": ""}


def test_the_layout_is_fixed(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    page.command, page.state, page.sockets = Command.RESUME, State.PARKED, 3
    page.step, page.stop, page.commit = 2**40 + 1, 2**40 + 2, 2**40 + 3
    page.generation, page.slot, page.turn = 7, -1, 5
    page.rendezvous = {"store": "/v/g7", "generation": 7, "ip": "10.0.0.1"}
    text = b'{"store": "/v/g7", "generation": 7, "ip": "10.0.0.1"}'
    head = struct.pack(
        "<IIIIQQQIiIi", MAGIC, 1, 4, 3, 2**40 + 1, 2**40 + 2, 2**40 + 3, 7, -1, len(text), 5
    )
    assert (tmp_path / "page").read_bytes() == (head.ljust(128, b"\0") + text).ljust(
        SIZE_BYTES, b"\0"
    )


@given(step=U64, stop=U64, commit=U64, generation=U32, slot=st.integers(-1, 2**31 - 1))
def test_each_field_reads_back_through_another_mapping(
    page: Page, step: int, stop: int, commit: int, generation: int, slot: int
) -> None:
    page.step, page.stop, page.commit = step, stop, commit
    page.generation, page.slot = generation, slot
    other = Page(page.path)
    assert (other.step, other.stop, other.commit) == (step, stop, commit)
    assert (other.generation, other.slot) == (generation, slot)


@given(store=st.text(max_size=200), generation=U32, ip=st.text("0123456789.:abcdef", max_size=45))
def test_the_rendezvous_reads_back(page: Page, store: str, generation: int, ip: str) -> None:
    wanted: Rendezvous = {"store": store, "generation": generation, "ip": ip}
    page.rendezvous = wanted
    assert Page(page.path).rendezvous == wanted


def test_a_rendezvous_too_long_for_the_page_is_refused(page: Page) -> None:
    before = page.rendezvous
    with pytest.raises(ValueError, match="at most"):
        page.rendezvous = {"store": "x" * SIZE_BYTES, "generation": 1, "ip": ""}
    assert page.rendezvous == before


@given(
    stop=st.integers(1, 100),
    step=st.integers(0, 100),
    state=st.sampled_from(State),
)
def test_only_a_rank_that_cannot_have_passed_the_stop_acknowledges_it(
    page: Page, stop: int, step: int, state: State
) -> None:
    page.step, page.state = step, state
    at_rest = state in (State.HOLDING, State.PARKED)
    assert page.acknowledges(stop) == (step < stop or (step == stop and at_rest))


def test_resume_clears_the_cut_so_that_the_rank_does_not_hold_again(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    page.stop = page.commit = 5
    page.resume({"store": "/v/g2", "generation": 2, "ip": ""})
    assert (page.stop, page.commit, page.command) == (0, 0, Command.RESUME)
    assert page.rendezvous["generation"] == 2


def test_wiping_a_page_reaches_those_who_map_it(tmp_path: Path) -> None:
    old = Page.create(tmp_path / "page")
    old.step = 9
    Page.create(tmp_path / "page")
    assert old.step == 0


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    page = Page.create(tmp_path / "page")
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert page.step == 0


def test_a_page_is_unmapped_with_its_owner(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    assert str(page.path) in Path("/proc/self/maps").read_text()
    path = str(page.path)
    del page
    assert path not in Path("/proc/self/maps").read_text()


def test_a_detached_page_speaks_to_nobody(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    child = Page(page.path)
    child.detach()
    child.step, child.state = 5, State.EXITED
    assert (page.step, page.state) == (0, State.NONE)
    assert child.slot == -1


def test_what_is_not_a_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Page(tmp_path / "none")
    (tmp_path / "zeros").write_bytes(bytes(SIZE_BYTES))
    with pytest.raises(ValueError, match="not a control page"):
        Page(tmp_path / "zeros")
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(ValueError, match="not a control page"):
        Page(tmp_path / "short")


def test_a_park_record_reads_back(tmp_path: Path) -> None:
    record = ParkRecord(12, ("socket:[1]",), ((4096, 1 << 40), (8192, 3)), 0.02)
    record.save(tmp_path / "rank-0.page")
    assert ParkRecord.load(tmp_path / "rank-0.page") == record
    assert [path.name for path in tmp_path.iterdir()] == ["rank-0.page.json"]


def test_a_park_record_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    text = '{"step": "x", "sockets": [], "tensors": [], "teardown_s": 0.1}'
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match="not an integer"):
        ParkRecord.load(tmp_path / "p")
