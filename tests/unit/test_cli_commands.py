"""The commands: what they ask for, what they print where, and what they exit with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cli_planet import Planet, items, job, problem

from singularity.cli import submit
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


def test_the_options_of_a_drain_are_sent_as_said() -> None:
    view = {"id": "d1", "target": "region/us-east"}
    planet = Planet({"POST /v1/drains": httpx.Response(201, json=view)})
    line = "drain us-east --within 2h --policy stop-basic-first --moves 2 --reason switches"
    assert planet.run(*line.split()).exit_code == 0
    wanted = {"within": "2h", "policy": "stop-basic-first", "moves": 2, "reason": "switches"}
    assert planet.body() == {"target": "us-east", **wanted}


def test_a_plan_of_a_drain_lists_departures_and_sums_them_up() -> None:
    goes = {"job": "j1", "name": "train", "tier": "premium", "devices": 4, "how": "move"}
    goes |= {"to": ["eu-north"], "bytes": 2_000_000, "begins_s": 0.0, "pause_s": 3.0, "why": "so"}
    body = {"target": "region/us-east", "departures": [goes], "ends_s": 3.0, "bytes": 2_000_000}
    planet = Planet({"POST /v1/drains": httpx.Response(200, json=body)})
    result = planet.run("drain", "us-east", "--plan")
    assert planet.body()["plan"] is True
    assert "eu-north" in result.stdout and "train" in result.stdout
    assert "empty after 3.0s" in result.stderr


def test_sla_shows_fractions_as_people_read_them() -> None:
    row = {"project": "vision", "tier": "premium", "jobs": 3, "short": 1}
    planet = Planet({"GET /v1/sla": items({**row, "fraction": 0.934, "promised": 0.95})})
    result = planet.run("sla")
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("vision", "premium", "93.4%", "95.0%"))


def test_a_drain_is_paused_by_its_target() -> None:
    view = {"id": "d1", "target": "node/n0", "paused": True}
    planet = Planet(
        {"GET /v1/drains": items(view), "POST /v1/drains/d1/pause": httpx.Response(200, json=view)}
    )
    result = planet.run("drains", "n0", "--pause")
    assert result.exit_code == 0 and "paused" in result.stdout
    assert planet.run("drains", "--pause").exit_code != 0, "of which?"


def test_a_drain_is_undone_by_its_target() -> None:
    drains = items({"id": "d1", "target": "node/n0"}, {"id": "d2", "target": "region/us-east"})
    planet = Planet({"GET /v1/drains": drains, "DELETE /v1/drains/d2": httpx.Response(204)})
    assert planet.run("drain", "us-east", "--undo").exit_code == 0
    assert planet.asked[-1].method == "DELETE"


def test_undoing_a_drain_that_is_not_there_says_which_are() -> None:
    planet = Planet({"GET /v1/drains": items({"id": "d1", "target": "node/n0"})})
    result = planet.run("drain", "us-east", "--undo")
    assert result.exit_code == 3
    assert "node/n0" in result.stderr


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


# ---------------------------------------------------------------- run
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


def test_every_command_explains_itself() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert (command.callback.__doc__ or "").strip().endswith(".")


def test_an_operator_sees_who_was_evicted_and_says_that_it_is_right() -> None:
    told = {"job": "job-1", "name": "digits", "at_s": 0.0, "reason": "gives 4 devices to x"}
    planet = Planet(
        {
            "GET /v1/evictions": items(told),
            "POST /v1/evictions/acknowledgements": httpx.Response(201, json={"items": []}),
        }
    )
    assert "digits" in planet.run("evictions").stdout
    assert planet.run("evictions", "--acknowledge").exit_code == 0
    assert planet.asked[-1].method == "POST"


def test_nodes_are_listed_with_how_they_are_and_one_is_shown_with_its_faults() -> None:
    quarantine = {"since_s": 0.0, "until_s": None, "reason": "within 60 min: failed starts × 3"}
    fault = {"at_s": 0.0, "kind": "start", "job": "j1", "detail": "no namespaces"}
    health = {"quarantine": quarantine, "sick": [], "times": 1, "faults": [fault]}
    view = {"id": "n0", "region": "r", "cluster": "c", "devices": 4, "epoch": 1, "health": health}
    done = {"id": 7, "at_s": 0.0, "actor": "scheduler", "verb": "quarantine", "target": "node/n0"}
    planet = Planet(
        {
            "GET /v1/nodes": items(view),
            "GET /v1/nodes/n0": httpx.Response(200, json=view),
            "GET /v1/operations": items({**done, "reason": "failed starts"}),
        }
    )
    assert "quarantined" in planet.run("nodes").stdout
    shown = planet.run("nodes", "show", "n0").stdout
    for text in ("failed starts × 3", "no namespaces", "scheduler"):
        assert text in shown


def test_operations_are_listed_and_undone() -> None:
    cordon = {"id": 7, "at_s": 0.0, "actor": "ann", "verb": "cordon", "target": "node/n0"}
    cordon |= {"before": {"duty": "ready"}, "after": {"duty": "cordoned"}, "reason": "a fan"}
    undone = {**cordon, "undone_by": 8}
    answers = {
        "GET /v1/operations": items(cordon),
        "GET /v1/operations/7": httpx.Response(200, json=cordon),
        "POST /v1/operations/7/undo": [
            httpx.Response(200, json=undone),
            problem(409, "conflict", "operation 7 was undone by operation 8"),
        ],
    }
    planet = Planet(answers)
    assert "a fan" in planet.run("operations", "ls", "--target", "node/n0").stdout
    assert "duty=cordoned" in planet.run("operations", "show", "7").stdout
    assert "undone by 8" in planet.run("operations", "undo", "7").stdout
    again = planet.run("operations", "undo", "7")
    assert again.exit_code == 4 and "was undone by" in again.stderr


def test_maintenance_is_planned_as_it_was_said() -> None:
    view = {"id": "switches", "target": "region/us-east", "every": "sunday 02:00 UTC"}
    view |= {"length_s": 7200.0, "opens_s": 4e9, "begins_s": 4e9 - 600, "condition": "planned"}
    planet = Planet(
        {
            "POST /v1/maintenance": httpx.Response(201, json=view),
            "GET /v1/maintenance": items(view),
            "POST /v1/maintenance/switches/skip": httpx.Response(200, json=view),
            "DELETE /v1/maintenance/switches": httpx.Response(204),
        }
    )
    line = ["maintenance", "add", "switches", "us-east", "--every", "sunday 02:00 UTC"]
    assert planet.run(*line, "--for", "2h", "--bandwidth", "200MB/s").exit_code == 0
    asked = {"name": "switches", "target": "us-east", "every": "sunday 02:00 UTC", "for": "2h"}
    assert planet.body() == {**asked, "policy": "migrate", "bandwidth": "200MB/s"}
    for command in ("ls", "skip switches", "rm switches"):
        result = planet.run("maintenance", *command.split())
        assert result.exit_code == 0, result.stderr


def test_a_plan_of_a_rebalance_tells_moves_prices_and_gains() -> None:
    move = {"job": "j1", "name": "digits", "devices": 1, "to": ["n1"], "price": "5"}
    clearance = {"node": "n0", "cluster": "c", "devices": 8, "moves": [move]}
    clearance |= {"cost_device_s": 5.0, "worth_device_s": 4800.0}
    plan = {"clearances": [clearance], "moves": 1, "cost_device_s": 5.0, "worth_device_s": 4800.0}
    plan |= {"whole_nodes": 3, "whole_nodes_then": 4, "at_a_time": 16}
    made = httpx.Response(201, json={"id": "rebalance-1"})
    answers = [httpx.Response(200, json=plan), made]
    planet = Planet({"POST /v1/rebalance": list(answers), "DELETE /v1/rebalance": made})
    told = planet.run("rebalance", "--plan")
    assert "digits to n1" in told.stdout and "3 nodes are free as a whole, 4 then" in told.stderr
    assert "rebalance-1 is in force" in planet.run("rebalance", "us-east").stderr
    assert planet.body() == {"target": "us-east"}
    assert planet.run("rebalance", "--stop").exit_code == 0


SHARED = {
    "id": "n0/0",
    "name": "2 processors",
    "memory_bytes": 8 << 30,
    "used_bytes": 3 << 30,
    "utilisation": 0.5,
    "temperature_c": 61,
    "links": [1],
    "given": {"compute_milli": 900, "memory_bytes": 5 << 30},
    "sharers": [
        {
            **{"job": "job-1", "name": "serve", "rank": 0, "precedence": "rt", "busy": 0.2},
            **{"compute_milli": 300, "used_bytes": 1 << 30, "cap_bytes": 2 << 30},
            **{"slowdown": 1.04, "held_s": 2.0, "lost_s": 0.0, "complaint": ""},
        },
        {
            **{"job": None, "name": None, "rank": 3, "precedence": "be", "busy": None},
            **{"compute_milli": 600, "used_bytes": 0, "cap_bytes": 3 << 30},
            **{"slowdown": None, "complaint": "no cgroup"},
        },
    ],
}


FARES = ["20%", "1.04x", "2.0s", "0.0s"]


def test_top_shows_who_is_on_each_device_and_what_they_do_to_each_other() -> None:
    planet = Planet({"GET /v1/accelerators": items(SHARED, {"id": "n0/1", "name": "H200"})})
    lines = [line.split() for line in planet.run("top").stdout.splitlines()]
    assert lines[1][:7] == ["n0/0", "2", "processors", "90%", "3.0", "GiB", "of"]
    assert lines[2] == ["serve#0", "rt", "30%", "1.0", "GiB", "of", "2.0", "GiB", *FARES]
    assert (
        " ".join(lines[3]) == "of another project#3 be 60% 0 B of 3.0 GiB - - 0.0s 0.0s no cgroup"
    )
    assert lines[1][-2:] == ["reaches", "1"] and "61 C" in " ".join(lines[1])
    assert lines[4][:3] == ["n0/1", "H200", "-"]
    listed = planet.run("devices").stdout
    assert "90% serve#0 rt 1.04x, of another project#3 be" in listed


def test_a_share_is_asked_for_on_the_command_line() -> None:
    planet = Planet({"POST /v1/jobs": accepted()})
    assert planet.run("run", "--share", "8GiB,50%,rt", "--", "true").exit_code == 0
    sent = json.loads(planet.asked[-1].content)
    assert sent["share"] == {"memory": "8GiB", "compute": "50%", "class": "rt"}
    assert planet.run("run", "--share", "8GiB", "--", "true").exit_code == 2
