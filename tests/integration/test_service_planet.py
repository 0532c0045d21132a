"""A service on a whole planet: it grows at the cost of training, whoever is killed meanwhile, loses
its router, and gives back.

Every process is real. The load is requests that replicas hold until they are told to let go, so
nothing depends on how fast this machine is.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from singularity.cli.embedded import Planet
from singularity.cli.fleet import Cluster, Fleet, Region
from tests.integration.plain import run_plain

JOBS = Path(__file__).parent / "jobs"
RANKS = 2
PATIENCE_S = 120.0
Json = dict[str, Any]
SERVICE = {
    "name": "held",
    "kind": "serve",
    "run": [sys.executable, str(JOBS / "replica.py"), "$PORT", "r"],
    "devices": "cpu:1",
    "replicas": {"min": 1, "max": 3},
    "target": {"concurrency": 1},
    "health": "/health",
    "queue": {"most": 100, "timeout": "100s"},
    "grace": "5s",
}


class Story:
    def __init__(self, planet: Planet, root: Path) -> None:
        self.planet, self.root, self.out = planet, root, root / "out"
        self.out.mkdir()
        headers = {"Authorization": f"Bearer {planet.token}"}
        self.http = httpx.Client(base_url=planet.url, headers=headers, timeout=30)
        self.pool = ThreadPoolExecutor(32)
        self.url = f"{planet.router_url('here')}/default/held"

    def close(self) -> None:
        self.pool.shutdown()
        self.http.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        response = self.http.request(method, f"/v1/{path}", json=body)
        assert response.is_success, response.text
        return response.json()

    def until(self, what: str, ready: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < deadline_s, f"never: {what}: {self.service()}"
            time.sleep(0.1)

    def service(self) -> Json:
        found: Json = self.call("GET", "services/held")
        return found

    def ready(self) -> int:
        return int(self.service()["replicas"]["ready"])

    def training(self) -> Json:
        found: Json = self.call("GET", "jobs/training")
        return found

    def devices(self) -> int:
        return sum(shard["devices"] for shard in self.training()["placement"])

    def train(self) -> None:
        script = [sys.executable, str(JOBS / "paced.py"), "--steps", "100000"]
        run = [*script, "--out", str(self.out), "--until", str(self.root / "enough")]
        elastic = {"min": 1, "max": RANKS}
        spec = {"name": "training", "run": run, "ranks": RANKS, "devices": f"cpu:{RANKS}"}
        self.call("POST", "jobs", {**spec, "elastic": elastic})
        self.until("training", lambda: self.steps() > 20)

    def steps(self) -> int:
        log = self.out / "loss-0.csv"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def hold(self, names: range) -> list[Future[int]]:
        """Requests that replicas hold; the status of the answer, 0 where there was none."""

        def ask(name: int) -> int:
            headers = {"X-Request-Id": f"r-{name}"}
            try:
                answer = httpx.get(f"{self.url}/hold?gate=g", headers=headers, timeout=PATIENCE_S)
            except httpx.TransportError:
                return 0
            return answer.status_code

        return [self.pool.submit(ask, name) for name in names]

    def replicas(self) -> list[str]:
        items = self.service()["replicas"]["items"]
        return [f"http://{item['endpoint']}" for item in items if item["ready"]]

    def held(self) -> list[str]:
        """The requests that replicas have begun, by the names that came with them."""
        found = [httpx.get(f"{url}/state", timeout=30).json() for url in self.replicas()]
        return [name for state in found for name in state["ids"]]

    def let_go(self) -> None:
        for url in self.replicas():
            httpx.get(f"{url}/open?gate=g", timeout=30)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    tmp_path.chmod(0o755)
    cluster = Cluster(nodes=1, device="cpu", devices=RANKS + 2)
    fleet = Fleet(regions={"here": Region(clusters={"a": cluster})})
    policy = {"node_lost_after_s": "20", "grow_after_s": "1"}
    with Planet(tmp_path / "planet", fleet, policy=policy, lease_s=15.0) as planet:
        story = Story(planet, tmp_path)
        yield story
        story.close()


def test_a_service_grows_at_the_cost_of_training_loses_its_router_and_gives_back(
    story: Story, tmp_path: Path
) -> None:
    story.train()
    story.call("POST", "services", SERVICE)
    story.until("a replica", lambda: story.service()["condition"] == "serving")
    assert httpx.get(f"{story.url}/x").json()["path"] == "/x"
    assert story.devices() == RANKS

    asked = story.hold(range(8))
    story.until("more to be wanted", lambda: story.service()["replicas"]["wanted"] > 1)
    for name in ("schedule", "agent-a-1"):  # in the middle of it; others go on where they were
        story.planet.kill(name)
    story.until("three replicas, the third on a device of the training", lambda: story.ready() == 3)
    story.until("the training to have shrunk", lambda: story.devices() == RANKS - 1)
    assert story.service()["borrowed"]["devices"] == 1
    story.until("one request with each", lambda: len(story.held()) == 3)

    story.planet.kill("router-here")
    assert [future.result() for future in asked] == [0] * 8, "who waits is not left hanging"
    assert story.training()["state"] == "running" and story.ready() == 3
    back(story)
    again = story.hold(range(8, 14))
    story.until("three more to be begun", lambda: len(story.held()) == 6)
    story.let_go()
    assert [future.result() for future in again] == [200] * 6
    begun = Counter(story.held())
    assert set(begun.values()) == {1}, "nothing is done twice"
    assert len(begun) == 3 + 6, "those that waited when the router died were never begun"

    story.call("PATCH", "services/held", {"replicas": {"min": 1, "max": 1}})
    story.until("one replica", lambda: len(story.service()["replicas"]["items"]) == 1)
    story.until("the training to have its devices back", lambda: story.devices() == RANKS)
    assert story.service()["borrowed"]["devices"] == 0
    (loan,) = story.call("GET", "loans?service=held")["items"]
    assert loan["devices"] == 1 and loan["until_s"] is not None
    assert httpx.get(f"{story.url}/x").status_code == 200

    story.call("DELETE", "services/held")
    (tmp_path / "enough").touch()
    story.until("the training's end", lambda: story.training()["state"] == "succeeded")
    (life,) = story.call("GET", "jobs/training/incarnations")["items"]
    assert len(life["resizes"]) == 2 and not life["lost_s"]
    plain = tmp_path / "plain"
    argv = [str(JOBS / "paced.py"), "--steps", str(story.steps()), "--pause-s", "0"]
    run_plain(plain, RANKS, *argv, "--out", str(plain))
    for log in sorted(plain.glob("loss-*.csv")):
        assert (story.out / log.name).read_bytes() == log.read_bytes()


def back(story: Story) -> None:
    """Until the supervisor has brought the router back."""

    def answers() -> bool:
        try:
            return httpx.get(f"{story.planet.router_url('here')}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    story.until("the router to be back", answers)
