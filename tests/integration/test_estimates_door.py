"""At the real server's door: why a job waits and until when, and how such estimates have held."""

from __future__ import annotations

from sqlalchemy import update

from singularity.api import tables as t
from singularity.api.estimates import Estimates
from singularity.scheduler.decide import decide
from tests.integration.api_client import SPEC, Agent, Api, run, turn


def note(api: Api) -> int:
    """As the loop does after a round."""
    serving = api.serving
    snapshot, policy = serving.ledger.snapshot(serving.clock.now_s()), serving.settings.policy()
    return Estimates(serving.engine).note(snapshot, decide(snapshot, policy), policy)


def test_an_estimate_is_made_once_for_each_life_and_held_against_what_came(
    api: Api, fleet: list[Agent]
) -> None:
    held = [run(api, fleet, name=f"holder-{a.node}", devices="cpu:4") for a in fleet]
    job = api.ok("POST", "/v1/jobs", {**SPEC, "name": "next", "devices": "cpu:4"})
    turn(api, fleet)
    assert (note(api), note(api)) == (1, 0)
    why = api.ok("GET", f"/v1/jobs/{job['id']}/why")
    assert 0.0 < why["eta"]["p50_s"] <= why["eta"]["p90_s"]
    assert why["eta"]["after"] in {h["id"] for h in held}
    assert why["calibration"] == {"made": 0, "p50_held": 0, "p90_held": 0}
    assert {c["kind"] for c in why["changes"]} >= {"wait"}
    api.ok("POST", f"/v1/jobs/{held[0]['id']}/cancel")
    for _ in range(3):
        turn(api, fleet)
    assert api.ok("GET", f"/v1/jobs/{job['id']}")["state"] == "running"
    now_s = api.serving.clock.now_s()
    assert api.serving.estimates.calibration(now_s).p90_held == 1
    running = api.ok("GET", f"/v1/jobs/{job['id']}/why")
    assert running["eta"] is None and running["changes"] == []


def test_who_should_have_started_and_still_waits_is_one_that_did_not_hold(
    api: Api, fleet: list[Agent]
) -> None:
    for agent in fleet:
        run(api, fleet, name=f"holder-{agent.node}", devices="cpu:4")
    api.ok("POST", "/v1/jobs", {**SPEC, "name": "next", "devices": "cpu:4"})
    turn(api, fleet)
    note(api)
    now_s, estimates = api.serving.clock.now_s(), api.serving.estimates
    assert estimates.calibration(now_s).made == 0, "its time has not come"
    with api.serving.engine.begin() as db:
        db.execute(update(t.estimate).values(p50_at_s=now_s - 2.0, p90_at_s=now_s - 1.0))
    found = estimates.calibration(now_s)
    assert (found.made, found.p50_held, found.p90_held) == (1, 0, 0)


def test_of_jobs_of_others_it_is_told_when_and_not_which(api: Api, fleet: list[Agent]) -> None:
    for agent in fleet:
        run(api, fleet, name=f"secret-{agent.node}", devices="cpu:4", project="theirs")
    mine = api.token("submitter", "mine")
    job = api.ok("POST", "/v1/jobs", {**SPEC, "name": "next", "devices": "cpu:4"}, mine)
    turn(api, fleet)
    why = api.ok("GET", f"/v1/jobs/{job['id']}/why", token=mine)
    assert why["eta"]["p50_s"] > 0 and why["eta"]["after"] is None
    assert "secret" not in str(why)
    assert api.ok("GET", f"/v1/jobs/{job['id']}/why")["eta"]["after"] is not None
