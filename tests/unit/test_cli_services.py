"""The commands about services: what they ask for, and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_planet import Planet, items

SPEC = "name: cnn\nkind: serve\nrun: python serve.py\ntarget: {concurrency: 2}\n"


def service(**changes: Any) -> dict[str, Any]:
    replica = {"job": "j1", "name": "cnn-1-0", "state": "running", "ready": True, "node": "n0"}
    return {
        "id": "s1",
        "name": "cnn",
        "tier": "premium",
        "condition": "serving",
        "message": "1 to 2 replicas: load 3",
        "replicas": {"min": 1, "max": 4, "wanted": 2, "ready": 1, "items": [replica]},
        "load": {"rps": 12.5, "concurrency": 3.0, "queued": 7},
        "slo": {"promised": 0.99, "attained": 0.975},
        "hour": {"arrivals": 100, "failed": 1, "shed": 2, "wait_p99_s": 0.25},
        "borrowed": {"devices": 3, "from": [{"job": "train", "devices": 3}]},
        **changes,
    }


def answer(status: int = 200, **changes: Any) -> httpx.Response:
    return httpx.Response(status, json=service(**changes))


def test_services_are_listed_with_their_load_and_promise() -> None:
    result = Planet({"GET /v1/services": items(service())}).run("services")
    assert result.exit_code == 0
    for word in ("cnn", "serving", "1/2", "1 to 4", "12.5", "97.50% of 99.00%"):
        assert word in result.stdout


def test_a_service_is_described_by_its_name_alone() -> None:
    planet = Planet({"GET /v1/services/cnn": [answer(), answer()]})
    result = planet.run("service", "cnn")
    assert result.exit_code == 0, result.stderr
    for word in ("cnn-1-0", "3 from train", "wait p99 250 ms", "load 3"):
        assert word in result.stdout
    assert json.loads(planet.run("service", "cnn", "-o", "json").stdout) == service()


def test_a_canary_is_told() -> None:
    tried = {"revision": 2, "requests": 100, "served": 40, "attained": 1.0}
    result = Planet({"GET /v1/services/cnn": answer(canary=tried)}).run("service", "cnn")
    assert "revision 2 is on trial: it has served 40 of 100" in result.stdout


def test_a_file_of_kind_serve_makes_a_service(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(SPEC)
    planet = Planet({"POST /v1/services": answer(201)})
    assert planet.run("run", str(file), "--tier", "premium").exit_code == 0
    sent = planet.body()
    assert (
        sent["name"] == "cnn"
        and sent["tier"] == "premium"
        and "Idempotency-Key" in (planet.asked[0].headers)
    )


def test_waiting_for_a_service_ends_when_it_serves(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(SPEC)
    seen = [answer(condition="starting"), answer()]
    planet = Planet({"POST /v1/services": answer(201), "GET /v1/services/s1": list(seen)})
    assert planet.run("run", str(file), "--wait").exit_code == 0
    assert len(planet.asked) == 3


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("--max 8", {"replicas": {"min": 1, "max": 8}}),
        ("--min 2 --max 8", {"replicas": {"min": 2, "max": 8}}),
        ("--rps 5", {"target": {"rps": 5.0}}),
    ],
)
def test_scaling_sends_what_was_said_and_keeps_the_rest(line: str, body: object) -> None:
    answers: dict[str, Any] = {"GET /v1/services/cnn": answer(), "PATCH /v1/services/cnn": answer()}
    planet = Planet(answers)
    assert planet.run("service", "scale", "cnn", *line.split()).exit_code == 0
    assert planet.body() == body
    assert planet.run("service", "scale", "cnn").exit_code == 2


def test_an_update_sends_the_file_and_how_to_try_it(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(SPEC)
    planet = Planet({"POST /v1/services/cnn/updates": [answer(202), answer(202)]})
    assert planet.run("service", "update", str(file)).exit_code == 0
    assert "canary" not in planet.body() and planet.body()["service"]["run"] == "python serve.py"
    line = ("--canary", "0.2", "--requests", "500", "--within", "10m")
    assert planet.run("service", "update", str(file), *line).exit_code == 0
    assert planet.body()["canary"] == {"share": 0.2, "requests": 500, "within": "10m"}


def test_an_update_starts_where_it_was_typed_as_the_first_revision_did(tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(SPEC)
    planet = Planet({"POST /v1/services/cnn/updates": answer(202)})
    here = "http://127.0.0.1:8080"
    assert planet.run("service", "update", str(file), url=here).exit_code == 0
    assert planet.body()["service"]["workdir"] == str(Path.cwd())


def test_stopping_and_events() -> None:
    event = {"seq": 1, "at_s": 0.0, "event": "scaled", "reason": "1 to 2 replicas"}
    planet = Planet(
        {
            "DELETE /v1/services/cnn": answer(202, condition="ending"),
            "GET /v1/services/cnn/events": items(event),
        }
    )
    assert "ending" in planet.run("service", "stop", "cnn").stdout
    assert "1 to 2 replicas" in planet.run("service", "events", "cnn").stdout


def test_loans_tell_who_lent_what_for_how_long() -> None:
    loan = {"service": "s1", "job": "j1", "name": "train", "devices": 2, "since_s": 0.0}
    loan |= {"seconds": 90.0, "device_s": 180.0, "price_device_s": 0.8, "of_asked": 0.05}
    planet = Planet({"GET /v1/loans": items(loan)})
    result = planet.run("loans", "--service", "cnn")
    assert all(word in result.stdout for word in ("train", "1m30s", "180", "0.8", "5.0%"))
    assert planet.asked[0].url.params["service"] == "cnn"
