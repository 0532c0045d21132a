"""`singularity plan`: what is asked, what is shown, and the exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.cli_planet import Planet, problem

SCORE = {"devices": 8, "utilisation": 0.5, "short": {"premium": 0, "standard": 2}}
EFFECT = {"job": "j", "name": "new", "what": "starts", "after": "4 in us-1", "reason": "fits"}


def answer(**changes: Any) -> httpx.Response:
    body = {"changed": False, "effects": [], "others": 0, "before": SCORE, "after": SCORE}
    return httpx.Response(200, json={**body, "paid_device_s": 0.0, **changes})


def test_all_changes_are_sent_and_effects_shown(tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text("name: new\nrun: python x.py\n")
    planet = Planet({"POST /v1/plans": answer(changed=True, effects=[EFFECT], paid_device_s=40.0)})
    where = ("--without-region", "eu", "--without-node", "us-1-0", "--devices", "+8:h200@us-1")
    found = planet.run("plan", "+job", str(file), *where, "--quota", "team=+4:h200")
    assert found.exit_code == 2
    assert planet.body() == {
        "jobs": [{"name": "new", "run": "python x.py"}],
        "without": ["region/eu", "node/us-1-0"],
        "quotas": {"team": "+4:h200"},
        "devices": ["+8:h200@us-1"],
    }
    assert "4 in us-1" in found.stdout and "50.0%" in found.stdout
    assert "short of standard" in found.stdout and "40 device-seconds" in found.stderr


def test_no_change_is_success() -> None:
    planet = Planet({"POST /v1/plans": answer()})
    assert planet.run("plan", "--devices", "+8@us-1").exit_code == 0
    assert planet.run("plan", "--devices", "+8@us-1", "-o", "json").exit_code == 0


@pytest.mark.parametrize(
    "args",
    [(), ("job", "x.yaml"), ("+job",), ("+job", "absent.yaml"), ("--quota", "team=4"),
     ("--devices", "+8@mars")],
)  # fmt: skip
def test_errors_are_one_and_never_two_which_means_changes(args: tuple[str, ...]) -> None:
    planet = Planet({"POST /v1/plans": problem(404, "not-found", "there is no cluster 'mars'")})
    found = planet.run("plan", *args)
    assert found.exit_code == 1 and found.stderr.startswith("error: ")
