"""What REST promises beside single answers: versions, keys, streams that go on where they ended."""

from __future__ import annotations

import json

from tests.integration.api_client import ADMIN, Agent, Api, bearer, run
from tests.integration.asking import is_problem

_WEB = {"name": "web", "kind": "serve", "run": "serve", "target": {"rps": 9}}


def test_a_service_that_has_changed_is_not_changed_by_who_has_not_seen_it(
    api: Api, fleet: list[Agent]
) -> None:
    api.ok("POST", "/v1/services", _WEB)
    seen = api.http.get("/v1/services/web", headers=bearer(ADMIN)).headers["etag"]
    body = {"replicas": {"min": 1, "max": 2}}
    api.ok("PATCH", "/v1/services/web", body, If_Match=seen)
    for method, path, sent in (
        ("PATCH", "/v1/services/web", body),
        ("POST", "/v1/services/web/updates", {"service": {**_WEB, "run": "other"}}),
        ("DELETE", "/v1/services/web", None),
    ):
        status, problem = api.call(method, path, sent, If_Match=seen)
        assert (status, problem["type"]) == (412, "/problems/outdated"), path
    now = api.http.get("/v1/services/web", headers=bearer(ADMIN)).headers["etag"]
    assert now != seen and f'"{problem["version"]}"' == now
    api.ok("DELETE", "/v1/services/web", If_Match=now)


def test_a_verification_that_is_asked_for_twice_is_one(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet)
    path = "/v1/jobs/digits/verifications"
    first, again = (api.ok("POST", path, {"steps": 3}, Idempotency_Key="k") for _ in range(2))
    assert first["id"] == again["id"]
    assert api.call("POST", path, {"steps": 4}, Idempotency_Key="k")[0] == 409


def test_a_stream_of_events_goes_on_where_it_ended(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet)
    api.ok("POST", f"/v1/jobs/{job['id']}/cancel")
    api.schedule()
    for agent in fleet:
        agent.obey()
    url = f"/v1/jobs/{job['id']}/events?follow=true"
    headers = {**bearer(ADMIN), "Accept": "text/event-stream"}
    whole = api.http.get(url, headers=headers).text
    ids = [line.removeprefix("id: ") for line in whole.split("\n") if line.startswith("id: ")]
    assert ids == [str(n + 1) for n in range(len(ids))] and len(ids) > 3
    rest = api.http.get(url, headers={**headers, "Last-Event-ID": ids[1]})
    assert rest.headers["content-type"].startswith("text/event-stream")
    assert [x for x in rest.text.split("\n") if x.startswith("id: ")] == [
        f"id: {n}" for n in ids[2:]
    ]


def test_who_traces_requests_is_let_in(api: Api) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    for sent in (trace, "nonsense", ""):
        assert api.call("GET", "/v1/jobs", traceparent=sent, tracestate="x=1")[0] == 200


def test_what_cannot_be_done_with_a_path_is_a_problem_of_ours(api: Api) -> None:
    for method, path, status, slug in (
        ("DELETE", "/v1/jobs", 405, "method-not-allowed"),
        ("GET", "/v1/nothing", 404, "not-found"),
    ):
        answer = api.http.request(method, path, headers=bearer(ADMIN))
        found = is_problem(answer.status_code, answer.headers["content-type"], answer.content)
        assert (answer.status_code, found["type"]) == (status, f"/problems/{slug}")


def test_a_stranger_is_told_nothing_of_what_he_sent(api: Api) -> None:
    for body in (b"{", b"\xff", b"x" * 2**21):
        answer = api.http.post(
            "/v1/jobs", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 401


def test_a_submit_of_unknown_length_is_read_as_well(api: Api) -> None:
    text = json.dumps({"name": "digits", "run": "x"}).encode()
    headers = {**bearer(ADMIN), "Content-Type": "application/json"}
    answer = api.http.post("/v1/jobs", content=iter([text[:9], text[9:]]), headers=headers)
    assert answer.status_code == 202 and answer.json()["name"] == "digits"


def test_durations_and_sizes_without_end_are_refused(api: Api) -> None:
    spec = {"name": "digits", "run": "x"}
    for limits in (
        {"max_duration": 10**400},
        {"memory": "9" * 400},
        {"hang_after": "9" * 400 + "s"},
    ):
        status, found = api.call("POST", "/v1/jobs", {**spec, "limits": limits})
        assert (status, found["type"]) == (422, "/problems/invalid-spec"), limits
