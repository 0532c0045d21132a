"""`singularity sim`: needs no server, prints a table or JSON, and says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from singularity.cli.main import app
from singularity.scheduler.sim import charts

PHILLY = "timestamp,duration,num_gpus\n2017-10-09 07:00:00,600,2\n2017-10-09 07:01:00,60,4\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "small.csv"
    path.write_text(PHILLY)
    return path


def test_policies_are_put_side_by_side(trace: Path) -> None:
    asked = ["sim", "compare", str(trace), "--fleet", "1x4", "--policies", "singularity,fifo"]
    found = CliRunner().invoke(app, [*asked, "-o", "json"])
    assert found.exit_code == 0, found.output
    ours, fifo = json.loads(found.stdout)["items"]
    assert (ours["policy"], fifo["policy"]) == ("singularity", "FIFO + backfill")
    assert ours["jobs"] == fifo["jobs"] == 2 and ours["unfinished"] == 0
    table = CliRunner().invoke(app, asked)
    assert "utilisation" in table.stdout and "jct_p99_h" in table.stdout


def test_charts_are_drawn(trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = ["sim", "replay", str(trace), "--fleet", "1x4", "--plot", str(tmp_path / "charts")]
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert {p.name for p in (tmp_path / "charts").iterdir()} == {
        "utilisation.png",
        "jct.png",
        "attainment.png",
    }


def test_without_matplotlib_it_says_so_before_it_runs(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    asked = ["sim", "replay", str(trace), "--fleet", "1x4", "--plot", str(tmp_path / "charts")]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 4 and "singularity[plot]" in found.stderr


@pytest.mark.parametrize(
    ("asked", "code", "says"),
    [
        (["run", "nowhere.yaml"], 3, "there is no trace"),
        (["replay", "TRACE"], 4, "--fleet 60x8"),
        (["replay", "TRACE", "--fleet", "1x2"], 4, "--widest 2"),
        (["replay", "TRACE", "--fleet", "1x4", "--policy", "haste=1"], 4, "no policy 'haste'"),
        (["compare", "TRACE", "--fleet", "1x4", "--policies", "luck"], 4, "no policy 'luck'"),
    ],
)
def test_what_is_wrong_is_said(trace: Path, asked: list[str], code: int, says: str) -> None:
    found = CliRunner().invoke(app, ["sim", *(str(trace) if a == "TRACE" else a for a in asked)])
    assert (found.exit_code, says in found.stderr) == (code, True), found.output
