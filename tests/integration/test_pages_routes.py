"""What the routes that the pages need tell: the queue, how a drain burns down, the plane."""

from __future__ import annotations

from api_client import ADMIN, SPEC, Agent, Api, bearer, run, turn
from browsing import see, visitor


def test_the_queue_tells_who_is_next_what_binds_and_what_would_help(
    api: Api, fleet: list[Agent]
) -> None:
    place = {"regions": "us-east"}
    run(api, fleet, name="holds", devices="cpu:4", ranks=4, project="vision", place=place)
    for n, tier in enumerate(("basic", "standard")):
        wide = {"name": f"wide-{n}", "tier": tier, "devices": "cpu:12", "ranks": 12}
        assert api.call("POST", "/v1/jobs", {**SPEC, **wide})[0] == 422, "no cluster is so large"
        api.ok("POST", "/v1/jobs", {**SPEC, **wide, "devices": "cpu:8", "ranks": 8})
    api.schedule()
    found = api.ok("GET", "/v1/queue")
    assert [j["name"] for j in found["items"]] == ["wide-1", "wide-0"] and found["waiting"] == 2
    first, second = found["items"]
    why = api.ok("GET", f"/v1/jobs/{first['job']}/why")
    assert first["reasons"] == why["reasons"][: len(first["reasons"])]
    assert first["change"] == why["changes"][0]
    assert first["eta"]["after"] == why["eta"]["after"] and first["eta"]["p50_s"] is not None
    assert second["reasons"][0]["kind"] in ("order", "capacity")
    assert api.ok("GET", "/v1/queue?limit=1")["waiting"] == 2
    held = api.ok("POST", f"/v1/jobs/{second['job']}/suspend")
    found = api.ok("GET", "/v1/queue")
    assert [j["job"] for j in found["items"]] == [first["job"], held["id"]]
    assert found["items"][1]["reasons"][0]["kind"] == "held"
    assert api.ok("GET", "/v1/queue", token=api.token("viewer", "vision"))["waiting"] == 0


def test_a_drain_burns_down_as_its_jobs_leave(api: Api, fleet: list[Agent]) -> None:
    jobs = [
        run(api, fleet, name=f"job-{n}", place={"regions": ["us-east", "eu-*"]}) for n in range(2)
    ]
    home = {j["region"] for j in jobs}
    assert len(home) == 1
    target = f"region/{home.pop()}"
    drain = api.ok("POST", "/v1/drains", {"target": target, "within": "1h"})
    first = api.ok("GET", f"/v1/drains/{drain['id']}/burndown")["points"]
    assert [p["remaining"] for p in first] == [2, 2] and first[0]["at_s"] == drain["at_s"]
    for _ in range(6):
        turn(api, fleet, step=5)
    points = api.ok("GET", f"/v1/drains/{drain['id']}/burndown")["points"]
    assert [p["remaining"] for p in points] == [2, 1, 0, 0]
    assert [p["at_s"] for p in points] == sorted(p["at_s"] for p in points)
    api.ok("DELETE", f"/v1/drains/{drain['id']}")
    ended = api.ok("GET", f"/v1/drains/{drain['id']}/burndown")["points"]
    assert [p["remaining"] for p in ended] == [2, 1, 0, 0]
    with visitor(api, ADMIN) as http:
        assert "ended" in see(http, f"/ui/drains/{drain['id']}").text
    assert (
        api.call("GET", f"/v1/drains/{drain['id']}/burndown", token=api.token("viewer", "x"))[0]
        == 403
    )


def test_the_plane_tells_who_leads_and_what_is_broken(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet)
    found = api.ok("GET", "/v1/plane")
    assert found["figures"]["invariant_violations"] == 0 and found["jobs"]["running"] == 1
    assert {"outbox_letters", "unaccounted_devices"} <= set(found["figures"])
    told = api.http.get("/metrics", headers=bearer(ADMIN)).text
    for name, value in found["figures"].items():
        assert f"singularity_{name} {value:g}" in told or name == "outbox_letters"
    assert found["loops"] == [], "no loop runs here"
    assert api.call("GET", "/v1/plane", token=api.token("viewer", "vision"))[0] == 403
