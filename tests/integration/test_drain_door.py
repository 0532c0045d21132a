"""Drains at the real server's door: foretold, ordered, watched, paused, undone, or refused."""

from __future__ import annotations

import json
import threading
from itertools import product
from typing import Any

import pytest

from tests.integration.api_client import ADMIN, Agent, Api, bearer, run, turn


def test_a_drain_empties_a_region_and_undo_opens_it(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet)
    region = job["region"]
    drain = api.ok("POST", "/v1/drains", {"target": region})
    assert drain["target"] == f"region/{region}" and drain["remaining_jobs"] == [job["id"]]
    assert api.ok("POST", "/v1/drains", {"target": region})["id"] == drain["id"]
    for _ in range(3):
        turn(api, fleet, step=5)
    found = api.ok("GET", f"/v1/drains/{drain['id']}")
    assert (found["remaining_jobs"], found["moved"], found["jobs"]) == ([], 1, 1)
    assert found["done"] and not found["waiting"]
    moved = api.ok("GET", "/v1/jobs/digits")
    assert moved["state"] == "running" and moved["region"] != region
    newcomer = Agent(api, "late-1", region)
    assert api.ok("GET", f"/v1/nodes/{newcomer.node}")["duty"] == "draining"
    assert api.call("POST", f"/v1/nodes/{newcomer.node}/uncordon")[0] == 409
    api.ok("DELETE", f"/v1/drains/{drain['id']}")
    assert {n["duty"] for n in api.ok("GET", "/v1/nodes")["items"]} == {"ready"}
    assert api.ok("GET", "/v1/drains")["items"] == []
    assert api.call("DELETE", f"/v1/drains/{drain['id']}")[0] == 404
    assert api.ok("GET", f"/v1/drains/{drain['id']}")["ended_at_s"] > 0, "it is remembered"


def test_a_plan_tells_who_would_go_where_and_changes_nothing(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet)
    asked = {"target": job["region"], "plan": True, "within": "1h", "moves": 1}
    status, plan = api.call("POST", "/v1/drains", asked)
    assert status == 200
    (goes,) = plan["departures"]
    assert (goes["job"], goes["how"], goes["begins_s"]) == (job["id"], "move", 0.0)
    assert goes["to"] and job["region"] not in goes["to"]
    assert plan["ends_s"] == goes["pause_s"] and plan["stay"] == 0
    assert api.ok("GET", "/v1/drains")["items"] == []
    assert {n["duty"] for n in api.ok("GET", "/v1/nodes")["items"]} == {"ready"}


def test_a_bandwidth_makes_a_plan_longer_and_is_kept_with_the_drain(
    api: Api, fleet: list[Agent]
) -> None:
    """Jobs that were never cut are taken to have 1 GB of images."""
    job = run(api, fleet)
    assert run(api, fleet, name="second")["region"] == job["region"]
    asked = {"target": job["region"], "bandwidth": "20MB/s"}
    plan = api.call("POST", "/v1/drains", {**asked, "plan": True})[1]
    assert (plan["bytes_per_s"], plan["ends_s"] - plan["unbound_s"]) == (2e7, 50.0)
    drain = api.ok("POST", "/v1/drains", asked)
    assert drain["bytes_per_s"] == 2e7
    turn(api, fleet, step=5)
    (waits,) = api.ok("GET", f"/v1/drains/{drain['id']}")["waiting"]
    assert "carries no more than 20 MB/s; its next move is in" in waits["why"]


def test_a_drain_is_paused_and_goes_on_and_says_why_jobs_wait(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet)
    drain = api.ok("POST", "/v1/drains", {"target": job["region"], "reason": "new switches"})
    assert drain["reason"] == "new switches"
    paused = api.ok("POST", f"/v1/drains/{drain['id']}/pause")
    assert paused["paused"] and paused["waiting"][0]["why"] == f"{drain['id']} is paused"
    assert turn(api, fleet) == []
    api.ok("POST", f"/v1/drains/{drain['id']}/resume")
    assert "cut" in turn(api, fleet, step=5)


def test_whoever_watches_a_drain_sees_it_to_its_end(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet)
    drain = api.ok("POST", "/v1/drains", {"target": job["region"]})
    seen: list[dict[str, Any]] = []
    looked = threading.Event()

    def watch() -> None:
        path, headers = f"/v1/drains/{drain['id']}?follow=true", bearer(ADMIN)
        with api.http.stream("GET", path, headers=headers) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line.removeprefix("data: ")))
                    looked.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert looked.wait(20), "the state as it is comes first"
    for _ in range(3):
        turn(api, fleet, step=5)
    watcher.join(20)
    assert not watcher.is_alive(), "the stream ends when the drain is done"
    assert not seen[0]["done"] and seen[-1]["done"]
    assert [v["moved"] for v in seen] == sorted(v["moved"] for v in seen)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"target": "atlantis"}, 404, "no place 'atlantis'"),
        ({"target": "us-east", "deadline_s": 12.0}, 422, "that deadline was"),
        ({"target": "us-east", "within": "1h", "deadline_s": 9e9}, 422, "either within or"),
        ({"target": "us-east", "within": "soon"}, 422, "is no duration"),
        ({"target": "us-east", "polcy": "suspend"}, 422, "did you mean 'policy'?"),
        ({"target": "us-east", "policy": "explode"}, 422, "stop-basic-first"),
        ({"target": "region/atlantis"}, 404, "no place 'region/atlantis'"),
        ({"target": "us-eest"}, 404, '"near": ["region/us-east"'),
        ({"target": "us-east", "within": "0s"}, 422, "within"),
        ({"target": "us-east", "within": "-1h"}, 422, "within"),
        ({"target": "us-east", "moves": 0}, 422, "moves"),
    ],
)
@pytest.mark.parametrize("plan", [False, True])
def test_a_wrong_order_is_answered_with_what_to_do(
    api: Api, fleet: list[Agent], body: dict[str, Any], status: int, told: str, plan: bool
) -> None:
    """Also where only its plan is asked for."""
    answer = api.call("POST", "/v1/drains", {**body, "plan": plan})
    assert answer[0] == status and told in json.dumps(answer[1])
    assert api.ok("GET", "/v1/drains")["items"] == []


def test_overlapping_drains_are_refused_with_the_one_that_is_in_the_way(
    api: Api, fleet: list[Agent]
) -> None:
    first = api.ok("POST", "/v1/drains", {"target": "us-east"})
    others = ("node/east-1", "cluster/us-east-a", "us-east")
    for target, plan in product(others, (False, True)):
        body = {"target": target, "policy": "suspend", "plan": plan}
        status, answer = api.call("POST", "/v1/drains", body)
        assert status == 409 and f"drained by {first['id']}" in answer["detail"]
        assert "undo that first" in answer["detail"]
    assert api.call("POST", "/v1/drains", {"target": "eu-north", "plan": True})[0] == 200
    inside = api.ok("POST", "/v1/drains", {"target": "node/north-1"})
    status, answer = api.call("POST", "/v1/drains", {"target": "eu-north"})
    assert status == 409 and f"node/north-1 is being drained by {inside['id']}" in answer["detail"]
    assert len(api.ok("GET", "/v1/drains")["items"]) == 2
