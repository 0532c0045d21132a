"""What operators do, at the real server's door: noted, undone, or refused with what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.integration.api_client import Agent, Api, run, turn

Json = dict[str, Any]


def operations(api: Api, target: str = "") -> list[Json]:
    where = f"?target={target}" if target else ""
    found: list[Json] = api.ok("GET", f"/v1/operations{where}")["items"]
    return found


def last(api: Api) -> Json:
    return operations(api)[0]


def test_each_operation_is_noted_with_who_why_and_what_it_changed(
    api: Api, fleet: list[Agent]
) -> None:
    api.ok("POST", "/v1/nodes/east-1/cordon", {"reason": "a new fan"})
    done = last(api)
    assert (done["verb"], done["target"], done["reason"]) == ("cordon", "node/east-1", "a new fan")
    assert (done["before"], done["after"]) == ({"duty": "ready"}, {"duty": "cordoned"})
    assert done["actor"] and done["undone_by"] is None
    api.ok("POST", "/v1/nodes/east-1/cordon")
    assert len(operations(api)) == 1, "it was so already"
    drain = api.ok("POST", "/v1/drains", {"target": "eu-north", "reason": "power"})
    api.ok("POST", f"/v1/drains/{drain['id']}/pause")
    api.ok("POST", f"/v1/drains/{drain['id']}/resume")
    api.ok("DELETE", f"/v1/drains/{drain['id']}")
    api.ok("POST", "/v1/evictions/acknowledgements")
    verbs = [o["verb"] for o in operations(api)]
    assert verbs == ["acknowledge", "undrain", "go-on", "pause", "drain", "cordon"]
    assert [o["verb"] for o in operations(api, "region/eu-north")] == ["undrain", "drain"]
    first = api.ok("GET", "/v1/operations?limit=2")
    rest = api.ok("GET", f"/v1/operations?limit=9&cursor={first['next']}")
    assert [o["verb"] for o in (*first["items"], *rest["items"])] == verbs


def test_an_operation_is_undone_once_and_the_undoing_too(api: Api, fleet: list[Agent]) -> None:
    def duty() -> str:
        return str(api.ok("GET", "/v1/nodes/east-1")["duty"])

    api.ok("POST", "/v1/nodes/east-1/cordon")
    first = last(api)
    seen = api.ok("POST", f"/v1/operations/{first['id']}/undo")
    assert seen["undone_by"] == last(api)["id"] and duty() == "ready"
    status, told = api.call("POST", f"/v1/operations/{first['id']}/undo")
    assert status == 409 and "was undone by operation" in told["detail"]
    api.ok("POST", f"/v1/operations/{last(api)['id']}/undo")
    assert duty() == "cordoned"
    assert api.call("POST", "/v1/operations/999/undo")[0] == 404


def test_undo_is_refused_where_the_world_has_moved_on(api: Api, fleet: list[Agent]) -> None:
    api.ok("POST", "/v1/nodes/east-1/cordon")
    cordoned = last(api)
    drain = api.ok("POST", "/v1/drains", {"target": "us-east"})
    drained = last(api)
    status, told = api.call("POST", f"/v1/operations/{cordoned['id']}/undo")
    assert status == 409 and "moved on: duty is 'draining' now" in told["detail"]
    api.ok("POST", f"/v1/operations/{drained['id']}/undo")
    assert api.ok("GET", "/v1/drains")["items"] == []
    undrained = last(api)
    assert (undrained["verb"], undrained["undoes"]) == ("undrain", drained["id"])
    status, told = api.call("POST", f"/v1/operations/{undrained['id']}/undo")
    assert status == 409 and "order the drain again" in told["detail"]
    again = api.ok("POST", "/v1/drains", {"target": "us-east"})
    ordered = last(api)
    api.ok("DELETE", f"/v1/drains/{again['id']}")
    status, told = api.call("POST", f"/v1/operations/{ordered['id']}/undo")
    assert status == 409 and f"there is no drain '{again['id']}' in force" in told["detail"]
    assert drain["id"] != again["id"]


def test_a_node_with_an_unhealthy_device_is_quarantined_and_released(
    api: Api, fleet: list[Agent]
) -> None:
    agent = fleet[0]
    device = {"index": 0, "uuid": "u", "name": "d", "memory_bytes": 1, "used_bytes": 0}
    beat = {"node": agent.node, "epoch": agent.admission.epoch, "acknowledged": agent.seq}

    def found(health: str) -> Json:
        sent = {**beat, "devices": [{**device, "health": health}]}
        api.ok("POST", "/v1/agent/heartbeat", sent, token=agent.token)
        api.schedule()
        seen: Json = api.ok("GET", f"/v1/nodes/{agent.node}")["health"]
        return seen

    assert found("")["quarantine"] is None
    assert found("Xid 79")["quarantine"]["reason"] == "unhealthy devices: 0: Xid 79"
    regions = {r["id"]: r["quarantined"] for r in api.ok("GET", "/v1/regions")["items"]}
    assert regions == {"us-east": 1, "eu-north": 0}
    (noted,) = operations(api, f"node/{agent.node}")
    assert (noted["actor"], noted["verb"]) == ("scheduler", "quarantine")
    assert "Xid 79" in noted["reason"]
    assert found("")["quarantine"], "not before its time"
    api.ok("POST", f"/v1/nodes/{agent.node}/release", {"reason": "a new cable"})
    assert found("")["quarantine"] is None
    released = last(api)
    api.ok("POST", f"/v1/operations/{released['id']}/undo")
    assert found("")["quarantine"]["reason"] == "unhealthy devices: 0: Xid 79"


def test_an_operator_quarantines_for_a_while(api: Api, fleet: list[Agent]) -> None:
    body = {"within": "1h", "drain": True, "reason": "it smells"}
    node = api.ok("POST", "/v1/nodes/east-1/quarantine", body)
    kept = node["health"]["quarantine"]
    assert kept["reason"] == "it smells" and kept["drains"]
    assert kept["until_s"] - kept["since_s"] == 3600.0
    assert api.call("POST", "/v1/nodes/east-1/quarantine", body)[0] == 409
    assert api.call("POST", "/v1/nodes/atlantis/release")[0] == 404


def test_only_a_node_that_nothing_needs_is_removed(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet, place={"regions": "eu-north"})
    node = job["placement"][0]["node"]

    def remove() -> tuple[int, str]:
        status, told = api.call("DELETE", f"/v1/nodes/{node}")
        return status, str(told.get("detail", ""))

    assert remove() == (409, f"{node} may get work at any time; drain it first: "
                        f"singularity drain node/{node}")  # fmt: skip
    drain = api.ok("POST", "/v1/drains", {"target": f"node/{node}", "policy": "suspend"})
    assert "still has 1 jobs; wait until they have left" in remove()[1]
    for _ in range(2):
        turn(api, fleet, step=5)
    assert "stop its agent first" in remove()[1]
    api.serving.ledger.lose({node: api.serving.clock.now_s()}, api.serving.clock.now_s())
    before = api.serving.ledger.snapshot(api.serving.clock.now_s())
    assert remove() == (204, "")
    assert api.call("GET", f"/v1/nodes/{node}")[0] == 404
    assert {r["id"] for r in api.ok("GET", "/v1/regions")["items"]} == {"us-east"}
    assert drain["id"] not in {d["id"] for d in api.ok("GET", "/v1/drains")["items"]}
    after = api.serving.ledger.snapshot(api.serving.clock.now_s())
    assert len(after.nodes) == len(before.nodes) - 1, "who follows the fleet is told"
    told = api.call("POST", f"/v1/operations/{last(api)['id']}/undo")[1]["detail"]
    assert "start its agent" in told
    Agent(api, node, "eu-north")
    assert api.ok("GET", f"/v1/nodes/{node}")["epoch"] == 1, "a new node of an old name"
    assert len(api.ok("GET", "/v1/regions")["items"]) == 2


PLAN = {"name": "switches", "target": "us-east", "every": "sunday 02:00 UTC", "for": "2h"}


def test_maintenance_is_planned_skipped_dropped_and_each_is_undone(
    api: Api, fleet: list[Agent]
) -> None:
    def known() -> list[Json]:
        found: list[Json] = api.ok("GET", "/v1/maintenance")["items"]
        return found

    made = api.ok("POST", "/v1/maintenance", {**PLAN, "bandwidth": "200MB/s", "moves": 2})
    assert (made["target"], made["bytes_per_s"], made["moves"]) == ("region/us-east", 2e8, 2)
    assert made["condition"] == "planned" or made["condition"].startswith("draining")
    assert made["closes_s"] - made["opens_s"] == 7200.0 and made["begins_s"] < made["opens_s"]
    assert api.call("POST", "/v1/maintenance", PLAN)[0] == 409
    skipped = api.ok("POST", "/v1/maintenance/switches/skip")
    assert skipped["opens_s"] == made["opens_s"] + 7 * 86400
    api.ok("POST", f"/v1/operations/{last(api)['id']}/undo")
    assert known()[0]["opens_s"] == made["opens_s"]
    api.ok("DELETE", "/v1/maintenance/switches")
    assert known() == [] and api.call("DELETE", "/v1/maintenance/switches")[0] == 404
    api.ok("POST", f"/v1/operations/{last(api)['id']}/undo")
    assert [m["id"] for m in known()] == ["switches"]
    added = next(o for o in operations(api) if o["verb"] == "maintenance-add")
    api.ok("POST", f"/v1/operations/{added['id']}/undo")
    assert known() == []


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"every": "sundays at 2"}, 422, "no day of the week"),
        ({"for": "8d"}, 422, "for"),
        ({"every": "daily 02:00", "for": "23h"}, 422, "at most 22 h long"),
        ({"target": "atlantis"}, 404, "no place"),
        ({"bandwidth": "fast"}, 422, "is no bandwidth"),
    ],
)
def test_a_wrong_plan_is_answered_with_what_to_do(
    api: Api, fleet: list[Agent], changes: Json, status: int, told: str
) -> None:
    answer = api.call("POST", "/v1/maintenance", {**PLAN, **changes})
    assert answer[0] == status and told in str(answer[1])


def test_a_window_is_drained_by_the_same_round_and_ends_by_itself(
    api: Api, fleet: list[Agent]
) -> None:
    """The window opens in less than what one move and the notice of basic jobs take."""
    soon = datetime.fromtimestamp(api.serving.clock.now_s() + 240.0, UTC)
    every = f"{soon:%A %H:%M} UTC"
    job = run(api, fleet)
    api.ok("POST", "/v1/maintenance", {**PLAN, "target": job["region"], "every": every})
    api.schedule()
    (drain,) = api.ok("GET", "/v1/drains")["items"]
    assert drain["upkeep"] == "switches" and drain["deadline_s"] < drain["until_s"]
    (planned,) = api.ok("GET", "/v1/maintenance")["items"]
    assert planned["condition"] == f"draining by {drain['id']}"
    for _ in range(3):
        turn(api, fleet, step=5)
    assert api.ok("GET", "/v1/jobs/digits")["region"] != job["region"]
    assert operations(api, f"region/{job['region']}")[0]["reason"] == "maintenance switches"
    api.ok("POST", "/v1/maintenance/switches/skip")
    assert api.ok("GET", "/v1/drains")["items"] == []
    api.schedule()
    assert api.ok("GET", "/v1/drains")["items"] == [], "it was given up"


def test_a_rebalance_is_planned_ordered_and_stopped(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet)
    plan = api.call("POST", "/v1/rebalance", {"plan": True})
    assert plan[0] == 200 and plan[1]["clearances"] == []
    assert plan[1]["whole_nodes"] == plan[1]["whole_nodes_then"] == 2
    made = api.ok("POST", "/v1/rebalance", {"target": "us-east", "reason": "gangs wait"})
    assert api.ok("GET", "/v1/rebalance")["items"] == [made]
    status, told = api.call("POST", "/v1/rebalance", {})
    assert status == 409 and f"{made['id']} is in force" in told["detail"]
    api.ok("DELETE", "/v1/rebalance")
    assert api.call("DELETE", "/v1/rebalance")[0] == 404
    api.ok("POST", "/v1/rebalance", {})
    assert last(api)["target"] == "planet"
    api.schedule()
    assert api.ok("GET", "/v1/rebalance")["items"] == [], "there is nothing to gain"
    assert last(api)["reason"] == "nothing is gained by further moves"
