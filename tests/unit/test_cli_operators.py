"""What operators do on the command line: nodes, drains, maintenance, and who undoes what."""

from __future__ import annotations

import httpx
from cli_planet import Planet, items, problem


def test_the_options_of_a_drain_are_sent_as_said() -> None:
    view = {"id": "d1", "target": "region/us-east"}
    planet = Planet({"POST /v1/drains": httpx.Response(201, json=view)})
    line = "drain us-east --within 2h --policy stop-basic-first --moves 2 --reason switches"
    assert planet.run(*line.split()).exit_code == 0
    wanted = {"within": "2h", "policy": "stop-basic-first", "moves": 2, "reason": "switches"}
    assert planet.body() == {"target": "us-east", **wanted}


def test_a_plan_of_a_drain_lists_departures_and_sums_them_up() -> None:
    goes = {"job": "j1", "name": "train", "tier": "premium", "devices": 4, "how": "move"}
    goes |= {"to": ["eu-north"], "bytes": 2_000_000, "begins_s": 0.0, "pause_s": 3.0, "why": "so"}
    body = {"target": "region/us-east", "departures": [goes], "ends_s": 3.0, "bytes": 2_000_000}
    planet = Planet({"POST /v1/drains": httpx.Response(200, json=body)})
    result = planet.run("drain", "us-east", "--plan")
    assert planet.body()["plan"] is True
    assert "eu-north" in result.stdout and "train" in result.stdout
    assert "empty after 3.0s" in result.stderr


def test_sla_shows_fractions_as_people_read_them() -> None:
    row = {"project": "vision", "tier": "premium", "jobs": 3, "short": 1}
    planet = Planet({"GET /v1/sla": items({**row, "fraction": 0.934, "promised": 0.95})})
    result = planet.run("sla")
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("vision", "premium", "93.4%", "95.0%"))


def test_a_drain_is_paused_by_its_target() -> None:
    view = {"id": "d1", "target": "node/n0", "paused": True}
    planet = Planet(
        {"GET /v1/drains": items(view), "POST /v1/drains/d1/pause": httpx.Response(200, json=view)}
    )
    result = planet.run("drains", "n0", "--pause")
    assert result.exit_code == 0 and "paused" in result.stdout
    assert planet.run("drains", "--pause").exit_code != 0, "of which?"


def test_a_drain_is_undone_by_its_target() -> None:
    drains = items({"id": "d1", "target": "node/n0"}, {"id": "d2", "target": "region/us-east"})
    planet = Planet({"GET /v1/drains": drains, "DELETE /v1/drains/d2": httpx.Response(204)})
    assert planet.run("drain", "us-east", "--undo").exit_code == 0
    assert planet.asked[-1].method == "DELETE"


def test_undoing_a_drain_that_is_not_there_says_which_are() -> None:
    planet = Planet({"GET /v1/drains": items({"id": "d1", "target": "node/n0"})})
    result = planet.run("drain", "us-east", "--undo")
    assert result.exit_code == 3
    assert "node/n0" in result.stderr


def test_an_operator_sees_who_was_evicted_and_says_that_it_is_right() -> None:
    told = {"job": "job-1", "name": "digits", "at_s": 0.0, "reason": "gives 4 devices to x"}
    told |= {"for": {"job": "x", "name": "urgent", "project": "theirs"}}
    planet = Planet(
        {
            "GET /v1/evictions": items(told),
            "POST /v1/evictions/acknowledgements": httpx.Response(201, json={"items": []}),
        }
    )
    listed = planet.run("evictions").stdout
    assert "digits" in listed and "urgent" in listed
    assert planet.run("evictions", "--acknowledge").exit_code == 0
    assert planet.asked[-1].method == "POST"


def test_nodes_are_listed_with_how_they_are_and_one_is_shown_with_its_faults() -> None:
    quarantine = {"since_s": 0.0, "until_s": None, "reason": "within 60 min: failed starts × 3"}
    fault = {"at_s": 0.0, "kind": "start", "job": "j1", "detail": "no namespaces"}
    health = {"quarantine": quarantine, "sick": [], "times": 1, "faults": [fault]}
    view = {"id": "n0", "region": "r", "cluster": "c", "devices": 4, "epoch": 1, "health": health}
    done = {"id": 7, "at_s": 0.0, "actor": "scheduler", "verb": "quarantine", "target": "node/n0"}
    planet = Planet(
        {
            "GET /v1/nodes": items(view),
            "GET /v1/nodes/n0": httpx.Response(200, json=view),
            "GET /v1/operations": items({**done, "reason": "failed starts"}),
        }
    )
    assert "quarantined" in planet.run("nodes").stdout
    shown = planet.run("nodes", "show", "n0").stdout
    for text in ("failed starts × 3", "no namespaces", "scheduler"):
        assert text in shown


