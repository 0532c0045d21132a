"""Images wait where there is room, and nothing of them stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from singularity.agent.scratch import KEPT, Scratch, open_scratch

FAR_TOO_MUCH = 1 << 60


@pytest.fixture
def both(tmp_path: Path) -> Scratch:
    if not os.path.ismount("/dev/shm"):
        pytest.skip("no memory that is a directory")
    return open_scratch(tmp_path, None)


def test_memory_while_there_is_plenty_and_else_the_disk(both: Scratch, tmp_path: Path) -> None:
    with both.directory("a", 1) as small, both.directory("b", FAR_TOO_MUCH) as large:
        assert both.memory is not None and small == both.memory / "a"
        assert large == tmp_path / "images" / "b"
        assert (both.memory.stat().st_mode & 0o777) == 0o700
        (small / "pages").write_bytes(b"x")
    assert not small.exists() and not large.exists()
    both.close()
    assert not both.memory.exists()


def test_what_an_agent_that_died_has_left_is_gone(both: Scratch, tmp_path: Path) -> None:
    assert both.memory is not None
    for home in (both.memory, both.disk):
        (home / "a").mkdir(parents=True)
        (home / "a" / "pages").write_bytes(b"x")
    with both.directory("a", 1) as found:
        assert list(found.iterdir()) == []
    (both.memory / "b").mkdir()
    assert open_scratch(tmp_path, None).memory == both.memory
    assert list(both.memory.iterdir()) == []
    both.close()


def test_what_the_operator_says_counts(tmp_path: Path) -> None:
    found = open_scratch(tmp_path, tmp_path / "here")
    with found.directory("a", FAR_TOO_MUCH) as directory:
        assert directory == tmp_path / "here" / "a"


def test_what_an_agent_keeps_is_there_for_the_next_and_only_that(
    both: Scratch, tmp_path: Path
) -> None:
    assert both.memory is not None
    for home in (both.memory, both.disk):
        for name in ("j.1.1.kept", "j.2.1"):
            (home / name).mkdir(parents=True)
        (home / "j.1.1.kept" / KEPT).write_text("{}")
    both.close()
    found = open_scratch(tmp_path, None)
    assert sorted(found.kept()) == sorted(home / "j.1.1.kept" for home in found.homes)
    assert not list(both.disk.glob("j.2.1")) and not list(both.memory.glob("j.2.1"))
    found.remove("j.1.1.kept")
    found.close()
    assert not both.memory.exists()
