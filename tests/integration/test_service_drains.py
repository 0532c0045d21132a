"""Drains of a region in which a service answers, on real processes: whoever is killed in the middle
and whoever changes their mind, no request is lost or done twice, and no work of trainings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from singularity.agent.proof import find_criu, probe
from tests.integration.served import Story, planet

ROOMY = {"target": {"concurrency": 4}, "replicas": {"min": 1, "max": 2}, "grace": "100s"}

pytestmark = pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    with planet(tmp_path, 6, "north", "south", pause_s=0.05) as found:
        yield found


def elsewhere(region: str) -> str:
    return "south" if region == "north" else "north"


def region_of(replica: dict[str, str]) -> str:
    return replica["node"].removesuffix("-a-1")


def answers_in(story: Story, region: str) -> bool:
    return any(r["ready"] and region_of(r) == region for r in story.replicas())


def lies_in(story: Story, region: str, *names: str) -> bool:
    jobs = [story.training(name) for name in names]
    return all(j["state"] == "running" and j["region"] == region for j in jobs)


def test_a_drain_under_load_survives_whatever_is_killed_in_the_middle_of_it(story: Story) -> None:
    """Requests are held by the replica that has to leave, one from each region's router."""
    story.call("POST", "nodes/south-a-1/cordon")
    story.train()
    story.serve(**ROOMY)
    story.call("POST", "nodes/south-a-1/uncordon")
    home = "north"
    for name in ("schedule", "source", "target", "router"):
        away = elsewhere(home)
        asked = [
            story.hold(f"{name}-{region}", region=region, gate=name)[0] for region in (home, away)
        ]
        story.until("both to be begun", lambda name=name: both(story, name))
        drain = story.call("POST", "drains", {"target": f"region/{home}"})
        agents = {"source": f"agent-{home}-a-1", "target": f"agent-{away}-a-1"}
        story.planet.kill(agents.get(name, f"router-{home}" if name == "router" else name))
        story.until("a substitute", lambda away=away: answers_in(story, away))
        story.until("the training to move", lambda away=away: lies_in(story, away, "training"))
        assert not asked[1].done(), "it is finished where it was begun"
        begun = story.begun()
        assert [begun[f"{name}-{region}"] for region in (home, away)] == [1, 1], begun
        story.let_go(gate=name)
        cut_off = 0 if name == "router" else 200  # the line ended with the router that had it
        assert [future.result() for future in asked] == [cut_off, 200], name
        story.until("the old one to have gone", lambda: len(story.replicas()) == 1)
        found = story.call("GET", f"drains/{drain['id']}")
        assert (found["moved"], found["jobs"], found["done"]) == (2, 2, True), name
        story.call("DELETE", f"drains/{drain['id']}")
        story.router_is_back(home)
        home = away
    (lives,) = story.finish("training")
    assert [life["region"] for life in lives] == ["north", "south", "north", "south", "north"]


def both(story: Story, name: str) -> bool:
    begun = story.begun()
    return all(begun[f"{name}-{region}"] for region in ("north", "south"))


def test_a_drain_under_load_that_is_aborted_half_way_leaves_everything_at_work(
    story: Story,
) -> None:
    """Its bandwidth lets one training go and no other."""
    story.call("POST", "nodes/south-a-1/cordon")
    for name in ("first", "second"):
        story.train(name)
    story.serve(**ROOMY)
    story.call("POST", "nodes/south-a-1/uncordon")
    before = story.hold("before", region="north") + story.hold("before-south", region="south")
    story.until("both to be begun", lambda: len(story.begun()) == 2)

    asked = {"target": "region/north", "bandwidth": "1MB/s"}
    drain = story.call("POST", "drains", asked)
    names = ("first", "second")
    story.until("half of it", lambda: any(lies_in(story, "south", name) for name in names))
    story.until("a substitute", lambda: answers_in(story, "south"))
    meanwhile = story.hold("meanwhile", region="north")
    story.until("it to be begun", lambda: story.begun()["meanwhile"] == 1)
    story.call("DELETE", f"drains/{drain['id']}")

    after = [story.training(name) for name in names]
    assert sorted(job["incarnation"] for job in after) == [1, 2]
    assert {job["region"] for job in after} == {"north", "south"}
    assert {job["state"] for job in after} == {"running"}
    assert {n["duty"] for n in story.call("GET", "nodes")["items"]} == {"ready"}
    assert story.begun() == {"before": 1, "before-south": 1, "meanwhile": 1}
    story.let_go()
    assert [future.result() for future in (*before, *meanwhile)] == [200] * 3
    story.until("one replica to be enough", lambda: len(story.replicas()) == 1)
    guest = {
        "name": "guest",
        "kind": "batch",
        "run": [sys.executable, "-c", "pass"],
        "place": {"regions": "north"},
    }
    story.call("POST", "jobs", guest)
    story.until("north to take work", lambda: story.training("guest")["state"] == "succeeded")
    story.finish("first", "second")


def test_a_router_that_dies_while_replicas_start_takes_only_its_own_with_it(story: Story) -> None:
    """What waited there is told so and never begun; the other region's router serves on."""
    story.serve(target={"concurrency": 1}, replicas={"min": 1, "max": 3})
    kept = story.hold("kept", region="north", gate="kept")
    story.until("it to be begun", lambda: story.begun()["kept"] == 1)
    lost = story.hold(*(f"lost-{n}" for n in range(6)), region="south")
    story.until("more to be wanted", lambda: story.service()["replicas"]["wanted"] > 1)
    story.planet.kill("router-south")
    assert [future.result() for future in lost] == [0] * 6
    story.router_is_back("south")
    again = story.hold(*(f"again-{n}" for n in range(3)), region="south")
    story.let_go("kept")
    assert kept[0].result() == 200
    story.until("all of them to be begun", lambda: all_begun(story))
    assert [future.result() for future in again] == [200] * 3
    begun = story.begun()
    assert set(begun.values()) == {1}, "nothing is done twice"


def all_begun(story: Story) -> bool:
    """Those that come to a replica, one after the other."""
    story.let_go()
    begun = story.begun()
    return all(begun[f"again-{n}"] for n in range(3))
