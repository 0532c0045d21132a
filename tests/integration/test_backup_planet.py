"""`singularity admin` on a planet of this machine: saved, lost, brought back; its training ends as
one that nobody touched, to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from singularity.agent.proof import find_criu, probe
from singularity.cli.embedded import Planet
from singularity.cli.fleet import Cluster, Fleet, Region
from tests.integration.test_chaos import RANKS, SCRIPT, Story, reference_of, results

FLEET = Fleet(regions={"north": Region(clusters={"north-a": Cluster(nodes=1, devices=2)})})
STEPS = 500
_CRIU = probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok


def admin(*words: str | Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("SINGULARITY_")}
    argv = [sys.executable, "-m", "singularity.cli.main", "admin", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, env=env, check=False)


def done(*words: str | Path) -> Any:
    ran = admin(*words, "-o", "json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.skipif(not _CRIU, reason="CRIU does not run here")
def test_a_planet_that_is_lost_comes_back_and_its_training_goes_on(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "out").mkdir()
    home, gone = tmp_path / "planet", tmp_path / "gone"
    with Planet(home, FLEET) as planet:
        alive = done("backup", tmp_path / "alive.backup", "--data", home)
        assert alive["rows"] > 0 and alive["files"] == 0
        busy = admin("backup", tmp_path, "--data", home, "--with-store")
        assert busy.returncode == 4 and "stop it" in busy.stderr
        story = Story(planet, tmp_path / "out")
        run = [sys.executable, str(SCRIPT), "--steps", str(STEPS), "--out", str(story.out)]
        spec = {"name": "paced", "run": run, "ranks": RANKS, "devices": f"cpu:{RANKS}"}
        story.id = story.call("POST", "jobs", spec)["id"]
        story.until("running", lambda job: job["state"] == "running")
        story.progress()
        story.call("POST", f"jobs/{story.id}/checkpoints")
        was = story.until("a checkpoint", lambda job: job["checkpoint"])
        token, id_ = planet.token, planet.id
        story.close()
    assert done("migrate", "--data", home, "--check")["migrations"] == []
    saved = done("backup", tmp_path / "rest.backup", "--data", home, "--with-store")
    assert saved["files"] > 0 and not list((home / "pids").glob("*"))
    home.rename(gone)

    full = admin("restore", tmp_path / "rest.backup", "--data", gone)
    assert full.returncode == 4 and "not empty" in full.stderr
    found = done("restore", tmp_path / "rest.backup", "--data", home)
    assert found["jobs"] == 1 and not list((home / "pids").glob("*"))
    with Planet(home) as planet:
        assert planet.token == token and planet.id != id_
        again = Story(planet, tmp_path / "out")
        again.id = story.id
        now = again.until("running", lambda job: job["state"] == "running")
        assert now["incarnation"] > was["incarnation"] + 1
        again.until("succeeded", lambda job: job["state"] == "succeeded")
        lives = again.call("GET", f"jobs/{again.id}/incarnations")["items"]
        assert lives[-1]["step_from"] >= was["checkpoint"]["step"] > 0
        again.close()
    assert results(tmp_path / "out") == reference_of(tmp_path / "alone", STEPS)


def test_what_cannot_be_restored_leaves_the_home_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "no.backup").write_bytes(b"no backup at all")
    home = tmp_path / "home"
    ran = admin("restore", tmp_path / "no.backup", "--data", home)
    assert ran.returncode == 4 and "is no backup" in ran.stderr
    assert sorted(path.name for path in home.iterdir()) == ["lock"]
    nobody = admin("backup", tmp_path, "--data", tmp_path / "nowhere")
    assert nobody.returncode == 3 and "no planet" in nobody.stderr
