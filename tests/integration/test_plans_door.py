"""At the real server's door: plans are told and nothing is done."""

from __future__ import annotations

import pytest

from tests.integration.api_client import SPEC, Agent, Api, run


def test_a_plan_tells_what_would_be_and_does_nothing(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet, devices="cpu:4", tier="basic")
    told = api.ok("POST", "/v1/plans", {"jobs": [{**SPEC, "name": "new", "devices": "cpu:4"}]})
    assert told["changed"] and told["others"] == 0
    assert [(e["name"], e["what"]) for e in told["effects"]] == [("new", "starts")]
    assert told["after"]["used"] - told["before"]["used"] == 4
    gone = f"region/{job['region']}"
    told = api.ok("POST", "/v1/plans", {"without": [gone]})
    assert {e["what"] for e in told["effects"]} <= {"moves", "stops"}
    assert [j["name"] for j in api.ok("GET", "/v1/jobs")["items"]] == ["digits"]
    assert api.ok("GET", f"/v1/jobs/{job['id']}")["version"] == job["version"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "say what changes"),
        ({"job": []}, 422, "did you mean 'jobs'"),
        ({"without": ["region/mars"]}, 404, "no place 'region/mars'"),
        ({"devices": ["8"]}, 422, "is not understood"),
        ({"quotas": {"team": "+1"}}, 404, "no project 'team'"),
        ({"jobs": [{"name": "x"}]}, 422, "run"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    api: Api, fleet: list[Agent], body: dict[str, object], status: int, said: str
) -> None:
    found = api.call("POST", "/v1/plans", body)
    assert found[0] == status and said in str(found[1])


def test_others_jobs_are_counted_and_not_shown(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet, devices="cpu:4", tier="basic", project="theirs")
    token = api.token("submitter", "mine")
    told = api.ok("POST", "/v1/plans", {"without": [f"region/{job['region']}"]}, token=token)
    assert told["effects"] == [] and told["others"] == 1 and told["changed"]
    asked = {"jobs": [{**SPEC, "project": "theirs"}]}
    assert api.call("POST", "/v1/plans", asked, token=token)[0] == 403
