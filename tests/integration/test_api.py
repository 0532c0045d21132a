"""The HTTP contract, over a real server and a real Postgres."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from singularity.primitives.messages import Report
from tests.integration.api_client import ADMIN, JOIN, SPEC, Agent, Api, bearer, run, turn


def _agent_at(fleet: list[Agent], job: dict[str, Any]) -> Agent:
    return next(a for a in fleet if a.node == job["placement"][0]["node"])


def test_a_hung_job_is_stopped_with_its_stacks_and_they_can_be_read(
    api: Api, fleet: list[Agent], tmp_path: Path
) -> None:
    job = run(api, fleet, limits={"hang_after": "5m"}, checkpoint={"every": "8s"})
    assert job["checkpointing"]["every_s"] == 8.0
    assert job["checkpointing"]["origin"] == "its owner said so"
    agent = _agent_at(fleet, job)
    agent.beat(
        Report(job=job["id"], node=agent.node, incarnation=1, phase="hung", reason="no step")
    )
    assert api.ok("GET", f"/v1/jobs/{job['id']}")["state"] == "stopping"
    told = [e["event"] for e in api.ok("GET", f"/v1/jobs/{job['id']}/events")["items"]]
    assert told[-2:] == ["hung", "stopping"]
    empty = api.ok("GET", f"/v1/jobs/{job['id']}/stacks")
    assert empty["items"] == []
    assert api.call("GET", f"/v1/jobs/{job['id']}/stacks/text")[0] == 404
    path = tmp_path / "volume" / "jobs" / job["id"] / "stacks" / "1" / "rank-0.txt"
    path.parent.mkdir(parents=True)
    path.write_text("wait (train.py:7)\n")
    (kept,) = api.ok("GET", f"/v1/jobs/{job['id']}/stacks")["items"]
    assert (kept["incarnation"], kept["rank"], kept["bytes"]) == (1, 0, 18)
    text = api.http.get(f"/v1/jobs/{job['id']}/stacks/text", headers=bearer(ADMIN)).text
    assert "wait (train.py:7)" in text


def test_why_tells_the_interval_in_force_and_where_it_comes_from(
    api: Api, fleet: list[Agent]
) -> None:
    job = run(api, fleet)
    found = job["checkpointing"]
    assert found["origin"].startswith("auto, √(2 · 5 s assumed · 41.7 d") and found["every_s"] > 30
    reasons = api.ok("GET", f"/v1/jobs/{job['id']}/why")["reasons"]
    assert [r["kind"] for r in reasons] == ["placed", "checkpoint", "engine"]
    assert found["origin"] in reasons[1]["detail"]


# -- who may come in ------------------------------------------------------------------------------


def test_health_says_nothing_and_everything_else_wants_a_token(api: Api) -> None:
    assert api.http.get("/healthz").text == "ok"
    routes = list(api.ok("GET", "/v1/openapi.json")["paths"])
    assert len(routes) > 25
    for path in [*routes, "/metrics", "/v1/openapi.json"]:
        url = path.replace("{", "").replace("}", "")
        for method in ("GET", "POST", "DELETE"):
            response = api.http.request(method, url)
            assert response.status_code in (401, 405), (method, url, response.text)
            assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "token",
    ["x", "sgl_first.", "sgl_first.wrong", "sgl_other.0123456789abcdef", "sgl_.x", "Ünicode"],
)
def test_a_wrong_token_is_refused_without_saying_why(api: Api, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".encode()}
    response = api.http.get("/v1/jobs", headers=headers)
    assert response.status_code == 401
    assert response.json()["type"] == "/problems/unauthenticated"


def test_roles_are_kept_apart(api: Api, fleet: list[Agent]) -> None:
    tokens = {role: api.token(role) for role in ("viewer", "submitter", "operator", "admin")}
    tokens |= {"join": JOIN, "agent": fleet[0].token}
    needed = {
        ("GET", "/v1/jobs"): {"viewer", "submitter", "operator", "admin"},
        ("POST", "/v1/jobs"): {"submitter", "operator", "admin"},
        ("POST", "/v1/drains"): {"operator", "admin"},
        ("POST", "/v1/nodes/east-1/uncordon"): {"operator", "admin"},
        ("GET", "/v1/tokens"): {"admin"},
        ("GET", "/v1/agent/letters?epoch=1"): {"agent"},
    }
    bodies = {"/v1/jobs": SPEC, "/v1/drains": {"target": "east-2"}}
    for (method, path), allowed in needed.items():
        for role, token in tokens.items():
            body = bodies.get(path) if method == "POST" else None
            status, answer = api.call(method, path, body, token)
            assert (status < 300) == (role in allowed), (method, path, role, answer)


def test_a_project_is_closed_to_the_tokens_of_another(api: Api, fleet: list[Agent]) -> None:
    vision, speech = api.token("operator", "vision"), api.token("operator", "speech")
    job = api.ok("POST", "/v1/jobs", SPEC, token=vision)
    assert job["project"] == "vision"
    assert api.call("POST", "/v1/jobs", {**SPEC, "project": "speech"}, vision)[0] == 403
    paths = ["", "/events", "/why", "/logs", "/incarnations", "/checkpoints"]
    for path, name in itertools.product(paths, (job["id"], "digits")):
        assert api.call("GET", f"/v1/jobs/{name}{path}", token=speech)[0] == 404
    for verb in ("suspend", "resume", "cancel", "checkpoints"):
        assert api.call("POST", f"/v1/jobs/{job['id']}/{verb}", token=speech)[0] == 404
    assert api.ok("GET", "/v1/jobs", token=speech)["items"] == []
    assert api.ok("GET", "/v1/events", token=speech)["items"] == []
    api.schedule()
    nodes = api.ok("GET", "/v1/nodes", token=speech)["items"]
    assert sum(n["used"] for n in nodes) == 1
    assert all(n["jobs"] == [] for n in nodes)
    assert api.call("POST", "/v1/drains", {"target": "east-1"}, vision)[0] == 403


def test_a_revoked_token_is_worth_nothing(api: Api) -> None:
    made = api.ok("POST", "/v1/tokens", {"role": "viewer", "name": "ci"})
    assert api.call("GET", "/v1/jobs", token=made["token"])[0] == 200
    listed = json.dumps(api.ok("GET", "/v1/tokens"))
    assert made["id"] in listed and made["token"].partition(".")[2] not in listed
    api.ok("DELETE", f"/v1/tokens/{made['id']}")
    assert api.call("GET", "/v1/jobs", token=made["token"])[0] == 401


def test_pages_of_other_names_are_refused(api: Api) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        response = api.http.get("/v1/jobs", headers={**bearer(ADMIN), **headers})
        assert response.status_code == 403


# -- look -----------------------------------------------------------------------------------------


def test_pages_show_every_job_once(api: Api, fleet: list[Agent]) -> None:
    names = {f"job-{n}" for n in range(7)}
    for name in sorted(names):
        api.ok("POST", "/v1/jobs", {**SPEC, "name": name})
    seen, cursor = [], ""
    while True:
        page = api.ok("GET", f"/v1/jobs?limit=3{cursor}")
        seen += [j["name"] for j in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert len(seen) == len(names) and set(seen) == names
    assert seen == sorted(seen, reverse=True)
    assert api.ok("GET", "/v1/jobs?state=running")["items"] == []
    assert len(api.ok("GET", "/v1/jobs?state=pending,running&tier=standard")["items"]) == 7


def test_a_name_means_the_job_that_has_not_ended(api: Api, fleet: list[Agent]) -> None:
    first = api.ok("POST", "/v1/jobs", SPEC)
    assert api.ok("GET", "/v1/jobs/digits")["id"] == first["id"]
    second = api.ok("POST", "/v1/jobs", SPEC)
    status, problem = api.call("GET", "/v1/jobs/digits")
    assert status == 409 and set(problem["jobs"]) == {first["id"], second["id"]}
    api.ok("POST", f"/v1/jobs/{second['id']}/cancel")
    turn(api, fleet)
    assert api.ok("GET", "/v1/jobs/digits")["id"] == first["id"]
    status, problem = api.call("GET", "/v1/jobs/digit")
    assert status == 404 and problem["near"] == ["digits"]


def test_why_tells_what_keeps_a_job_and_what_would_change_it(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet, devices="cpu:4", place={"regions": ["eu-north"]})
    waiting = {**SPEC, "name": "waits", "devices": "cpu:4", "place": {"regions": ["eu-north"]}}
    api.ok("POST", "/v1/jobs", waiting)
    turn(api, fleet)
    found = api.ok("GET", "/v1/jobs/waits/why")
    assert found["state"] == "pending" and not found["placed"]
    changes = {c["kind"]: c["text"] for c in found["changes"]}
    assert found["reasons"] and changes["place"] == "allow region us-east: fits now"
    assert api.ok("GET", "/v1/jobs/digits/why")["placed"]


def test_the_timeline_tells_where_a_job_was_and_that_nothing_was_lost(
    api: Api, fleet: list[Agent]
) -> None:
    job = run(api, fleet, place={"regions": ["us-east", "eu-north"]})
    there = "eu-north" if job["region"] == "us-east" else "us-east"
    api.ok("POST", "/v1/jobs/digits/move", {"to": there})
    verbs = [v for _ in range(3) for v in turn(api, fleet, step=9)]
    assert verbs == ["cut", "start"]
    found = api.ok("GET", "/v1/jobs/digits")
    assert (found["state"], found["region"]) == ("running", there)
    assert found["confine"] == f"region/{there}"
    first, second = api.ok("GET", "/v1/jobs/digits/incarnations")["items"]
    assert (first["region"], first["step_to"], first["lost_s"]) == (job["region"], 9, 0.0)
    assert (second["region"], second["step_from"], second["ended_at_s"]) == (there, 9, None)
    assert first["seconds"] == {"restore": 0.5}
    assert api.ok("GET", "/v1/jobs/digits/checkpoints")["items"] == [], "a move makes none"
    events = api.ok("GET", "/v1/jobs/digits/events")["items"]
    (handed,) = [e for e in events if e["event"] == "handover"]
    assert handed["facts"]["step"] == 9
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert events[0]["from"] is None and events[-1]["to"] == "running"
    page = api.ok("GET", "/v1/jobs/digits/events?limit=2&cursor=1")
    assert ([e["seq"] for e in page["items"]], page["next"]) == ([2, 3], "3")
    api.ok("POST", "/v1/jobs/digits/checkpoints")
    assert turn(api, fleet, step=12) == ["cut"]
    (checkpoint,) = api.ok("GET", "/v1/jobs/digits/checkpoints")["items"]
    assert (checkpoint["incarnation"], checkpoint["step"], checkpoint["counts"]) == (2, 12, True)


def test_events_are_streamed_to_the_end_and_resumed(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet)
    agent = _agent_at(fleet, job)
    url = f"/v1/jobs/{job['id']}/events?follow=1"
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(api.http.get, url, headers={**bearer(ADMIN), "Last-Event-ID": "1"})
        agent.beat(
            Report(job=job["id"], node=agent.node, incarnation=1, phase="exited", exit_code=0)
        )
        text = stream.result(timeout=20).text
    ids = [line for line in text.splitlines() if line.startswith("id: ")]
    assert ids[0] == "id: 2" and len(ids) == len(set(ids))
    assert '"to": "succeeded"' in text
    again = api.http.get(url, headers={**bearer(ADMIN), "Last-Event-ID": ids[-1][4:]})
    assert again.text == ""


def test_logs_have_a_tail_and_go_on_until_the_job_ends(
    api: Api, fleet: list[Agent], tmp_path: Path
) -> None:
    job = run(api, fleet)
    agent = _agent_at(fleet, job)
    path = tmp_path / "volume" / "jobs" / job["id"] / "logs" / "rank-0.log"
    path.parent.mkdir(parents=True)
    path.write_text("eins\nzwei\ndrei ü\n")

    def read(query: str, **headers: str) -> str:
        url = f"/v1/jobs/digits/logs?{query}"
        return str(api.http.get(url, headers={**bearer(ADMIN), **headers}).text)

    assert read("") == "eins\nzwei\ndrei ü\n"
    assert read("tail=1") == "drei ü\n"
    assert read("tail=0") == ""
    assert api.call("GET", "/v1/jobs/digits/logs?rank=1")[0] == 404
    assert api.call("GET", "/v1/jobs/digits/logs?rank=-1")[0] == 422
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(read, "follow=1")
        with path.open("a") as file:
            file.write("vier\n")
        agent.beat(
            Report(job=job["id"], node=agent.node, incarnation=1, phase="exited", exit_code=0)
        )
        assert stream.result(timeout=20) == "eins\nzwei\ndrei ü\nvier\n"
    rest = "drei ü\nvier\n"
    streamed = read("follow=1", Accept="text/event-stream", **{"Last-Event-ID": "10"})
    assert streamed == f"id: 23\nevent: log\ndata: {json.dumps(rest)}\n\n"


# -- steer ----------------------------------------------------------------------------------------


def test_suspend_holds_a_job_until_resume(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet)
    assert api.ok("POST", "/v1/jobs/digits/suspend")["intent"] == "hold"
    turn(api, fleet, step=4)
    found = api.ok("GET", "/v1/jobs/digits")
    assert (found["state"], found["placement"], found["step"]) == ("suspended", [], 4)
    assert turn(api, fleet) == []
    api.ok("POST", "/v1/jobs/digits/resume")
    assert turn(api, fleet, step=4) == ["start"]
    assert api.ok("GET", "/v1/jobs/digits")["state"] == "running"


def test_what_has_ended_stays_ended(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet)
    api.ok("POST", "/v1/jobs/digits/cancel")
    assert api.call("POST", "/v1/jobs/digits/resume")[0] == 409
    turn(api, fleet)
    assert api.ok("GET", "/v1/jobs/digits")["state"] == "cancelled"
    assert api.ok("POST", "/v1/jobs/digits/cancel")["state"] == "cancelled"
    for verb, body in [
        ("resume", None),
        ("suspend", None),
        ("move", {"to": None}),
        ("resize", {"devices": 1}),
        ("checkpoints", None),
    ]:
        status, problem = api.call("POST", f"/v1/jobs/digits/{verb}", body)
        assert (status, problem["type"]) == (409, "/problems/illegal-transition"), verb


def test_a_checkpoint_on_demand_leaves_the_job_running(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet)
    api.ok("POST", "/v1/jobs/digits/checkpoints")
    assert turn(api, fleet, step=3) == ["cut"]
    found = api.ok("GET", "/v1/jobs/digits")
    assert found["state"] == "running" and found["checkpoint"]["step"] == 3
    verdict = api.ok("GET", "/v1/jobs/digits/checkpoints/1-1/verify")
    assert not verdict["ok"] and "cannot be read" in verdict["faults"][0]
    assert api.call("GET", "/v1/jobs/digits/checkpoints/1-2/verify")[0] == 404
    assert api.call("GET", "/v1/jobs/digits/checkpoints/..%2f..%2fx/verify")[0] in (404, 422)


def test_resize_stays_within_what_the_owner_said(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet, devices="cpu:4", ranks=4, elastic={"min": 1, "max": 4})
    for devices in (0, 5, 100):
        assert api.call("POST", "/v1/jobs/digits/resize", {"devices": devices})[0] == 422
    assert api.ok("POST", "/v1/jobs/digits/resize", {"devices": 2})["devices"] == 2
    assert turn(api, fleet, step=2) == ["reslot"]
    found = api.ok("GET", "/v1/jobs/digits")
    assert sum(s["devices"] for s in found["placement"]) == 2
    assert (found["state"], found["incarnation"]) == ("running", 1)


def test_move_knows_places_by_name(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet)
    status, problem = api.call("POST", "/v1/jobs/digits/move", {"to": "eu-nort"})
    assert status == 404 and "region/eu-north" in problem["near"]
    assert api.call("POST", "/v1/jobs/digits/move", {"to": "region/east-1"})[0] == 404
    for target in ("east-1", "node/east-1", "us-east-a", "cluster/us-east-a"):
        assert api.ok("POST", "/v1/jobs/digits/move", {"to": target})["confine"]
    assert api.ok("POST", "/v1/jobs/digits/move", {"to": None})["confine"] is None


# -- operate --------------------------------------------------------------------------------------


def test_cordon_keeps_new_work_away(api: Api, fleet: list[Agent]) -> None:
    for agent in fleet:
        answer = api.ok("POST", f"/v1/nodes/{agent.node}/cordon")
        assert answer["duty"] == "cordoned"
    api.ok("POST", "/v1/jobs", SPEC)
    assert turn(api, fleet) == []
    api.ok("POST", "/v1/nodes/east-1/uncordon")
    assert turn(api, fleet) == ["start"]
    assert api.ok("GET", "/v1/jobs/digits")["placement"][0]["node"] == "east-1"


def test_areas_count_their_nodes(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet, devices="cpu:4")
    regions = {r["id"]: r for r in api.ok("GET", "/v1/regions")["items"]}
    assert {r: (x["nodes"], x["devices"]) for r, x in regions.items()} == {
        "eu-north": (1, 4),
        "us-east": (2, 8),
    }
    (devices,) = api.ok("GET", "/v1/devices")["items"]
    assert (devices["id"], devices["devices"], devices["used"]) == ("cpu", 12, 4)
    text = api.http.get("/metrics", headers=bearer(ADMIN)).text
    assert 'singularity_jobs{state="running"} 1' in text
    assert "singularity_unaccounted_devices 0" in text
    assert "singularity_invariant_violations_total 0" in text