def test_operations_are_listed_and_undone() -> None:
    cordon = {"id": 7, "at_s": 0.0, "actor": "ann", "verb": "cordon", "target": "node/n0"}
    cordon |= {"before": {"duty": "ready"}, "after": {"duty": "cordoned"}, "reason": "a fan"}
    undone = {**cordon, "undone_by": 8}
    answers = {
        "GET /v1/operations": items(cordon),
        "GET /v1/operations/7": httpx.Response(200, json=cordon),
        "POST /v1/operations/7/undo": [
            httpx.Response(200, json=undone),
            problem(409, "conflict", "operation 7 was undone by operation 8"),
        ],
    }
    planet = Planet(answers)
    assert "a fan" in planet.run("operations", "ls", "--target", "node/n0").stdout
    assert "duty=cordoned" in planet.run("operations", "show", "7").stdout
    assert "undone by 8" in planet.run("operations", "undo", "7").stdout
    again = planet.run("operations", "undo", "7")
    assert again.exit_code == 4 and "was undone by" in again.stderr


def test_maintenance_is_planned_as_it_was_said() -> None:
    view = {"id": "switches", "target": "region/us-east", "every": "sunday 02:00 UTC"}
    view |= {"length_s": 7200.0, "opens_s": 4e9, "begins_s": 4e9 - 600, "condition": "planned"}
    planet = Planet(
        {
            "POST /v1/maintenance": httpx.Response(201, json=view),
            "GET /v1/maintenance": items(view),
            "POST /v1/maintenance/switches/skip": httpx.Response(200, json=view),
            "DELETE /v1/maintenance/switches": httpx.Response(204),
        }
    )
    line = ["maintenance", "add", "switches", "us-east", "--every", "sunday 02:00 UTC"]
    assert planet.run(*line, "--for", "2h", "--bandwidth", "200MB/s").exit_code == 0
    asked = {"name": "switches", "target": "us-east", "every": "sunday 02:00 UTC", "for": "2h"}
    assert planet.body() == {**asked, "policy": "migrate", "bandwidth": "200MB/s"}
    for command in ("ls", "skip switches", "rm switches"):
        result = planet.run("maintenance", *command.split())
        assert result.exit_code == 0, result.stderr


def test_a_plan_of_a_rebalance_tells_moves_prices_and_gains() -> None:
    move = {"job": "j1", "name": "digits", "devices": 1, "to": ["n1"], "price": "5"}
    clearance = {"node": "n0", "cluster": "c", "devices": 8, "moves": [move]}
    clearance |= {"cost_device_s": 5.0, "worth_device_s": 4800.0}
    plan = {"clearances": [clearance], "moves": 1, "cost_device_s": 5.0, "worth_device_s": 4800.0}
    plan |= {"whole_nodes": 3, "whole_nodes_then": 4, "at_a_time": 16}
    made = httpx.Response(201, json={"id": "rebalance-1"})
    answers = [httpx.Response(200, json=plan), made]
    planet = Planet({"POST /v1/rebalance": list(answers), "DELETE /v1/rebalance": made})
    told = planet.run("rebalance", "--plan")
    assert "digits to n1" in told.stdout and "3 nodes are free as a whole, 4 then" in told.stderr
    assert "rebalance-1 is in force" in planet.run("rebalance", "us-east").stderr
    assert planet.body() == {"target": "us-east"}
    assert planet.run("rebalance", "--stop").exit_code == 0


SHARED = {
    "id": "n0/0",
    "name": "2 processors",
    "memory_bytes": 8 << 30,
    "used_bytes": 3 << 30,
    "utilisation": 0.5,
    "temperature_c": 61,
    "links": [1],
    "given": {"compute_milli": 900, "memory_bytes": 5 << 30},
    "sharers": [
        {
            **{"job": "job-1", "name": "serve", "rank": 0, "precedence": "rt", "busy": 0.2},
            **{"compute_milli": 300, "used_bytes": 1 << 30, "cap_bytes": 2 << 30},
            **{"slowdown": 1.04, "held_s": 2.0, "lost_s": 0.0, "complaint": ""},
        },
        {
            **{"job": None, "name": None, "rank": 3, "precedence": "be", "busy": None},
            **{"compute_milli": 600, "used_bytes": 0, "cap_bytes": 3 << 30},
            **{"slowdown": None, "complaint": "no cgroup"},
        },
    ],
}


FARES = ["20%", "1.04x", "2.0s", "0.0s"]


def test_top_shows_who_is_on_each_device_and_what_they_do_to_each_other() -> None:
    planet = Planet({"GET /v1/accelerators": items(SHARED, {"id": "n0/1", "name": "H200"})})
    lines = [line.split() for line in planet.run("top").stdout.splitlines()]
    assert lines[1][:7] == ["n0/0", "2", "processors", "90%", "3.0", "GiB", "of"]
    assert lines[2] == ["serve#0", "rt", "30%", "1.0", "GiB", "of", "2.0", "GiB", *FARES]
    assert (
        " ".join(lines[3]) == "of another project#3 be 60% 0 B of 3.0 GiB - - 0.0s 0.0s no cgroup"
    )
    assert lines[1][-2:] == ["reaches", "1"] and "61 C" in " ".join(lines[1])
    assert lines[4][:3] == ["n0/1", "H200", "-"]
    listed = planet.run("devices").stdout
    assert "90% serve#0 rt 1.04x, of another project#3 be" in listed
