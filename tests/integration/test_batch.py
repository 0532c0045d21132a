"""Many jobs in one request are what they would be one by one."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from singularity.api import reporting
from singularity.primitives import verbs
from singularity.primitives.messages import Phase, Report
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId
from tests.integration.api_client import Agent, Api, Json, turn

_SPEC = {"name": "digits", "run": "python train.py", "kind": "batch", "devices": "cpu:1"}
_KEPT = ("name", "project", "tier", "state", "devices", "spec", "version", "checkpointing")

# What may come in one request, with the key that each comes with.
ITEMS: list[Json] = [
    {"job": {**_SPEC, "name": "first"}},
    {"job": {**_SPEC, "name": "second"}, "key": "k"},
    {"job": {**_SPEC, "devise": 1}},
    {"job": {**_SPEC, "name": "second"}, "key": "k"},
    {"job": {**_SPEC, "name": "other"}, "key": "k"},
    {"job": {**_SPEC, "name": "many", "array": 3}, "key": "a"},
    {"job": {**_SPEC, "name": "large", "devices": "cpu:13"}},
    {"job": {**_SPEC, "name": "next", "after": ["first"]}},
    {"job": {**_SPEC, "name": "lost", "after": ["nobody"]}},
    {"job": {**_SPEC, "name": "strange", "env": {"A": "\0"}}},
    {"job": {**_SPEC, "name": "theirs", "project": "b"}},
    {"job": {**_SPEC, "name": "keyed"}, "key": "\n"},
]


def one_by_one(api: Api, token: str) -> list[Json]:
    found = []
    for item in ITEMS:
        key = item.get("key")
        if key == "\n":  # no header holds it; what the door says of this is the same
            key = "x" * 201
        headers = {"Idempotency_Key": key} if key else {}
        status, answer = api.call("POST", "/v1/jobs", item["job"], token, **headers)
        if status != 202:
            found.append({"error": answer})
            continue
        jobs = [{"id": j["id"], "name": j["name"]} for j in answer.get("items", [answer])]
        found.append({"items": jobs} if "items" in answer else jobs[0])
    return found


def told(outcomes: list[Json]) -> list[Any]:
    """Without ids, but for which of them are the same."""
    known: dict[str, int] = {}

    def named(job: Json) -> tuple[str, int]:
        return job["name"], known.setdefault(job["id"], len(known))

    return [
        o["error"]["type"] if "error" in o else [named(j) for j in o.get("items", [o])]
        for o in outcomes
    ]


def test_a_batch_is_what_its_items_are_one_by_one(api: Api, fleet: list[Agent]) -> None:
    alone, together = (api.token("submitter", project) for project in ("a", "c"))
    single = one_by_one(api, alone)
    batch = api.ok("POST", "/v1/jobs:batch", {"items": ITEMS}, together)["items"]
    assert told(batch) == told(single)
    kept = []
    for token in (alone, together):
        jobs = api.ok("GET", "/v1/jobs?limit=100", token=token)["items"]
        views = [{k: j[k] for k in _KEPT if k not in ("project", "spec")} for j in jobs]
        specs = [
            {k: v for k, v in j["spec"].items() if k not in ("project", "after")} for j in jobs
        ]
        kept.append([v | {"spec": s} for v, s in zip(views, specs, strict=True)])
        events = [api.ok("GET", f"/v1/jobs/{j['id']}/events", token=token) for j in jobs]
        assert [[e["event"] for e in page["items"]] for page in events] == [["submitted"]] * len(
            jobs
        )
    assert kept[0] == kept[1]


def test_a_batch_that_is_repeated_adds_nothing(api: Api, fleet: list[Agent]) -> None:
    items = [{"job": {**_SPEC, "name": f"job-{n}"}, "key": f"k{n}"} for n in range(300)]
    first = api.ok("POST", "/v1/jobs:batch", {"items": items})["items"]
    again = api.ok("POST", "/v1/jobs:batch", {"items": items[::-1]})["items"]
    assert again == first[::-1]
    assert [j["name"] for j in first] == [f"job-{n}" for n in range(300)]
    ids = [j["id"] for j in api.ok("GET", "/v1/jobs?limit=1000")["items"]]
    assert sorted(ids) == sorted(j["id"] for j in first)


@pytest.mark.parametrize("items", [[], [{}], [{"job": 1}], [{"job": {}, "keys": 1}], None])
def test_what_is_no_batch_is_refused_as_a_whole(api: Api, items: object) -> None:
    assert api.call("POST", "/v1/jobs:batch", {"items": items})[0] == 422


def running(api: Api, fleet: list[Agent], count: int) -> list[tuple[JobId, Agent]]:
    """Jobs that run, and where."""
    items = [{"job": {**_SPEC, "name": f"job-{n}"}} for n in range(count)]
    made = api.ok("POST", "/v1/jobs:batch", {"items": items})["items"]
    turn(api, fleet)
    found = []
    for job in made:
        view = api.ok("GET", f"/v1/jobs/{job['id']}")
        assert view["state"] == "running"
        node = view["placement"][0]["node"]
        found.append((JobId(job["id"]), next(a for a in fleet if a.node == node)))
    return found


def report(job: JobId, node: str, phase: Phase, incarnation: int = 1, **facts: Any) -> Report:
    return Report(job=job, node=NodeId(node), incarnation=incarnation, phase=phase, **facts)


def tell(api: Api, agent: Agent, *reports: Report) -> list[Any]:
    body = {"reports": [r.model_dump(mode="json") for r in reports]}
    found: list[Any] = api.ok("POST", "/v1/agent/report", body, token=agent.token)["forget"]
    return found


def test_reports_together_are_reports_one_by_one(api: Api, fleet: list[Agent]) -> None:
    jobs = running(api, fleet, 6)
    mine = [(job, agent) for job, agent in jobs if agent.node == jobs[0][1].node]
    (first, agent), (second, _) = mine[:2]
    told = [
        report(first, agent.node, "running", step=3, seconds={"restore": 0.5}),
        report(first, agent.node, "exited", exit_code=0, step=7),
        report(first, agent.node, "exited", exit_code=0, step=7),
        report(second, agent.node, "exited", incarnation=9, exit_code=0),  # of no life there was
        report(second, agent.node, "exited", exit_code=3),
        report(JobId("nobody"), agent.node, "stopped"),
    ]
    forget = tell(api, agent, *told)
    assert [first, 1] in forget and ["nobody", 1] in forget
    ended = api.ok("GET", f"/v1/jobs/{first}")
    assert (ended["state"], ended["step"]) == ("succeeded", 7)
    assert api.ok("GET", f"/v1/jobs/{second}")["state"] == "failed"
    events = api.ok("GET", f"/v1/jobs/{first}/events")["items"]
    assert [e["event"] for e in events] == ["submitted", "placed", "running", "succeeded"]
    assert [e["seq"] for e in events] == [1, 2, 3, 4]
    life = api.ok("GET", f"/v1/jobs/{first}/incarnations")["items"][0]
    assert life["end"] == "finished" and life["step_to"] == 7


def test_nothing_is_acknowledged_that_may_not_be_on_the_disk(
    api: Api, fleet: list[Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((job, agent),) = running(api, fleet, 1)
    exits = report(job, agent.node, "exited", exit_code=0)

    def away(_: Engine) -> None:
        raise OperationalError("", None, Exception("the server went away"))

    monkeypatch.setattr(reporting, "synced", away)
    body = {"reports": [exits.model_dump(mode="json")]}
    assert api.call("POST", "/v1/agent/report", body, agent.token)[0] == 503
    monkeypatch.undo()
    assert tell(api, agent, exits) == [[job, 1]]
    assert api.ok("GET", f"/v1/jobs/{job}")["state"] == "succeeded"


def test_one_report_that_cannot_be_folded_in_harms_no_other(
    api: Api, fleet: list[Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = running(api, fleet, 4)
    mine = [(job, agent) for job, agent in jobs if agent.node == jobs[0][1].node]
    (bad, agent), (good, _) = mine[:2]
    settle = verbs.settle

    def broken(job: Any, told: Report, now_s: float) -> Any:
        assert told.job != bad, "a bug"
        return settle(job, told, now_s)

    monkeypatch.setattr(verbs, "settle", broken)
    exits = [report(job, agent.node, "exited", exit_code=0) for job in (bad, good)]
    assert tell(api, agent, *exits) == [[good, 1]]
    monkeypatch.undo()
    assert api.ok("GET", f"/v1/jobs/{good}")["state"] == "succeeded"
    assert api.ok("GET", f"/v1/jobs/{bad}")["state"] == "running"
    assert tell(api, agent, exits[0]) == [[bad, 1]]
