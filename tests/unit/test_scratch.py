"""Images wait where there is room, and nothing of them stays."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from singularity.agent import scratch
from singularity.agent.scratch import KEPT, Scratch, in_memory, make_roomy, open_scratch

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


def test_agents_of_one_user_link_images_to_each_other(tmp_path: Path) -> None:
    if not os.path.ismount("/dev/shm"):
        pytest.skip("no memory that is a directory")
    one, other = (open_scratch(tmp_path / name, None) for name in ("a", "b"))
    with one.directory("j", 1) as mine, other.directory("j", 1) as theirs:
        assert mine != theirs and in_memory(mine) and in_memory(theirs)
        (mine / "pages").write_bytes(b"x")
        os.link(mine / "pages", theirs / "pages")
    one.close()
    other.close()


def test_its_file_system_has_large_pages_and_is_made_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    make_roomy(root)
    if not os.path.ismount(root):
        pytest.skip("we may not mount, or this kernel has no large pages")
    try:
        (root / "kept").touch()
        make_roomy(root)
        assert in_memory(root) and (root / "kept").exists(), "another lies over it"
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        mine = next(line for line in mounts if str(root) in line)
        assert "huge=within_size" in mine and "mode=700" in mine
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_ranks_from_before_find_their_images_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They see the file systems that there were when they began."""
    made = list[Path]()
    monkeypatch.setattr(scratch, "make_roomy", made.append)
    (tmp_path / "sandboxes" / "j.1.0").mkdir(parents=True)
    open_scratch(tmp_path, None).close()
    assert not made
    (tmp_path / "sandboxes" / "j.1.0").rmdir()
    open_scratch(tmp_path, None).close()
    assert len(made) == 1
