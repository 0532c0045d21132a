"""The examination tells the truth about this machine and leaves nothing on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from singularity.agent import checkpoint
from singularity.agent.doctor import examine


def _verdicts(facts: dict[str, object]) -> dict[str, str]:
    checks = facts["checks"]
    assert isinstance(checks, list)
    assert all(check["detail"] for check in checks)
    return {check["name"]: check["verdict"] for check in checks}


def test_the_engine_is_the_one_that_a_real_dump_and_restore_proved() -> None:
    facts = examine()
    proved = checkpoint.probe(checkpoint.find_criu()).ok
    assert facts["engine"] == ("criu" if proved else "in-place")
    assert (_verdicts(facts)["checkpoint"] == "ok") == proved


def test_a_criu_that_does_not_start_is_said_to_fail(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SINGULARITY_CRIU", str(tmp_path / "nothing"))
    facts = examine()
    assert facts["engine"] == "in-place"
    assert _verdicts(facts)["checkpoint"] == "failed"


def test_the_command_prints_one_json_object_and_leaves_nothing() -> None:
    def traces() -> set[str]:
        netns, shm = Path("/run/netns"), Path("/sys/fs/cgroup")
        names = {p.name for p in netns.glob("sgd*")} if netns.is_dir() else set()
        return names | {str(p) for p in shm.rglob("singularity-doctor-*")}

    argv = [sys.executable, "-m", "singularity.agent", "doctor"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert {"engine", "kernel", "checks"} <= json.loads(done.stdout).keys()
    assert traces() == set()
