"""A planet with a service and trainings, and requests that replicas hold until they are told to let
go: nothing depends on how fast this machine is."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from singularity.cli.embedded import Planet
from singularity.cli.fleet import Cluster, Fleet, Region
from tests.integration.plain import run_plain

JOBS = Path(__file__).parent / "jobs"
RANKS = 2
PATIENCE_S = 120.0
Json = dict[str, Any]
SERVICE: Json = {
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
    """`pause_s` is between two steps of a training."""

    def __init__(self, planet: Planet, root: Path, pause_s: float = 0.01) -> None:
        self.planet, self.root, self.pause_s = planet, root, pause_s
        headers = {"Authorization": f"Bearer {planet.token}"}
        self.http = httpx.Client(base_url=planet.url, headers=headers, timeout=30)
        self.pool = ThreadPoolExecutor(32)

    def close(self) -> None:
        self.pool.shutdown()
        self.http.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Asked until somebody answers: the API may just be killed."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            with suppress(httpx.TransportError):
                response = self.http.request(method, f"/v1/{path}", json=body)
                if response.status_code < 500:
                    assert response.is_success, response.text
                    return response.json() if response.content else None
            assert time.monotonic() < deadline_s, f"{method} {path} is never answered"
            time.sleep(0.1)

    def until(self, what: str, ready: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < deadline_s, f"never: {what}: {self.service()}"
            time.sleep(0.1)

    # -- the service -----------------------------------------------------------------------------

    def service(self) -> Json:
        found: Json = self.call("GET", "services/held")
        return found

    def serve(self, **changes: Any) -> None:
        self.call("POST", "services", {**SERVICE, **changes})
        self.until("a replica", lambda: self.service()["condition"] == "serving")

    def ready(self) -> int:
        return int(self.service()["replicas"]["ready"])

    def url(self, region: str = "here") -> str:
        return f"{self.planet.router_url(region)}/default/held"

    def hold(self, *names: str, region: str = "here", gate: str = "g") -> list[Future[int]]:
        """Requests that replicas hold; the status of the answer, 0 where there was none."""

        def ask(name: str) -> int:
            asked = f"{self.url(region)}/hold?gate={gate}"
            try:
                answer = httpx.get(asked, headers={"X-Request-Id": name}, timeout=PATIENCE_S)
            except httpx.TransportError:
                return 0
            return answer.status_code

        return [self.pool.submit(ask, name) for name in names]

    def replicas(self) -> list[Json]:
        """Those that have a place where they answer, also while they leave."""
        return [item for item in self.service()["replicas"]["items"] if item["endpoint"]]

    def begun(self) -> Counter[str]:
        """How often each request was begun by the replicas that there are now, by its name."""
        return Counter(name for state in self._each("state") for name in state.json()["ids"])

    def let_go(self, gate: str = "g") -> None:
        list(self._each(f"open?gate={gate}"))

    def _each(self, path: str) -> Iterator[httpx.Response]:
        """What each replica answers; one that has just gone says nothing."""
        for replica in self.replicas():
            with suppress(httpx.TransportError):
                yield httpx.get(f"http://{replica['endpoint']}/{path}", timeout=30)

    def router_is_back(self, region: str = "here") -> None:
        """Until the supervisor has brought it back."""

        def answers() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{self.planet.router_url(region)}/healthz").status_code == 200
            return False

        self.until("the router to be back", answers)

    # -- trainings -------------------------------------------------------------------------------

    def out(self, name: str = "training") -> Path:
        return self.root / name

    def train(self, name: str = "training", **changes: Any) -> None:
        self.out(name).mkdir()
        script = [sys.executable, str(JOBS / "paced.py"), "--steps", "100000"]
        script += ["--pause-s", str(self.pause_s), "--until", str(self.root / "enough")]
        spec = {"name": name, "run": [*script, "--out", str(self.out(name))], "ranks": RANKS}
        self.call("POST", "jobs", {**spec, "devices": f"cpu:{RANKS}", **changes})
        self.until("training", lambda: self.steps(name) > 20)

    def training(self, name: str = "training") -> Json:
        found: Json = self.call("GET", f"jobs/{name}")
        assert found["state"] not in ("failed", "cancelled"), found
        return found

    def devices(self) -> int:
        return sum(shard["devices"] for shard in self.training()["placement"])

    def steps(self, name: str = "training") -> int:
        log = self.out(name) / "loss-0.csv"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def finish(self, *names: str) -> list[list[Json]]:
        """Let them end; their lives. Nothing was lost, and all losses are those of a training that
        nobody touched."""
        (self.root / "enough").touch()
        found = []
        for name in names:
            self.until(f"the end of {name}", partial_state(self, name, "succeeded"))
            lives = self.call("GET", f"jobs/{name}/incarnations")["items"]
            assert not [life for life in lives if life["lost_s"]], lives
            found.append(lives)
            plain = self.root / f"plain-{name}"
            argv = [str(JOBS / "paced.py"), "--steps", str(self.steps(name)), "--pause-s", "0"]
            run_plain(plain, RANKS, *argv, "--out", str(plain))
            for log in sorted(plain.glob("loss-*.csv")):
                assert (self.out(name) / log.name).read_bytes() == log.read_bytes()
        return found


def partial_state(story: Story, name: str, state: str) -> Callable[[], bool]:
    return lambda: bool(story.training(name)["state"] == state)


@contextmanager
def planet(
    root: Path, devices: int, *regions: str, pause_s: float = 0.01, **policy: str
) -> Iterator[Story]:
    """One node of so many devices in each region, one router each. Kills are restarts here, and
    never a loss of a node."""
    root.chmod(0o755)
    cluster = Cluster(nodes=1, device="cpu", devices=devices)
    fleet = Fleet(regions={name: Region(clusters={f"{name}-a": cluster}) for name in regions})
    wanted = {"node_lost_after_s": "20", "grow_after_s": "1", **policy}
    with Planet(root / "planet", fleet, policy=wanted, lease_s=15.0) as found:
        story = Story(found, root, pause_s)
        yield story
        story.close()
