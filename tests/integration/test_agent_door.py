"""What agents may say, and what they are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from singularity.agent.hal import nvml
from singularity.agent.hal.cuda import CudaManager
from singularity.agent.inventory import look
from singularity.primitives.messages import Report
from tests.integration.api_client import ADMIN, JOIN, Agent, Api, run
from tests.standin.cuda import compiler, management
from tests.unit.cli_planet import Planet, items

_SPEC = {"name": "digits", "run": "python train.py", "devices": "cpu:1"}


def test_a_node_speaks_for_itself_only(api: Api, fleet: list[Agent]) -> None:
    one, other = fleet[0], fleet[1]
    beat = {"node": other.node, "epoch": 1, "acknowledged": 0}
    assert api.call("POST", "/v1/agent/heartbeat", beat, one.token)[0] == 403
    report = {"job": "j", "node": other.node, "incarnation": 1, "phase": "running"}
    assert api.call("POST", "/v1/agent/report", {"reports": [report]}, one.token)[0] == 403
    assert api.call("POST", "/v1/agent/register", other.register, one.token)[0] == 403
    assert api.call("POST", "/v1/agent/register", one.register, ADMIN)[0] == 403
    assert api.call("GET", f"/v1/agent/peers/{other.node}", token=one.token)[0] == 403
    bad = {**one.register, "node": "../../etc"}
    assert api.call("POST", "/v1/agent/register", bad, JOIN)[0] == 422


def test_peers_find_each_other_while_they_share_a_job(api: Api, fleet: list[Agent]) -> None:
    job = api.ok("POST", "/v1/jobs", {**_SPEC, "devices": "cpu:8"})
    api.schedule()
    one, other = fleet[0], fleet[1]
    answer = api.ok("GET", f"/v1/agent/peers/{other.node}", token=one.token)
    assert answer == {"node": other.node, "address": "east-2:7000"}
    assert api.call("GET", "/v1/agent/peers/north-1", token=one.token)[0] == 403
    assert job["id"] in api.ok("GET", "/v1/nodes/east-1")["jobs"]


def test_joining_again_revokes_the_token_before(api: Api, fleet: list[Agent]) -> None:
    old = fleet[0]
    new = Agent(api, old.node)
    assert new.admission.epoch == old.admission.epoch + 1  # it came with epoch 0: it knows nothing
    assert api.call("GET", "/v1/agent/letters?epoch=1", token=old.token)[0] == 401
    assert new.letters() == []
    again = {**new.register, "epoch": new.admission.epoch}
    answer = api.ok("POST", "/v1/agent/register", again, token=new.token)
    assert (answer["epoch"], answer["token"]) == (new.admission.epoch, None)


def refused(api: Api, agent: Agent, token: str, **changes: object) -> tuple[int, str]:
    epoch = agent.admission.epoch
    body = {**agent.register, "epoch": epoch, **changes}
    status, told = api.call("POST", "/v1/agent/register", body, token)
    return status, str(told.get("detail", ""))


def test_a_node_stays_where_it_was_until_it_is_forgotten(api: Api, fleet: list[Agent]) -> None:
    agent = fleet[0]
    for change in ({"region": "mars", "cluster": "m"}, {"cluster": "b"}, {"device": "h100"}):
        status, why = refused(api, agent, agent.token, **change)
        assert status == 409 and "singularity nodes remove east-1" in why, change
    assert {r["id"] for r in api.ok("GET", "/v1/regions")["items"]} == {"us-east", "eu-north"}
    assert agent.beat()["admitted"]


def test_a_cluster_is_in_one_region(api: Api, fleet: list[Agent]) -> None:
    status, why = refused(api, fleet[0], JOIN, node="new-1", cluster="eu-north-a", epoch=0)
    assert status == 409 and "is in region eu-north, not in us-east" in why
    assert api.call("GET", "/v1/nodes/new-1")[0] == 404


def test_what_jobs_hold_of_a_node_cannot_be_gone(api: Api, fleet: list[Agent]) -> None:
    """It was an internal error, again and again."""
    job = run(api, fleet, devices="cpu:4")
    agent = next(a for a in fleet if a.node == job["placement"][0]["node"])
    status, why = refused(api, agent, agent.token, devices=2)
    assert status == 409 and "jobs hold 4 of it" in why
    assert refused(api, agent, agent.token, devices=8) == (200, "")
    assert api.ok("GET", f"/v1/nodes/{agent.node}")["devices"] == 8


@pytest.mark.parametrize(
    "strange",
    [{"devices": 10**9}, {"rack": "\0"}, {"rack": "r" * 64}, {"memory_bytes": 10**30}],
)
def test_a_node_is_nothing_out_of_this_world(
    api: Api, fleet: list[Agent], strange: dict[str, object]
) -> None:
    assert refused(api, fleet[0], fleet[0].token, **strange)[0] == 422


def test_a_beat_of_an_epoch_that_is_over_is_not_admitted(api: Api, fleet: list[Agent]) -> None:
    agent = fleet[0]
    pulse = agent.beat()
    assert pulse["admitted"] and pulse["lease_s"] == api.serving.settings.lease_s
    body = {"node": agent.node, "epoch": 7, "acknowledged": 0}
    answer = api.ok("POST", "/v1/agent/heartbeat", body, token=agent.token)
    assert not answer["admitted"]


def test_reports_of_unknown_jobs_need_not_be_repeated(api: Api, fleet: list[Agent]) -> None:
    gone = Report(job="none", node=fleet[0].node, incarnation=3, phase="stopped")
    assert fleet[0].beat(gone)["forget"] == [["none", 3]]
    body = {"reports": [gone.model_dump(mode="json")]}
    answer = api.ok("POST", "/v1/agent/report", body, token=fleet[0].token)
    assert answer == {"forget": [["none", 3]]}


def test_devices_are_those_that_a_node_said_last(api: Api, fleet: list[Agent]) -> None:
    agent = fleet[0]
    first = {"index": 0, "uuid": "GPU-a", "name": "H200", "memory_bytes": 1000, "used_bytes": 10}
    second = {**first, "index": 1, "uuid": "GPU-b", "health": "7 uncorrected memory errors"}
    body = {"node": agent.node, "epoch": agent.admission.epoch, "acknowledged": 0}
    for devices in ([first], [first, second]):
        api.ok("POST", "/v1/agent/heartbeat", {**body, "devices": devices}, token=agent.token)
    agent.beat()  # it says nothing of devices, so what was said before stands
    found = api.ok("GET", "/v1/accelerators")["items"]
    assert [device["id"] for device in found] == [f"{agent.node}/0", f"{agent.node}/1"]
    assert found[1]["health"] == "7 uncorrected memory errors" and not found[0]["health"]
    assert found[0]["temperature_c"] is None and found[0]["region"] == "us-east"
    late = {**body, "epoch": 99, "devices": []}
    api.ok("POST", "/v1/agent/heartbeat", late, token=agent.token)
    assert len(api.ok("GET", "/v1/accelerators")["items"]) == 2, "it is not admitted"
    bad = {**body, "devices": [{**first, "utilisation": 3.0}]}
    assert api.call("POST", "/v1/agent/heartbeat", bad, agent.token)[0] == 422


def test_what_ranks_lost_beside_others_counts_as_not_given(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet)
    agent = next(a for a in fleet if a.node == job["placement"][0]["node"])
    sharer = {"job": job["id"], "rank": 0, "incarnation": job["incarnation"], "precedence": "be"}
    sharer |= {"compute_milli": 500, "used_bytes": 0, "cap_bytes": 0, "held_s": 90.0}
    device = {"index": 0, "uuid": "u", "name": "n", "memory_bytes": 1000, "used_bytes": 10}
    body = {"node": agent.node, "epoch": agent.admission.epoch, "acknowledged": agent.seq}
    for lost_s in (4.0, 50.0, 50.0, 55.0):  # the first and the last are too little to be written
        devices = [{**device, "sharers": [{**sharer, "lost_s": lost_s}]}]
        api.ok("POST", "/v1/agent/heartbeat", {**body, "devices": devices}, token=agent.token)
    told = api.ok("GET", f"/v1/jobs/{job['id']}")
    assert told["share"]["lost_s"] == 50.0 and told["version"] == job["version"] + 1
    assert told["share"]["given_s"] < 10.0, "what it had was no more than what it lost"
    other = next(a for a in fleet if a.node != agent.node)
    devices = [{**device, "sharers": [{**sharer, "lost_s": 500.0}]}]
    body = {"node": other.node, "epoch": other.admission.epoch, "acknowledged": other.seq}
    api.ok("POST", "/v1/agent/heartbeat", {**body, "devices": devices}, token=other.token)
    told = api.ok("GET", f"/v1/jobs/{job['id']}")
    assert told["share"]["lost_s"] == 50.0, "a node speaks of what runs there"


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
def test_what_nvml_tells_is_shown(
    api: Api, fleet: list[Agent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the driver's library to the command line: memory, load, heat, health, links."""
    monkeypatch.setattr(nvml, "_LIBRARY", str(management(tmp_path)))
    agent, found = fleet[0], look(CudaManager(), {})
    body = {"node": agent.node, "epoch": agent.admission.epoch, "acknowledged": 0}
    devices = [note.model_dump(mode="json") for note in found]
    api.ok("POST", "/v1/agent/heartbeat", {**body, "devices": devices}, token=agent.token)
    told = api.ok("GET", "/v1/accelerators")["items"]
    planet = Planet({"GET /v1/accelerators": items(*told)})
    listed, top = planet.run("devices").stdout, planet.run("top").stdout
    for shown in (listed, top):
        assert "stand-in" in shown and "25%" in shown and "61 C" in shown
        assert "7 uncorrected memory errors" in " ".join(shown.split())
    assert "100 B of 1000 B" in top and "reaches 1" in top
    wide = planet.run("devices", "-o", "wide").stdout
    assert "GPU-1" in wide and "LINKS" in wide
    node = next(n for n in api.ok("GET", "/v1/nodes")["items"] if n["id"] == agent.node)
    assert node["health"]["sick"], "and the node is known to have an unwell device"
