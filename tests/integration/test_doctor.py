"""The examination tells the truth about this machine and leaves nothing on it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandboxes import small_disk

from singularity.agent import doctor
from singularity.agent.doctor import examine
from singularity.agent.fitness import fitness
from singularity.agent.hal.faces import DeviceFacts
from singularity.agent.proof import find_criu, probe


def _verdicts(facts: dict[str, object]) -> dict[str, str]:
    checks = facts["checks"]
    assert isinstance(checks, list)
    assert all(check["detail"] for check in checks)
    return {check["name"]: check["verdict"] for check in checks}


def test_the_engine_is_the_one_that_a_real_dump_and_restore_proved() -> None:
    facts = examine()
    proved = probe(find_criu()).ok
    assert facts["engine"] == ("criu" if proved else "in-place")
    assert (_verdicts(facts)["checkpoint"] == "ok") == proved


def test_a_criu_that_does_not_start_is_said_to_fail(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SINGULARITY_CRIU", str(tmp_path / "nothing"))
    facts = examine()
    assert facts["engine"] == "in-place"
    assert _verdicts(facts)["checkpoint"] == "failed"


def test_a_disk_that_is_nearly_full_is_said_to_be(monkeypatch, tmp_path: Path) -> None:
    with small_disk(tmp_path / "volume", "16m") as volume:
        monkeypatch.setenv("SINGULARITY_VOLUME", str(volume))
        found = {check.name: check for check in fitness() if check.name.startswith("disk")}
        assert list(volume.iterdir()) == []
    assert {name: check.verdict for name, check in found.items()} == {
        "disk": "missing",
        "disk-speed": "missing",
    }
    assert "only 0.0 GiB free" in found["disk"].detail


def test_a_limit_that_is_too_low_is_named_with_what_raises_it() -> None:
    code = (
        "from singularity.agent.fitness import fitness;"
        "print(next(c.verdict + ' ' + c.detail for c in fitness() if c.name == 'limits'))"
    )
    argv = ["prlimit", "--nofile=200:200", sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("failed at most 200 open files")
    assert "ulimit -Hn" in done.stdout


def test_what_a_user_would_ask_for_is_answered() -> None:
    facts = examine()
    asked = {"namespaces", "network", "cgroup", "checkpoint", "mem-track", "aside", "limits"}
    asked |= {"disk", "disk-speed", "py-spy", "torch"}
    verdicts = _verdicts(facts)
    assert asked <= verdicts.keys() | ({"mem-track"} if facts["engine"] != "criu" else set())
    assert verdicts["torch"] == "ok", "torch is installed with the tests"


def test_a_driver_of_an_unknown_version_is_said_to_fail(monkeypatch) -> None:
    class Driver:
        def driver(self) -> str:
            return "like no other"

        def devices(self) -> tuple[DeviceFacts, ...]:
            return (DeviceFacts(0, "GPU-1", "H200", 1000, 0),)

    @contextmanager
    def opened() -> Iterator[Driver]:
        yield Driver()

    monkeypatch.setattr(doctor, "open_nvml", opened)
    found = {check.name: check for check in doctor._gpu()}
    assert found["gpu-nvml"].verdict == "failed"
    assert "driver like no other, which is no version that is known" in found["gpu-nvml"].detail
    assert found["gpu-sharing"].verdict == "missing" and "device-GPU-1" in found


def test_the_command_prints_one_json_object_and_leaves_nothing() -> None:
    def traces() -> set[str]:
        netns, shm = Path("/run/netns"), Path("/sys/fs/cgroup")
        names = {p.name for p in netns.glob("sgd*")} if netns.is_dir() else set()
        return names | {str(p) for p in shm.rglob("singularity-doctor-*")}

    argv = [sys.executable, "-m", "singularity.agent", "doctor"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert {"engine", "kernel", "checks"} <= json.loads(done.stdout).keys()
    assert traces() == set()
