"""At the real server's door: quotas are set, refused, kept, and what was used is told."""

from __future__ import annotations

import pytest

from tests.integration.api_client import SPEC, Agent, Api, run, turn

CPU = {"guaranteed": 2, "borrow": 0, "lend": None}


def put(api: Api, project: str, **body: object) -> tuple[int, dict[str, object]]:
    return api.call("PUT", f"/v1/projects/{project}", body)


def test_a_project_is_set_and_told(api: Api, fleet: list[Agent]) -> None:
    status, made = put(api, "team", weight=2.0, devices={"cpu": CPU})
    assert status == 200 and made["weight"] == 2.0
    assert made["devices"] == {"cpu": {**CPU, "used": 0, "borrowed": 0}}
    put(api, "x", parent="team")
    assert api.ok("GET", "/v1/projects/x")["parent"] == "team"
    assert [p["id"] for p in api.ok("GET", "/v1/projects")["items"]] == ["team", "x"]
    put(api, "team")
    assert api.ok("GET", "/v1/projects/team")["devices"] == {}, "all that is said is said at once"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"devices": {"cpu": {"guaranteed": 1000}}}, 422, "the fleet has"),
        ({"devices": {"cpu": {"guaranteed": -1}}}, 422, "0 cpu devices or more, not -1"),
        ({"devices": {"cpu": {"guarantee": 1}}}, 422, "did you mean 'guaranteed'"),
        ({"parent": "nobody"}, 404, "there is no project 'nobody'"),
        ({"parent": "p"}, 422, "part of themselves: p < p"),
        ({"weight": 0}, 422, "more than 0"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    api: Api, fleet: list[Agent], body: dict[str, object], status: int, said: str
) -> None:
    found = put(api, "p", **body)
    assert found[0] == status and said in str(found[1])
    assert api.ok("GET", "/v1/projects")["items"] == []


def test_a_limit_holds_and_why_says_so(api: Api, fleet: list[Agent]) -> None:
    put(api, "team", devices={"cpu": CPU})
    run(api, fleet, name="first", devices="cpu:2", project="team")
    second = api.ok("POST", "/v1/jobs", {**SPEC, "name": "second", "project": "team"})
    turn(api, fleet)
    why = api.ok("GET", f"/v1/jobs/{second['id']}/why")
    assert why["state"] == "pending"
    assert {r["kind"] for r in why["reasons"]} == {"quota", "reclaim"}
    put(api, "team", devices={"cpu": {**CPU, "borrow": 1}})
    turn(api, fleet)
    assert api.ok("GET", f"/v1/jobs/{second['id']}")["state"] == "running"
    told = api.ok("GET", "/v1/projects/team")["devices"]["cpu"]
    assert (told["used"], told["borrowed"]) == (3, 1)
    (used,) = api.ok("GET", "/v1/usage")["items"]
    assert (used["project"], used["devices"], used["borrowed"]) == ("team", 3, 1)
    assert used["share"] == 1.0


def test_only_operators_set_and_projects_see_their_own(api: Api, fleet: list[Agent]) -> None:
    put(api, "mine")
    put(api, "theirs")
    token = api.token("submitter", "mine")
    assert [p["id"] for p in api.ok("GET", "/v1/projects", token=token)["items"]] == ["mine"]
    assert api.call("GET", "/v1/projects/theirs", token=token)[0] == 404
    assert api.call("PUT", "/v1/projects/mine", {}, token=token)[0] == 403
    assert api.call("GET", "/v1/projects/mime")[1]["near"] == ["mine"]
