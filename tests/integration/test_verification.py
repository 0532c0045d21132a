"""Preflight and verification on a real planet: asked over HTTP, answered by a certificate."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from singularity.agent.proof import find_criu, probe
from singularity.cli.embedded import Planet
from singularity.cli.fleet import Cluster, Fleet, Region

SCRIPT = Path(__file__).parent / "jobs" / "compared.py"
FLEET = Fleet(regions={"here": Region(clusters={"a": Cluster(nodes=2, devices=2)})})
PATIENCE_S = 180.0
Json = dict[str, Any]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok,
    reason="CRIU does not run here as root",
)


@pytest.fixture
def planet(tmp_path: Path) -> Iterator[Planet]:
    with Planet(tmp_path / "data", FLEET) as made:
        yield made


@pytest.fixture
def http(planet: Planet) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {planet.token}"}
    with httpx.Client(base_url=f"{planet.url}/v1/", headers=headers, timeout=30) as client:
        yield client


def ask(http: httpx.Client, method: str, path: str, body: object = None) -> Json:
    response = http.request(method, path, json=body)
    assert response.is_success, response.text
    found: Json = response.json()
    return found


def until(http: httpx.Client, job: str, ready: Callable[[Json], object]) -> Json:
    deadline_s = time.monotonic() + PATIENCE_S
    while not ready(found := ask(http, "GET", f"jobs/{job}")):
        assert time.monotonic() < deadline_s, (found, ask(http, "GET", f"jobs/{job}/events"))
        time.sleep(0.1)
    return found


def submit(http: httpx.Client, out: Path, name: str, *options: str, preflight: bool) -> str:
    run = [sys.executable, str(SCRIPT), "--steps", "1000000", "--out", str(out), *options]
    spec = {"name": name, "run": run, "devices": "cpu:1"}
    spec |= {"checkpoint": {"every": "never", "preflight": preflight}}
    return str(ask(http, "POST", "jobs", spec)["id"])


def test_a_preflight_certifies_a_job_and_a_verification_tells_one_that_differs(
    http: httpx.Client, tmp_path: Path
) -> None:
    job = submit(http, tmp_path, "steady", preflight=True)
    found = until(http, job, lambda j: j["certificate"])
    told = found["certificate"]
    assert (told["finding"], told["parameters"]) == ("identical", "identical"), told
    assert told["facts"]["engine"].startswith("CRIU 4")
    assert told["step"] > 0
    assert found["state"] == "running"
    assert found["incarnation"] == 1, "it was never stopped"
    events = ask(http, "GET", f"jobs/{job}/events")["items"]
    assert [e["facts"]["finding"] for e in events if e["event"] == "certified"] == ["identical"]
    shadow = until(http, told["by"], lambda j: j["state"] == "succeeded")
    assert (shadow["kind"], shadow["name"]) == ("verify", "steady-verify")
    ask(http, "POST", f"jobs/{job}/cancel")

    other = submit(http, tmp_path, "clocked", "--by-the-clock", preflight=False)
    until(http, other, lambda j: j["state"] == "running")
    ask(http, "POST", f"jobs/{other}/verifications", {"steps": 4})
    told = until(http, other, lambda j: j["certificate"])["certificate"]
    assert told["finding"] == "differs", told
    assert told["step"] <= told["differs_at"] <= told["step"] + 4
    assert ask(http, "GET", f"jobs/{other}")["state"] == "running"
    ask(http, "POST", f"jobs/{other}/cancel")


def test_a_job_goes_back_to_an_earlier_checkpoint_and_does_the_same_again(
    http: httpx.Client, tmp_path: Path
) -> None:
    """What it had written since is cut off, and comes again, byte by byte."""
    job = submit(http, tmp_path, "back", preflight=False)
    log = tmp_path / "loss-0.csv"

    def steps() -> int:
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def saved(cut: int) -> Json:
        until(http, job, lambda _: steps() > 20 * cut)
        ask(http, "POST", f"jobs/{job}/checkpoints")
        found = until(http, job, lambda j: j["checkpoint"] and j["checkpoint"]["cut"] == cut)
        return dict(found["checkpoint"])

    first, _ = saved(1), saved(2)
    until(http, job, lambda _: steps() > 80)
    before = log.read_bytes()
    name = f"{first['incarnation']}-{first['cut']}"
    assert http.post(f"jobs/{job}/checkpoints/7-7/restore").status_code == 404
    ask(http, "POST", f"jobs/{job}/checkpoints/{name}/restore")
    until(http, job, lambda j: j["incarnation"] == 2 and j["state"] == "running")
    until(http, job, lambda _: len(log.read_bytes()) > len(before))
    assert log.read_bytes().startswith(before)
    told = [e["reason"] for e in ask(http, "GET", f"jobs/{job}/events")["items"]]
    back = f"its owner chose to go back to step {first['step']}: what came after is given up"
    assert back in told
    kept = ask(http, "GET", f"jobs/{job}/checkpoints")["items"]
    assert [(c["incarnation"], c["cut"]) for c in kept] == [(1, first["cut"])]
    ask(http, "POST", f"jobs/{job}/cancel")
