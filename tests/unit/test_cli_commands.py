"""The commands: what they ask for, what they print where, and what they exit with."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import yaml
from cli_planet import Planet, items, job, problem

from singularity.cli.main import app


def accepted(**changes: Any) -> httpx.Response:
    return httpx.Response(202, json=job(**changes))


# ---------------------------------------------------------------- printing
def test_data_goes_to_stdout_and_nothing_else_does() -> None:
    result = Planet({"GET /v1/jobs": items(job())}).run("ps")
    assert result.exit_code == 0
    assert result.stderr == ""
    head, row = result.stdout.splitlines()
    assert head.split()[:3] == ["ID", "NAME", "STATE"]
    assert row.split()[:7] == ["job-1", "digits", "running", "standard", "4/4", "cpu", "us-east"]


@pytest.mark.parametrize(("form", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
@pytest.mark.parametrize(
    ("argv", "path", "answer"),
    [
        (["ps"], "/v1/jobs", items(job())),
        (["describe", "job-1"], "/v1/jobs/job-1", httpx.Response(200, json=job())),
        (["nodes"], "/v1/nodes", items({"id": "n0", "anything": [1]})),
        (["devices"], "/v1/accelerators", items({"id": "n0/0", "name": "H200"})),
        (["regions"], "/v1/regions", items({"id": "us-east"})),
        (["timeline", "job-1"], "/v1/jobs/job-1/incarnations", items({"incarnation": 1})),
        (["events"], "/v1/events", items({"seq": 1})),
        (["why", "job-1"], "/v1/jobs/job-1/why", httpx.Response(200, json={"state": "pending"})),
        (["ckpt", "ls", "job-1"], "/v1/jobs/job-1/checkpoints", items({"cut": 1})),
    ],
)
def test_programs_get_what_the_server_said(
    argv: list[str], path: str, answer: httpx.Response, form: str, load: Any
) -> None:
    said = answer.json()
    said.pop("next", None)
    result = Planet({f"GET {path}": answer}).run(*argv, "-o", form)
    assert result.exit_code == 0
    assert load(result.stdout) == said


def test_names_are_one_a_line() -> None:
    planet = Planet({"GET /v1/jobs": items(job(), job(id="job-2"))})
    assert planet.run("ps", "-o", "name").stdout == "job-1\njob-2\n"


def test_wide_shows_more_and_nothing_is_cut_in_a_pipe() -> None:
    message = "because " + "of a long story " * 10
    planet = Planet({"GET /v1/jobs": [items(job(message=message)), items(job(message=message))]})
    assert message.strip() not in planet.run("ps").stdout
    assert message.strip() in planet.run("ps", "-o", "wide").stdout


def test_what_a_job_says_cannot_drive_the_terminal() -> None:
    evil = job(name="\x1b[31m[bold]x\r\n", message="\x07")
    result = Planet({"GET /v1/jobs": items(evil)}).run("ps", "-o", "wide")
    assert "\x1b" not in result.stdout
    assert "\x07" not in result.stdout
    assert "[bold]x" in result.stdout
    assert len(result.stdout.splitlines()) == 2


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (problem(404, "not-found", "no job 'a'", near=["ab", "ac"]), 3, "did you mean ab or ac?"),
        (problem(409, "illegal-transition", "a is finished"), 4, "error: a is finished"),
        (problem(401, "unauthenticated", "wrong token"), 4, "singularity login"),
        (problem(503, "unavailable", "no database"), 5, "error: no database"),
        (problem(500, "internal", "a bug"), 1, "error: a bug"),
        (httpx.Response(502, text="<html>"), 5, "error: HTTP 502"),
    ],
)
def test_a_problem_is_one_clear_line_and_a_stable_code(
    answer: httpx.Response, code: int, said: str
) -> None:
    result = Planet({"POST /v1/jobs/a/resume": answer}).run("resume", "a")
    assert result.exit_code == code
    assert result.stdout == ""
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["resize", "a", "none"],
        ["resize", "a", "0"],
        ["move", "a"],
        ["run", "--elastic", "4", "--", "true"],
        ["run", "--env", "novalue", "--", "true"],
        ["run", "absent.yaml"],
        ["ps", "-o", "xml"],
    ],
)
def test_wrong_usage_asks_the_server_nothing(argv: list[str]) -> None:
    planet = Planet({})
    assert planet.run(*argv).exit_code == 2
    assert planet.asked == []


def test_stacks_are_printed_and_listed() -> None:
    text = httpx.Response(200, text="# rank 1: hangs\nwait (train.py:7)\n")
    kept = {"incarnation": 2, "rank": 1, "at_s": 5.0, "bytes": 2048}
    planet = Planet({"GET /v1/jobs/a/stacks/text": text, "GET /v1/jobs/a/stacks": items(kept)})
    assert "wait (train.py:7)" in planet.run("stacks", "a", "--life", "2", "--rank", "1").stdout
    assert dict(planet.asked[0].url.params) == {"incarnation": "2", "rank": "1"}
    listed = planet.run("stacks", "a", "--ls").stdout
    assert "LIFE" in listed and "2.0" in listed


# ---------------------------------------------------------------- steering
@pytest.mark.parametrize(
    ("argv", "path", "body"),
    [
        (["suspend", "job-1"], "/v1/jobs/job-1/suspend", None),
        (["resume", "job-1"], "/v1/jobs/job-1/resume", None),
        (["cancel", "job-1"], "/v1/jobs/job-1/cancel", None),
        (["move", "job-1", "--to", "eu-north"], "/v1/jobs/job-1/move", {"to": "eu-north"}),
        (["move", "job-1", "--to", "anywhere"], "/v1/jobs/job-1/move", {"to": None}),
        (["resize", "job-1", "2"], "/v1/jobs/job-1/resize", {"devices": 2}),
        (["ckpt", "create", "job-1"], "/v1/jobs/job-1/checkpoints", None),
        (["cordon", "n0"], "/v1/nodes/n0/cordon", None),
        (["uncordon", "n0"], "/v1/nodes/n0/uncordon", None),
        (["drain", "us-east"], "/v1/drains", {"target": "us-east"}),
        (["cordon", "n0", "--reason", "a fan"], "/v1/nodes/n0/cordon", {"reason": "a fan"}),
        (["nodes", "release", "n0"], "/v1/nodes/n0/release", None),
        (
            ["nodes", "quarantine", "n0", "--for", "2h", "--drain"],
            "/v1/nodes/n0/quarantine",
            {"within": "2h", "drain": True, "reason": ""},
        ),
    ],
)
def test_steering_sends_exactly_what_was_said(argv: list[str], path: str, body: object) -> None:
    if path == "/v1/drains":
        view: dict[str, Any] = {"id": "d1", "target": "region/us-east"}
    elif path.startswith("/v1/nodes"):
        view = {"id": "n0", "region": "r", "cluster": "c", "devices": 4}
    else:
        view = job()
    planet = Planet({f"POST {path}": httpx.Response(202, json=view)})
    result = planet.run(*argv)
    assert result.exit_code == 0, result.stderr
    assert (planet.body() if planet.asked[0].content else None) == body


def test_why_lists_every_reason_and_the_smallest_changes() -> None:
    body = {
        "state": "pending",
        "reasons": [{"kind": "capacity", "detail": "no room"}, {"kind": "policy", "detail": "eu"}],
        "changes": [{"text": "devices 2: fits now"}, {"text": "allow region us-east: ~9 s"}],
        "placed": False,
        "eta": {"p50_s": 6600.0, "p90_s": None},
        "calibration": {"made": 100, "p50_held": 52, "p90_held": 91},
    }
    planet = Planet({"GET /v1/jobs/a/why": httpx.Response(200, json=body)})
    assert planet.run("why", "a").stdout.splitlines() == [
        " 1 capacity  no room",
        " 2 policy    eu",
        "smallest changes: devices 2: fits now · allow region us-east: ~9 s",
        "wait → p50 1h50m, p90 never (our last 100 estimates: p90 held 91)",
    ]


def test_why_of_a_service_tells_of_the_service() -> None:
    none = problem(404, "not-found", "there is no job 'cnn'", near=["cnn-1", "cnn-2"])
    body = {"state": "serving", "reasons": [{"kind": "replicas", "detail": "1 of 1 answers"}]}
    answers = {
        "GET /v1/jobs/cnn/why": none,
        "GET /v1/services/cnn/why": httpx.Response(200, json=body),
    }
    assert Planet(dict(answers)).run("why", "cnn").stdout == " 1 replicas  1 of 1 answers\n"
    answers["GET /v1/services/cnn/why"] = problem(404, "not-found", "there is no service", near=[])
    missing = Planet(dict(answers)).run("why", "cnn")
    assert missing.exit_code == 3
    assert "no job or service 'cnn'" in missing.stderr and "cnn-1" in missing.stderr


def test_a_replica_that_is_not_needed_rests_and_waits_for_nothing() -> None:
    rows = items(job(state="pending", kind="serve", resting=True), job(id="b", state="pending"))
    listed = Planet({"GET /v1/jobs": rows}).run("ps").stdout.splitlines()
    assert "resting" in listed[1] and "pending" in listed[2]


def test_why_of_a_job_that_failed_says_where_its_output_is() -> None:
    body = {"state": "failed", "reasons": [{"kind": "ended", "detail": "exited with code 2"}]}
    planet = Planet({"GET /v1/jobs/a/why": httpx.Response(200, json=body)})
    assert "singularity logs a " in planet.run("why", "a").stderr


def test_a_damaged_checkpoint_fails_the_command_and_names_the_fault() -> None:
    damaged = {"ok": False, "chunks": 9, "bytes": 5, "faults": ["chunk ab12 is missing"]}
    planet = Planet(
        {
            "GET /v1/jobs/a/checkpoints": items(
                {"incarnation": 2, "cut": 3, "step": 1, "at_s": 0.0}
            ),
            "GET /v1/jobs/a/checkpoints/2-3/verify": httpx.Response(200, json=damaged),
        }
    )
    result = planet.run("ckpt", "verify", "a")
    assert result.exit_code == 1
    assert "DAMAGED" in result.stdout
    assert "ab12" in result.stderr


def test_logs_are_printed_as_they_are() -> None:
    planet = Planet({"GET /v1/jobs/a/logs": httpx.Response(200, text="\x1b[1mloss 0.5\n[x]\n")})
    assert planet.run("logs", "a", "--rank", "2", "--tail", "9").stdout == "\x1b[1mloss 0.5\n[x]\n"
    assert dict(planet.asked[0].url.params) == {"rank": "2", "tail": "9"}


def test_followed_logs_lose_and_repeat_nothing_when_the_server_restarts() -> None:
    pieces = ["a\r1%\r2%\n", "half a li", "ne\u2028\n", "end"]
    sent = [f"id: {i}\nevent: log\ndata: {json.dumps(p)}\n\n" for i, p in enumerate(pieces, 1)]
    planet = Planet(
        {
            # Running, and running when asked after the stream's clean but early end; then over.
            "GET /v1/jobs/a": [accepted(), accepted(state="succeeded")],
            "GET /v1/jobs/a/logs": [
                httpx.Response(200, text=sent[0] + sent[1]),
                httpx.Response(200, text=sent[2] + sent[3]),
            ],
        }
    )
    result = planet.run("logs", "-f", "a")
    assert result.exit_code == 0
    assert result.stdout_bytes.decode() == "".join(pieces)
    asked = [r for r in planet.asked if r.url.path.endswith("logs")]
    assert [r.headers.get("last-event-id") for r in asked] == [None, "2"]


def test_every_command_explains_itself() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert (command.callback.__doc__ or "").strip().endswith(".")
