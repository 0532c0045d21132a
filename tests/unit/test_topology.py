"""What owners say about how their ranks lie to each other, all the way through decide()."""

from __future__ import annotations

from typing import Any

import pytest

from singularity.api.schemas import read_job
from singularity.primitives.errors import InvalidSpec
from singularity.primitives.model import JobId, Tier
from singularity.primitives.nodes import Duty, Scope, ScopeKind
from singularity.primitives.topology import Near, Topology
from tests.unit.fleets import Planet


def racks() -> Planet:
    """One cluster of two racks of two nodes of 4 devices."""
    planet = Planet(regions=())
    for number in range(4):
        planet.join(f"n{number}", "us", rack=f"r{number // 2}")
    return planet


def submit(planet: Planet, name: str, devices: int, **topology: Any) -> JobId:
    return planet.submit(name, devices, topology=Topology(**topology))


def where(planet: Planet, job: JobId) -> dict[str, int]:
    return {s.node: s.devices for s in planet.job(job).placement}


def why(planet: Planet, job: JobId) -> str:
    return " ".join(r.detail for r in planet.plan().pending[job])


def test_a_gang_stays_in_its_rack_or_waits() -> None:
    planet = racks()
    planet.submit("filler", 2)
    close, wide = (submit(planet, n, 8, same_rack=True) for n in ("close", "wide"))
    planet.tick()
    assert where(planet, close) == {"n2": 4, "n3": 4}
    assert "no rack has 8 cpu free for it; the best is us-a/r0 with 6" in why(planet, wide)


def test_a_preferred_node_or_rack_is_taken_where_there_is_room() -> None:
    planet = racks()
    planet.submit("filler", 1)
    paired = submit(planet, "paired", 8, prefer=Near.RACK)
    planet.tick()
    assert where(planet, paired) == {"n2": 4, "n3": 4}
    torn = submit(planet, "torn", 7, prefer=Near.RACK)
    planet.tick()
    assert where(planet, torn) == {"n0": 3, "n1": 4}
    assert where(planet, JobId("filler")) == {"n0": 1}


def test_a_gang_is_spread_over_racks_and_nodes() -> None:
    planet = racks()
    over_racks = submit(planet, "racks", 2, spread=Near.RACK)
    over_nodes = submit(planet, "nodes", 4, spread=Near.NODE)
    planet.tick()
    assert where(planet, over_racks) == {"n0": 1, "n2": 1}
    assert where(planet, over_nodes) == {"n0": 1, "n1": 1, "n2": 1, "n3": 1}


def test_a_group_never_meets_on_a_node_not_even_within_a_round() -> None:
    planet = racks()
    jobs = [submit(planet, f"replica-{n}", 1, apart="replicas") for n in range(5)]
    planet.tick()
    placed = [where(planet, job) for job in jobs[:4]]
    assert sorted(n for found in placed for n in found) == ["n0", "n1", "n2", "n3"]
    assert "4 nodes hold others of its group replicas" in why(planet, jobs[4])
    other = planet.submit("other", 1, topology=Topology(apart="replicas"), project="another")
    planet.tick()
    assert len(where(planet, other)) == 1


def test_nobody_of_a_group_is_made_room_for_beside_another() -> None:
    """Reclaiming devices of a node where the group is already would not help."""
    planet = racks()
    first = submit(planet, "first", 4, apart="pair")
    fillers = [planet.submit(f"filler-{n}", 4, tier=Tier.BASIC) for n in range(3)]
    planet.run(first, *fillers)
    second = planet.submit("second", 4, tier=Tier.PREMIUM, topology=Topology(apart="pair"))
    plan = planet.plan()
    taken = {a.job for a in plan.actions}
    assert len(taken) == 1 and taken <= set(fillers) and second in plan.pending


def test_who_moves_keeps_away_from_its_group() -> None:
    planet = racks()
    first, second = (submit(planet, n, 2, apart="pair") for n in ("first", "second"))
    planet.run(first, second)
    (node,) = where(planet, first)
    planet.ledger.set_duty(Scope(ScopeKind.NODE, node), Duty.DRAINING, planet.now_s)
    (action,) = planet.tick().actions
    assert action.job == first
    assert not {s.node for s in action.placement} & set(where(planet, second))


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ({"spread": "rack", "same_rack": True}, "cannot be spread over racks"),
        ({"spread": "node", "prefer": "node"}, "kept together and spread"),
        ({"spread": "node", "same_node": True}, "kept together and spread"),
        ({"spread": "planet"}, "spread"),
        ({"apart": "Not A Name"}, "apart"),
    ],
)
def test_what_cannot_be_is_refused(place: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read_job({"name": "job", "run": "x", "place": place})
    assert told in caught.value.detail


def test_what_is_written_arrives() -> None:
    place = {"same_rack": True, "prefer": "node", "apart": "replicas"}
    found = read_job({"name": "job", "run": "x", "place": place}).spec("job", ())
    assert found.topology == Topology(True, Near.NODE, None, "replicas")
