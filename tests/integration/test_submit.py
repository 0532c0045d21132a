"""What may be submitted, and how often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.api_client import ADMIN, Agent, Api, bearer

_SPEC = {"name": "digits", "run": "python train.py", "devices": "cpu:1"}


def test_a_retried_submit_is_one_job(api: Api, fleet: list[Agent]) -> None:
    headers = {**bearer(ADMIN), "Idempotency-Key": "k1"}

    def submit(_: int) -> Any:
        return api.http.post("/v1/jobs", json=_SPEC, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(16)))
    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["id"] for a in answers}) == 1
    other = {**_SPEC, "name": "other"}
    status, problem = api.call("POST", "/v1/jobs", other, Idempotency_Key="k1")
    assert (status, problem["type"]) == (409, "/problems/idempotency-mismatch")
    assert len(api.ok("GET", "/v1/jobs")["items"]) == 1


def test_one_bad_key_spoils_nobody_elses_submit(api: Api, fleet: list[Agent]) -> None:
    api.ok("POST", "/v1/jobs", _SPEC, Idempotency_Key="taken")

    def submit(number: int) -> int:
        key = "taken" if number % 4 == 0 else f"own-{number}"
        body = {**_SPEC, "name": f"job-{number}"}
        return api.call("POST", "/v1/jobs", body, Idempotency_Key=key)[0]

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(submit, range(24)))
    assert statuses == [409 if n % 4 == 0 else 202 for n in range(24)]
    assert len(api.ok("GET", "/v1/jobs")["items"]) == 1 + 18


def test_an_array_is_many_jobs_submitted_once(api: Api, fleet: list[Agent]) -> None:
    body = {**_SPEC, "kind": "batch", "array": 3}
    first = api.ok("POST", "/v1/jobs", body, Idempotency_Key="a")["items"]
    assert [j["name"] for j in first] == ["digits-0", "digits-1", "digits-2"]
    assert [dict(j["spec"]["env"])["ARRAY_INDEX"] for j in first] == ["0", "1", "2"]
    again = api.ok("POST", "/v1/jobs", body, Idempotency_Key="a")["items"]
    assert [j["id"] for j in again] == [j["id"] for j in first]


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({**_SPEC, "devise": 1}, 422, "invalid-spec"),
        ([1], 422, "invalid-spec"),
        ({}, 422, "invalid-spec"),
        ({**_SPEC, "devices": "cpu:13"}, 422, "unplaceable"),
        ({**_SPEC, "devices": "cpu:5", "place": {"same_node": True}}, 422, "unplaceable"),
        ({**_SPEC, "devices": "H100:1"}, 422, "unplaceable"),
        ({**_SPEC, "place": {"regions": ["mars"]}}, 422, "unplaceable"),
        ({**_SPEC, "after": ["nothing"]}, 404, "not-found"),
        ({**_SPEC, "run": "x" * 2**21}, 413, "body-too-large"),
    ],
)
def test_what_cannot_run_is_refused(
    api: Api, fleet: list[Agent], body: Any, status: int, slug: str
) -> None:
    found, problem = api.call("POST", "/v1/jobs", body)
    assert (found, problem["type"]) == (status, f"/problems/{slug}")
    assert problem["detail"] and problem["status"] == status
    assert api.ok("GET", "/v1/jobs")["items"] == []


def test_unplaceable_names_the_largest_gang_that_fits(api: Api, fleet: list[Agent]) -> None:
    _, problem = api.call("POST", "/v1/jobs", {**_SPEC, "devices": "cpu:9"})
    assert problem["largest"] == 8


def test_a_node_that_has_just_come_counts(api: Api, fleet: list[Agent]) -> None:
    big = {**_SPEC, "devices": "cpu:4", "place": {"regions": ["mars"]}}
    assert api.call("POST", "/v1/jobs", big)[0] == 422
    Agent(api, "mars-1", "mars")
    assert api.call("POST", "/v1/jobs", big)[0] == 202


def test_the_answer_to_a_submit_is_the_job_as_it_is_kept(api: Api, fleet: list[Agent]) -> None:
    answer = api.ok("POST", "/v1/jobs", _SPEC, Idempotency_Key="k")
    found = api.ok("GET", f"/v1/jobs/{answer['id']}")
    again = api.ok("POST", "/v1/jobs", _SPEC, Idempotency_Key="k")
    # What it waited for grows from one look to the next.
    asked_s = [view.pop("share")["asked_s"] for view in (answer, found, again)]
    assert asked_s == sorted(asked_s)
    assert answer == found == again


def test_damaged_json_is_a_problem(api: Api) -> None:
    headers = {**bearer(ADMIN), "Content-Type": "application/json"}
    for content in (b"{", b"\xff", b'{"name":"a\\u0000","run":"x"}', b"null"):
        response = api.http.post("/v1/jobs", content=content, headers=headers)
        assert response.status_code in (400, 422), response.text
        assert response.headers["content-type"] == "application/problem+json"
    assert api.call("GET", "/v1/jobs/a%00b")[0] in (404, 422)
    assert api.call("GET", "/v1/jobs?limit=0")[0] == 422
    assert api.call("GET", "/v1/jobs?state=sleeping")[0] == 422
    assert api.call("GET", "/v1/events?cursor=x")[0] == 422
