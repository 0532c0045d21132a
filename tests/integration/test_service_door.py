"""Services through the API: what owners ask, what routers are told and tell, what was borrowed."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
import pytest
from api_client import ADMIN, Agent, Api, Json, bearer

from singularity.api.service_store import ServiceStore
from singularity.primitives.messages import Report, Reslot, Start, Stop
from singularity.primitives.routing import BUCKETS, Table

SPEC = {
    "name": "cnn",
    "kind": "serve",
    "run": "python serve.py --port $PORT",
    "devices": "cpu:1",
    "replicas": {"min": 1, "max": 3},
    "target": {"concurrency": 2},
    "slo": {"wait_p99": "1s"},
    "queue": {"most": 50, "timeout": "5s"},
}


def turn(api: Api, fleet: list[Agent]) -> None:
    """One round, and what nodes say: replicas answer at once."""
    api.schedule()
    for agent in fleet:
        for command in agent.letters():
            known = {"job": command.job, "node": agent.node, "incarnation": command.incarnation}
            match command:
                case Start():
                    port = f"{agent.node}:8000" if command.serving else ""
                    agent.beat(Report(**known, phase="running", endpoint=port))
                case Stop():
                    agent.beat(Report(**known, phase="stopped"))
                case Reslot():
                    taken = {"resize": command.resize, "devices": command.devices}
                    agent.beat(Report(**known, phase="running", **taken))


def note(service: str, **changes: Any) -> Json:
    return {"service": service, "revision": 1, "span_s": 1.0, **changes}


def table(api: Api, token: str, after: int = 0) -> Table:
    path = f"/v1/routers/us-east/table?after={after}"
    return Table.model_validate(api.ok("GET", path, token=token))


def tell(api: Api, token: str, *notes: Json, **more: Any) -> None:
    api.ok("POST", "/v1/routers/us-east/loads", {"router": "r", "notes": notes, **more}, token)


def test_a_service_from_its_making_to_its_end(api: Api, fleet: list[Agent]) -> None:
    router = api.token("router")
    empty = table(api, router)
    assert empty.routes == ()
    made = api.ok("POST", "/v1/services", SPEC)
    assert made["replicas"]["wanted"] == 1 and made["condition"] == "starting"
    for _ in range(2):
        turn(api, fleet)
    now = api.ok("GET", "/v1/services/cnn")
    assert (now["condition"], now["replicas"]["ready"]) == ("serving", 1)

    first = table(api, router, empty.version)
    (route,) = first.routes
    assert first.version > empty.version
    assert (route.name, route.concurrency, route.queue_most, route.timeout_s) == ("cnn", 2, 50, 5.0)
    (endpoint,) = route.endpoints
    assert endpoint.address == "north-1:8000" and endpoint.region == "eu-north"
    assert table(api, router).version == first.version, "nothing has changed"

    waits = [30] + [0] * (BUCKETS - 1)
    busy = note(made["id"], arrivals=30, done=30, busy=5.0, waits=waits, latencies=waits)
    tell(api, router, busy)
    for _ in range(3):
        turn(api, fleet)
    now = api.ok("GET", "/v1/services/cnn")
    assert now["replicas"]["ready"] == 3
    assert now["load"]["concurrency"] == 5.0 and now["load"]["rps"] == 30.0
    assert now["slo"] == {"promise": "wait", "most_s": 1.0, "promised": 0.99, "attained": 1.0}
    assert len(table(api, router, first.version).routes[0].endpoints) == 3
    told = api.http.get("/metrics", headers=bearer(ADMIN)).text
    assert 'singularity_service_replicas_ready{project="default",service="cnn"} 3' in told
    assert 'singularity_service_slo_attained{project="default",service="cnn"} 1' in told

    api.ok("DELETE", "/v1/services/cnn")
    turn(api, fleet)
    leaving = table(api, router).routes[0].endpoints
    assert len(leaving) == 3 and all(e.leaving for e in leaving)
    tell(api, router, leaving={e.job: 0 for e in leaving})
    for _ in range(4):
        turn(api, fleet)
    assert table(api, router).routes == ()
    assert api.ok("GET", "/v1/services")["items"] == []
    assert api.ok("GET", f"/v1/services/{made['id']}")["condition"] == "ended"
    told = [e["event"] for e in api.ok("GET", f"/v1/services/{made['id']}/events")["items"]]
    assert told == ["made", "scaled", "ending", "ended"]
    jobs = api.ok("GET", "/v1/jobs")["items"]
    assert {j["state"] for j in jobs} == {"cancelled"}
    again = api.ok("POST", "/v1/services", SPEC)
    assert again["id"] != made["id"]


def test_how_uneven_requests_come_is_told_and_need_not_be(api: Api, fleet: list[Agent]) -> None:
    """A router of an older release says nothing of it, which counts as one by one."""
    router, made = api.token("router"), api.ok("POST", "/v1/services", SPEC)
    tell(api, router, note(made["id"], arrivals=30))
    assert api.ok("GET", "/v1/services/cnn")["load"]["spread"] == 1.0
    tell(api, router, note(made["id"], arrivals=30, jumps=570.0))
    assert api.ok("GET", "/v1/services/cnn")["load"]["spread"] == 10.0
    status, answer = api.call(
        "POST",
        "/v1/routers/us-east/loads",
        {"router": "r", "notes": [note(made["id"], jumps=-1.0)]},
        router,
    )
    assert status == 422 and "jumps" in str(answer)


def test_a_table_is_made_anew_only_when_something_in_it_changed(
    api: Api, fleet: list[Agent], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = list[Table](), ServiceStore._table

    def make(store: ServiceStore) -> Table:
        made.append(real(store))
        return made[-1]

    monkeypatch.setattr(ServiceStore, "_table", make)
    router = api.token("router")
    api.ok("POST", "/v1/services", SPEC)
    for _ in range(2):
        turn(api, fleet)
    (endpoint,) = [table(api, router), table(api, router)][-1].routes[0].endpoints
    before = len(made)
    assert [table(api, router) for _ in range(5)] == [made[-1]] * 5 and len(made) == before
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("UPDATE node SET lost = true WHERE region = %s", (endpoint.region,))
    assert table(api, router).routes[0].endpoints == () and len(made) > before


def test_training_lends_and_gets_back(api: Api, fleet: list[Agent], database: str) -> None:
    router = api.token("router")
    east = [a for a in fleet if a.register["region"] == "us-east"]
    train = {"name": "train", "run": "python train.py", "devices": "cpu:4"}
    train |= {"elastic": {"min": 1, "max": 4}, "place": {"regions": "us-east"}, "project": "lab"}
    jobs = [api.ok("POST", "/v1/jobs", {**train, "name": f"train-{n}"})["id"] for n in range(2)]
    turn(api, east)
    place = {"regions": "us-east"}
    made = api.ok("POST", "/v1/services", {**SPEC, "place": place})
    for _ in range(5):
        turn(api, east)
    assert api.ok("GET", "/v1/services/cnn")["replicas"]["ready"] == 1
    (loan,) = api.ok("GET", "/v1/loans")["items"]
    assert loan["devices"] == 1 and loan["job"] in jobs and loan["until_s"] is None
    assert loan["share"]["asked_s"] >= 0.0 and loan["name"].startswith("train-")
    ours = api.token("viewer", "default")
    (seen,) = api.ok("GET", "/v1/loans?service=cnn", token=ours)["items"]
    assert seen["job"] == loan["job"] and not {"name", "share"} & set(seen)
    borrowed = api.ok("GET", "/v1/services/cnn")["borrowed"]
    assert borrowed == {"devices": 1, "from": [{"job": loan["job"], "devices": 1}]}
    why = api.ok("GET", f"/v1/jobs/{loan['job']}/why")["reasons"]
    lent = [r["detail"] for r in why if r["kind"] == "lent"]
    assert len(lent) == 1 and made["id"] in lent[0] and "cnn" not in str(why)
    with psycopg.connect(database) as db:
        assert db.execute("SELECT job FROM lender").fetchall() == [(loan["job"],)]

    api.ok("POST", f"/v1/jobs/{loan['job']}/cancel")
    for _ in range(3):
        turn(api, east)
    (over,) = api.ok("GET", f"/v1/loans?service={made['id']}")["items"]
    assert over["until_s"] is not None and over["device_s"] > 0
    assert api.ok("GET", f"/v1/loans?job={loan['job']}")["items"] == [over]
    with psycopg.connect(database) as db:
        assert db.execute("SELECT job FROM lender").fetchall() == []
    tell(api, router)


def test_why_a_service_has_the_replicas_that_it_has(api: Api, fleet: list[Agent]) -> None:
    service = api.ok("POST", "/v1/services", {**SPEC, "replicas": {"min": 2, "max": 3}})
    kinds = ["replicas", "promise"]
    before = api.ok("GET", "/v1/services/cnn/why")
    assert (before["state"], before["placed"]) == ("starting", False)
    assert [r["kind"] for r in before["reasons"]][:2] == kinds
    for _ in range(3):  # it is woken, and then placed
        turn(api, fleet)
    after = api.ok("GET", "/v1/services/cnn/why")
    assert after["state"] == "serving" and [r["kind"] for r in after["reasons"]] == kinds
    assert after["reasons"][0]["detail"] == (
        "2 of 2 wanted replicas answer; 1 more rest until there is load for them, 0 of them in"
        " memory; it may have 2 to 3"
    )
    listed = {j["name"]: j["resting"] for j in api.ok("GET", "/v1/jobs")["items"]}
    assert sorted(listed.values()) == [False, False, True]
    tell(api, api.token("router"), note(service["id"], arrivals=4, done=4, busy=6.0))
    told = {r["kind"]: r["detail"] for r in api.ok("GET", "/v1/services/cnn/why")["reasons"]}
    assert "each replica shall have 2 (concurrency)" in told["load"]
    for agent in fleet:
        api.ok("POST", f"/v1/nodes/{agent.node}/cordon")
    api.ok("PATCH", "/v1/services/cnn", {"replicas": {"min": 3, "max": 3}})
    api.schedule()
    short = api.ok("GET", "/v1/services/cnn/why")
    assert short["state"] == "short"
    waits, *_ = [r for r in short["reasons"] if "cnn-" in r["detail"]]
    assert waits["detail"].partition(":")[0] in listed
    assert api.call("GET", "/v1/services/nobody/why")[0] == 404


def test_owners_rescale_and_update(api: Api, fleet: list[Agent]) -> None:
    api.ok("POST", "/v1/services", SPEC)
    for _ in range(2):
        turn(api, fleet)
    now = api.ok("PATCH", "/v1/services/cnn", {"replicas": {"min": 2, "max": 4}})
    assert (now["replicas"]["min"], now["replicas"]["max"], now["replicas"]["wanted"]) == (2, 4, 2)
    now = api.ok("PATCH", "/v1/services/cnn", {"target": {"rps": 7}})
    assert now["target"] == {"rps": 7.0} and now["replicas"]["max"] == 4
    better = {**SPEC, "run": "python better.py", "replicas": {"min": 2, "max": 4}}
    tried = {"service": better, "canary": {"share": 0.5, "requests": 10}}
    now = api.ok("POST", "/v1/services/cnn/updates", tried)
    assert now["condition"] == "trying" and now["canary"]["revision"] == 2
    for _ in range(3):
        turn(api, fleet)
    router = api.token("router")
    (route,) = table(api, router).routes
    assert (route.canary, route.canary_share) == (2, 0.5)
    assert {e.revision for e in route.endpoints} == {1, 2}
    tell(api, router, note(now["id"], revision=2, arrivals=10, done=4, failed=6))
    turn(api, fleet)
    now = api.ok("GET", "/v1/services/cnn")
    assert now["canary"] is None and now["revision"] == 1
    events = api.ok("GET", "/v1/services/cnn/events")["items"]
    assert "taken back" in next(e["reason"] for e in events if e["event"] == "reverted")


HALF = {"memory": "1GiB", "compute": "50%", "class": "rt"}


def test_replicas_may_have_shares_of_devices(api: Api) -> None:
    """Where nobody gives them out that is said, and they are not more than all devices hold."""
    Agent(api, "whole", devices=2)
    assert "no node gives out shares" in refused(api, 422, share=HALF)
    Agent(api, "flat", devices=2, memory_bytes=3 << 30)
    assert "share.class rt: cpu devices that are large enough cannot be preempted" in refused(
        api, 422, share=HALF
    )
    shares = {"memory_bytes": 3 << 30, "preempts": True}
    agent = Agent(api, "east-1", devices=2, **shares)
    told = refused(api, 422, share=HALF, replicas={"min": 5, "max": 5})
    assert "5 replicas of 50 % and 1 GiB of a cpu" in told and "at most 4" in told
    made = api.ok("POST", "/v1/services", {**SPEC, "share": HALF, "replicas": {"min": 2, "max": 2}})
    assert made["share_of_each"] == "50 % and 1 GiB"
    for _ in range(3):
        turn(api, [agent])
    node = next(n for n in api.ok("GET", "/v1/nodes")["items"] if n["id"] == "east-1")
    assert node["used"] == 1 and [p["compute_milli"] for p in node["parts"]] == [1000]


def refused(api: Api, status: int, **changes: Any) -> str:
    body = {k: v for k, v in {**SPEC, **changes}.items() if v is not None}
    found, answer = api.call("POST", "/v1/services", body)
    assert found == status, answer
    return str(answer["detail"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"replicas": {"min": 3, "max": 2}}, "min (3) is more than max (2)"),
        ({"array": 4}, "array: a service has replicas"),
        ({"elastic": {"min": 1, "max": 2}}, "elastic: a replica has its devices"),
        ({"ranks": 2}, "ranks: a replica is one process"),
        ({"share": HALF, "devices": "cpu:2"}, "share: a replica is one process"),
        ({"share": HALF, "memory": "1GiB"}, "memory: with a share, share.memory is the limit"),
        ({"share": {"memory": "1GiB"}}, "share.compute"),
        ({"target": {"concurrency": 1, "rps": 2}}, "say either concurrency or rps"),
        ({"target": None}, "target"),
        ({"slo": {"attainment": 0.9}}, "say either wait_p99 or latency_p99"),
        ({"env": {"PORT": "1"}}, "PORT is ours"),
        ({"replica": 3}, "did you mean 'replicas'?"),
        ({"kind": "train"}, "kind"),
        ({"health": "healthz"}, "health"),
    ],
)
def test_what_cannot_be_is_refused_by_name(api: Api, changes: dict[str, Any], said: str) -> None:
    assert said in refused(api, 422, **changes)


def test_more_than_the_fleet_could_ever_hold_is_refused_with_numbers(
    api: Api, fleet: list[Agent]
) -> None:
    told = refused(api, 422, replicas={"min": 13, "max": 20})
    assert "13 replicas of 1 cpu" in told and "at most 12" in told
    told = refused(api, 422, replicas={"min": 4, "max": 4}, devices="cpu:3")
    assert "at most 3" in told
    assert "largest gang that fits has 4" in refused(api, 422, devices="cpu:5")
    api.ok("POST", "/v1/services", SPEC)
    status, answer = api.call("PATCH", "/v1/services/cnn", {"replicas": {"min": 13, "max": 13}})
    assert status == 422 and "at most 12" in answer["detail"]
    grown = {"service": {**SPEC, "replicas": {"min": 13, "max": 13}}}
    status, answer = api.call("POST", "/v1/services/cnn/updates", grown)
    assert status == 422 and "at most 12" in answer["detail"]
    now = api.ok("GET", "/v1/services/cnn")
    assert (now["replicas"]["min"], now["revision"]) == (1, 1), "nothing of it was done"


def test_names_keys_and_projects(api: Api, fleet: list[Agent]) -> None:
    made = api.ok("POST", "/v1/services", SPEC, idempotency_key="k")
    assert api.ok("POST", "/v1/services", SPEC, idempotency_key="k")["id"] == made["id"]
    status, answer = api.call(
        "POST", "/v1/services", {**SPEC, "tier": "basic"}, idempotency_key="k"
    )
    assert status == 409 and answer["type"].endswith("idempotency-mismatch")
    status, answer = api.call("POST", "/v1/services", SPEC)
    assert status == 409 and "already" in answer["detail"]
    status, answer = api.call("GET", "/v1/services/cn")
    assert status == 404 and answer["near"] == ["cnn"]
    other = api.token("submitter", "elsewhere")
    assert api.call("GET", "/v1/services/cnn", token=other)[0] == 404
    assert api.ok("GET", "/v1/services", token=other)["items"] == []


def test_a_replica_is_steered_by_its_service_only(api: Api, fleet: list[Agent]) -> None:
    made = api.ok("POST", "/v1/services", SPEC)
    turn(api, fleet)
    job = made["replicas"]["items"][0]["job"] if made["replicas"]["items"] else None
    job = job or api.ok("GET", "/v1/services/cnn")["replicas"]["items"][0]["job"]
    for verb in ("cancel", "suspend", "resume"):
        status, answer = api.call("POST", f"/v1/jobs/{job}/{verb}")
        assert status == 409 and "replica of a service" in answer["detail"]
    status, answer = api.call("POST", "/v1/jobs", SPEC)
    assert status == 422 and "POST /v1/services" in answer["detail"]


def test_only_routers_come_in_by_their_doors_and_by_no_other(api: Api) -> None:
    router = api.token("router")
    for role in ("viewer", "admin"):
        token = api.token(role)
        assert api.call("GET", "/v1/routers/eu/table", token=token)[0] == 403
        assert api.call("POST", "/v1/routers/eu/loads", {"router": "r"}, token)[0] == 403
    for path in ("/v1/jobs", "/v1/services", "/v1/nodes", "/v1/tokens"):
        assert api.call("GET", path, token=router)[0] == 403
    assert api.call("POST", "/v1/routers/eu/loads", {"router": "r"}, router)[0] == 204
    unknown = {"router": "r", "notes": [note("nobody")]}
    assert api.call("POST", "/v1/routers/eu/loads", unknown, router)[0] == 204


def test_a_router_that_waits_is_answered_when_something_changes(
    api: Api, fleet: list[Agent]
) -> None:
    router = api.token("router")
    first = table(api, router)
    url = str(api.http.base_url)
    with httpx.Client(base_url=url, headers=bearer(router), timeout=20.0) as http:
        request = http.build_request("GET", f"/v1/routers/eu/table?after={first.version}")
        api.ok("POST", "/v1/services", SPEC)
        found = Table.model_validate(http.send(request).json())
    assert found.version == first.version + 1 and len(found.routes) == 1


def test_the_document_has_a_schema(api: Api) -> None:
    found = api.ok("GET", "/v1/schema/service")
    assert {"name", "run", "kind", "target"} <= set(found["required"])
    assert found["additionalProperties"] is False
