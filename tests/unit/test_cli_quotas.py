"""`singularity quota` and `usage` at a planet of canned answers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.unit.cli_planet import Planet, items, problem


def project(**devices: Any) -> dict[str, Any]:
    return {"id": "team", "parent": "", "weight": 1.0, "devices": devices}


CPU = {"guaranteed": 4, "borrow": None, "lend": 2, "used": 6, "borrowed": 2}


def test_ls_shows_a_line_for_each_kind() -> None:
    planet = Planet({"GET /v1/projects": items(project(cpu=CPU, H100=CPU), project())})
    lines = planet.run("quota", "ls").stdout.splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["team", "-", "1", "H100", "4", "no", "limit", "2", "6", "2"]
    assert "any" in lines[3] and "no limit" in lines[3]


def test_set_changes_what_is_said_and_keeps_the_rest() -> None:
    answers = {
        "GET /v1/projects/team": httpx.Response(200, json=project(cpu=CPU, H100=CPU)),
        "PUT /v1/projects/team": httpx.Response(200, json=project(cpu=CPU)),
    }
    planet = Planet(answers)  # type: ignore[arg-type]
    args = ("cpu:8", "--borrow", "3", "--weight", "2")
    assert planet.run("quota", "set", "team", *args).exit_code == 0
    kept = {"guaranteed": 4, "borrow": None, "lend": 2}
    said = {"cpu": {"guaranteed": 8, "borrow": 3, "lend": 2}, "H100": kept}
    assert planet.body() == {"parent": None, "weight": 2.0, "devices": said}


def test_a_new_project_is_made_and_a_limit_taken_off() -> None:
    unknown = problem(404, "not-found", "there is no project 'team'")
    made = httpx.Response(200, json=project(cpu=CPU))
    planet = Planet({"GET /v1/projects/team": unknown, "PUT /v1/projects/team": made})
    planet.run("quota", "set", "team", "cpu:4", "--parent", "org")
    assert planet.body() == {"parent": "org", "devices": {"cpu": {"guaranteed": 4}}}
    planet = Planet({"GET /v1/projects/team": made, "PUT /v1/projects/team": made})
    planet.run("quota", "set", "team", "cpu:none")
    assert planet.body()["devices"] == {}


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("cpu:many",), 2, "is no number of devices"),
        (("cpu:1", "--borrow", "some"), 2, "is no number of devices"),
        (("--lend", "1"), 2, "of which kind"),
        (("cpu:99",), 4, "the fleet has 8"),
    ],
)
def test_what_is_wrong_is_said(args: tuple[str, ...], code: int, said: str) -> None:
    answers = {
        "GET /v1/projects/team": httpx.Response(200, json=project()),
        "PUT /v1/projects/team": problem(422, "invalid-spec", "99 would be; the fleet has 8"),
    }
    result = Planet(answers).run("quota", "set", "team", *args)  # type: ignore[arg-type]
    assert result.exit_code == code and said in result.stderr


def test_usage_is_told() -> None:
    used = {"project": "team", "weight": 2.0, "devices": 3, "borrowed": 1, "device_h": 4.25}
    planet = Planet({"GET /v1/usage": items({**used, "share": 0.5})})
    assert "4.2 device-h" in planet.run("usage").stdout
