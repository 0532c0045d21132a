"""A service on a whole planet: it grows at the cost of training, whoever is killed meanwhile, loses
its router, gives back, rests and is woken, and makes way.

Every process is real. The load is requests that replicas hold until they are told to let go, so
nothing depends on how fast this machine is.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.served import RANKS, SERVICE, Story, partial_state, planet


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    with planet(tmp_path, RANKS + 2, "here", evict_grace_s="100") as found:
        yield found


def test_a_service_grows_at_the_cost_of_training_loses_its_router_and_gives_back(
    story: Story,
) -> None:
    story.train(elastic={"min": 1, "max": RANKS})
    story.serve()
    assert httpx.get(f"{story.url()}/x").json()["path"] == "/x"
    assert story.devices() == RANKS

    asked = story.hold(*(f"r-{n}" for n in range(8)))
    story.until("more to be wanted", lambda: story.service()["replicas"]["wanted"] > 1)
    for name in ("schedule", "agent-here-a-1"):  # in the middle of it; others go on where they were
        story.planet.kill(name)
    story.until("three replicas, the third on a device of the training", lambda: story.ready() == 3)
    story.until("the training to have shrunk", lambda: story.devices() == RANKS - 1)
    assert story.service()["borrowed"]["devices"] == 1
    story.until("one request with each", lambda: len(story.begun()) == 3)

    story.planet.kill("router-here")
    assert [future.result() for future in asked] == [0] * 8, "who waits is not left hanging"
    assert story.training()["state"] == "running" and story.ready() == 3
    story.router_is_back()
    again = story.hold(*(f"r-{n}" for n in range(8, 14)))
    story.until("three more to be begun", lambda: len(story.begun()) == 6)
    story.let_go()
    assert [future.result() for future in again] == [200] * 6
    begun = story.begun()
    assert set(begun.values()) == {1}, "nothing is done twice"
    assert len(begun) == 3 + 6, "those that waited when the router died were never begun"

    story.call("PATCH", "services/held", {"replicas": {"min": 1, "max": 1}})
    story.until("one replica", lambda: len(story.service()["replicas"]["items"]) == 1)
    story.until("the training to have its devices back", lambda: story.devices() == RANKS)
    assert story.service()["borrowed"]["devices"] == 0
    loans = story.call("GET", "loans?service=held")["items"]  # two if its router was away for long
    assert loans and all(x["devices"] == 1 and x["until_s"] is not None for x in loans)
    assert httpx.get(f"{story.url()}/x").status_code == 200

    story.call("DELETE", "services/held")
    ((life,),) = story.finish("training")
    assert len(life["resizes"]) == 2 * len(loans)


def test_a_service_that_nobody_asks_rests_and_its_first_request_wakes_it(story: Story) -> None:
    """Also when the router and the scheduler are other processes than those that put it to rest.
    It is the same process that serves again, which knows of all requests that it had."""
    story.call("POST", "services", {**SERVICE, "scale_to_zero": "2s"})
    begun = Counter[str]()
    for turn in ("first", "second"):
        story.until("it to rest", lambda: story.service()["condition"] == "at-rest")
        story.until("nothing to be left of it", lambda: not story.service()["replicas"]["items"])
        (answer,) = story.hold(turn, gate=turn)
        begun[turn] += 1
        story.until("it to be woken", lambda: story.begun() == begun)
        assert story.service()["condition"] == "serving", "it stays while it has a request"
        story.let_go(turn)
        assert answer.result() == 200
        story.planet.kill("router-here")
        story.planet.kill("schedule")
        story.router_is_back()


def test_a_replica_that_makes_way_finishes_its_requests_first(story: Story) -> None:
    story.serve(tier="basic", devices="cpu:2", replicas={"min": 2, "max": 2})
    asked = story.hold("one", "two")
    story.until("one request with each", lambda: len(story.begun()) == 2)
    urgent = {"name": "urgent", "kind": "batch", "tier": "premium", "devices": "cpu:2"}
    run = [sys.executable, "-c", "import time; time.sleep(1000)"]
    story.call("POST", "jobs", {**urgent, "run": run})
    story.until("one to leave", lambda: any(r["leaving"] for r in story.replicas()))
    leaving, staying = sorted(story.replicas(), key=lambda r: not r["leaving"])
    assert not staying["leaving"] and story.training("urgent")["state"] == "pending"
    assert not any(future.done() for future in asked)

    (waits,) = story.hold("three")  # both have what they take, and the one gets nothing new
    httpx.get(f"http://{leaving['endpoint']}/open?gate=g")
    story.until("urgent work to have its devices", partial_state(story, "urgent", "running"))
    assert [r["job"] for r in story.replicas()] == [staying["job"]]
    story.let_go()
    assert [future.result() for future in (*asked, waits)] == [200] * 3
    assert set(story.begun().values()) == {1}
    story.call("POST", "jobs/urgent/cancel")
    story.until("it to come back", lambda: story.ready() == 2)
