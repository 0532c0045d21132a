"""What is written where when a rank has a share of processors; the kernel reads it as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from singularity.agent.runtime import cgroup
from singularity.agent.runtime.cgroup import Limits, Seat, make_cgroup

RT, BE = Seat("dev", 2.0, 300, first=True), Seat("dev", 2.0, 600, first=False)
NAMES = ("memory", "cpu", "cpuacct", "pids")


@pytest.fixture(params=[False, True], ids=["v1", "v2"])
def unified(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """A tree of plain directories, with the group for best-effort ranks there already."""
    roots = (tmp_path,) if request.param else tuple(tmp_path / name for name in NAMES)
    at = roots[0] if request.param else roots[1]
    (at / "dev" / "be").mkdir(parents=True)
    (at / "dev" / "be" / "cpu.idle").write_text("0")
    for root in roots:
        root.mkdir(exist_ok=True)
    parent = cgroup._Parent(roots, request.param)
    monkeypatch.setattr(cgroup, "_parent", lambda: parent)
    return bool(request.param)


def written(root: Path) -> dict[str, str]:
    return {str(f.relative_to(root)): f.read_text() for f in root.rglob("*") if f.is_file()}


def test_the_files_say_what_the_share_says(unified: bool, tmp_path: Path) -> None:
    for name, seat in (("rt", RT), ("be", BE)):
        group, reason = make_cgroup(name, Limits(memory_bytes=1000, seat=seat))
        assert group is not None, reason
    handed_on = "+memory +cpu +pids"
    if unified:
        assert written(tmp_path) == {
            "dev/cgroup.subtree_control": handed_on,
            "dev/be/cgroup.subtree_control": handed_on,
            "dev/be/cpu.idle": "1",
            "dev/be/cpu.max": "200000 100000",
            "dev/rt/cpu.max": "60000 100000",
            "dev/rt/memory.max": "1000",
            "dev/be/be/cpu.weight": "60",
            "dev/be/be/memory.max": "1000",
        }
    else:
        assert written(tmp_path) == {
            "cpu/dev/be/cpu.idle": "1",
            "cpu/dev/be/cpu.cfs_period_us": "100000",
            "cpu/dev/be/cpu.cfs_quota_us": "200000",
            "cpu/dev/rt/cpu.cfs_period_us": "100000",
            "cpu/dev/rt/cpu.cfs_quota_us": "60000",
            "cpu/dev/be/be/cpu.shares": "614",
            "memory/rt/memory.limit_in_bytes": "1000",
            "memory/be/memory.limit_in_bytes": "1000",
        }


def test_a_rank_with_no_share_has_no_group_of_a_device(unified: bool, tmp_path: Path) -> None:
    group, _ = make_cgroup("plain", Limits(cpus=0.5))
    assert group is not None and group.above == ()
    assert group.path("cpu") == tmp_path / ("plain" if unified else "cpu/plain")
