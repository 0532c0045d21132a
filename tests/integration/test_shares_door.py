"""At the real server's door: what projects were given, and who had to give way."""

from __future__ import annotations

from tests.integration.api_client import Agent, Api, run, turn


def test_what_jobs_were_given_is_told_by_project_and_tier(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet, tier="premium")
    (found,) = api.ok("GET", "/v1/sla")["items"]
    assert (found["project"], found["tier"], found["jobs"]) == ("default", "premium", 1)
    assert found["promised"] == 0.95 and 0.0 <= found["fraction"] <= 1.0
    mine = api.ok("GET", f"/v1/jobs/{job['id']}")["share"]
    assert mine["promised"] == 0.95 and mine["asked_s"] >= mine["given_s"] >= 0.0


def test_nobody_was_evicted_where_there_was_room(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet)
    told = api.ok("GET", "/v1/evictions")
    assert told["items"] == [] and told["most"] > 0 and told["acknowledged_at_s"] is None
    assert api.ok("POST", "/v1/evictions/acknowledgements")["acknowledged_at_s"] > 0


def test_who_makes_way_is_told_no_name_of_another_project(api: Api, fleet: list[Agent]) -> None:
    mine = api.token("submitter", "mine")
    asked = {"devices": "cpu:4", "project": "mine"}
    jobs = [run(api, fleet, name=f"mine-{a.node}", **asked)["id"] for a in fleet]
    urgent = {"name": "secret", "tier": "premium", "project": "theirs", "devices": "cpu:4"}
    other = api.ok("POST", "/v1/jobs", {"run": "python train.py", **urgent})["id"]
    api.ok("POST", "/v1/jobs", {"run": "python train.py", "name": "late", "project": "mine"})
    turn(api, fleet)
    (gave,) = [j for j in jobs if api.ok("GET", f"/v1/jobs/{j}", token=mine)["taken"]]
    paths = (gave, "late", f"{gave}/why", "late/why", f"{gave}/events", f"{gave}/incarnations")
    told = str([api.ok("GET", f"/v1/jobs/{path}", token=mine) for path in paths])
    assert f"gives 4 devices to {other} of another project (premium)" in told
    assert "secret" not in told and "theirs" not in told
    (evicted,) = api.ok("GET", "/v1/evictions")["items"]
    assert evicted["for"] == {"job": other, "name": "secret", "project": "theirs"}
