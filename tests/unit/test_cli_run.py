"""Jobs are asked for on the command line, waited for, and asked for once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_planet import Planet, job, problem

from singularity.cli import submit


def accepted(**changes: Any) -> httpx.Response:
    return httpx.Response(202, json=job(**changes))


SPEC = """
name: digits
devices: cpu:4
run: python train.py
env: {A: file, B: file}
checkpoint: {mode: auto, every: 10s}
place: {same_node: true}
"""


def test_options_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(SPEC)
    planet = Planet({"POST /v1/jobs": accepted()})
    options = [
        "--name",
        "other",
        "--ranks",
        "4",
        "--elastic",
        "1:4",
        "--region",
        "eu-*",
        "--every",
        "5s",
        "-e",
        "A=flag",
    ]
    result = planet.run("run", str(path), *options)
    assert result.exit_code == 0, result.stderr
    assert planet.body() == {
        "name": "other",
        "devices": "cpu:4",
        "run": "python train.py",
        "env": {"A": "flag", "B": "file"},
        "checkpoint": {"mode": "auto", "every": "5s"},
        "place": {"same_node": True, "regions": ["eu-*"]},
        "ranks": 4,
        "elastic": {"min": 1, "max": 4},
    }


def test_a_command_keeps_its_own_options_and_starts_where_it_was_typed_if_local() -> None:
    planet = Planet({"POST /v1/jobs": [accepted(), accepted()]})
    argv = ["run", "--name", "n", "--", "python", "train.py", "--lr", "0.1", "--name", "m"]
    assert planet.run(*argv).exit_code == 0
    command = ["python", "train.py", "--lr", "0.1", "--name", "m"]
    assert planet.body() == {"run": command, "name": "n"}
    assert planet.run(*argv, url="http://127.0.0.1:8080").exit_code == 0
    assert planet.body() == {"run": command, "name": "n", "workdir": str(Path.cwd())}


@pytest.mark.parametrize(
    ("said", "workdir"), [("", "{cwd}"), ("workdir: src", "{cwd}/src"), ("workdir: /w", "/w")]
)
def test_a_file_starts_where_it_was_typed_too_unless_it_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, workdir: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(f"{SPEC}{said}\n")
    planet = Planet({"POST /v1/jobs": [accepted(), accepted()]})
    assert planet.run("run", "job.yaml", url="http://127.0.0.1:8080").exit_code == 0
    assert planet.body()["workdir"] == workdir.format(cwd=tmp_path)
    assert planet.run("run", "job.yaml").exit_code == 0
    assert planet.body().get("workdir", "") == said.removeprefix("workdir: ")


NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


@pytest.mark.parametrize(
    ("command", "stem"),
    [
        (["python", "/x/Train_big.py"], "train-big"),
        (["/bin/true"], "true"),
        (["éà"], "job"),
        (["a" * 99], "a" * 40),
    ],
)
def test_a_command_is_named_after_its_script_and_the_same_again(
    command: list[str], stem: str
) -> None:
    planet = Planet({"POST /v1/jobs": [accepted(), accepted(), accepted()]})
    for key in ("k", "k", "other"):
        assert planet.run("run", "--key", key, "--", *command).exit_code == 0
    first, again, other = (planet.body(i)["name"] for i in range(3))
    assert first == again != other
    assert first.startswith(f"{stem}-")
    assert NAME.fullmatch(first)


def test_a_spec_may_come_through_a_pipe() -> None:
    planet = Planet({"POST /v1/jobs": accepted()})
    assert planet.run("run", "-", stdin="run: [a, b]").exit_code == 0
    assert planet.body() == {"run": ["a", "b"]}


@pytest.mark.parametrize("text", ["{", "- a\n- b\n", "just text"])
def test_a_file_that_is_no_spec_is_refused_in_one_line(text: str) -> None:
    result = Planet({}).run("run", "-", stdin=text)
    assert result.exit_code == 4
    assert result.stderr.startswith("error: - ")


def test_an_answer_that_got_lost_is_asked_for_again_under_the_same_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.0)
    planet = Planet({"POST /v1/jobs": [problem(503, "unavailable", "restarting"), accepted()]})
    assert planet.run("run", "--", "true").exit_code == 0
    keys = {request.headers["idempotency-key"] for request in planet.asked}
    assert len(planet.asked) == 2
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ({"state": "succeeded", "exit_code": 0}, 0),
        ({"state": "failed", "exit_code": 7}, 7),
        ({"state": "failed", "exit_code": -9}, 137),
        ({"state": "failed", "exit_code": None, "message": "lost too often"}, 1),
        ({"state": "cancelled", "exit_code": None}, 1),
    ],
)
def test_wait_exits_as_the_job_does_though_the_server_restarts(
    end: dict[str, Any], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.0)
    away = problem(503, "unavailable", "restarting")
    seen = [accepted(state="pending", placement=[]), accepted(), away, away, accepted(**end)]
    planet = Planet({"POST /v1/jobs": accepted(), "GET /v1/jobs/job-1": seen})
    result = planet.run("run", "--wait", "--", "true")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.count("restarting") == 1
    assert "running in us-east on 4 devices" in result.stderr


def test_interrupting_a_wait_leaves_the_job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(request: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    planet = Planet({"POST /v1/jobs": accepted(), "GET /v1/jobs/job-1": interrupt})
    result = planet.run("run", "--wait", "--", "true")
    assert result.exit_code == 0
    assert "goes on" in result.stderr
    assert [request.method for request in planet.asked] == ["POST", "GET"]


def test_an_array_prints_every_job() -> None:
    two = httpx.Response(202, json={"items": [job(), job(id="job-2")]})
    result = Planet({"POST /v1/jobs": two}).run("run", "-o", "name", "--", "true")
    assert result.stdout == "job-1\njob-2\n"


def test_a_share_is_asked_for_on_the_command_line() -> None:
    planet = Planet({"POST /v1/jobs": accepted()})
    assert planet.run("run", "--share", "8GiB,50%,rt", "--", "true").exit_code == 0
    sent = json.loads(planet.asked[-1].content)
    assert sent["share"] == {"memory": "8GiB", "compute": "50%", "class": "rt"}
    assert planet.run("run", "--share", "8GiB", "--", "true").exit_code == 2
