"""kill -9 of every process of the plane while one training runs and moves: the result is the same
to the bit. The planet is real; so are its Postgres and its broker."""

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
from tests.integration.plain import run_plain

SCRIPT = Path(__file__).parent / "jobs" / "paced.py"
STEPS = 1_000_000  # it is told when to end
RANKS = 2
PATIENCE_S = 120.0
Json = dict[str, Any]

pytestmark = pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)


class Story:
    """One job on a planet, over HTTP that may be down at any moment."""

    def __init__(self, planet: Planet, out: Path) -> None:
        self.planet, self.out, self.over = planet, out, out.with_name("over")
        headers = {"Authorization": f"Bearer {planet.token}"}
        self._http = httpx.Client(base_url=planet.url, headers=headers, timeout=10)
        self.id = ""

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Ask until somebody answers: what is asked here may be asked twice."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                response = self._http.request(method, f"/v1/{path}", json=body)
                if response.status_code < 500:
                    assert response.is_success, response.text
                    return response.json() if response.content else None
            except httpx.TransportError:
                pass  # it is being killed; that is the point
            assert time.monotonic() < deadline_s, f"{method} {path} is never answered"
            time.sleep(0.05)

    def job(self) -> Json:
        found: Json = self.call("GET", f"jobs/{self.id}")
        return found

    def until(self, what: str, ready: Callable[[Json], object]) -> Json:
        deadline_s = time.monotonic() + PATIENCE_S
        while not ready(job := self.job()):
            assert job["state"] not in ("failed", "cancelled"), job
            assert time.monotonic() < deadline_s, f"never: {what}: {job}"
            time.sleep(0.05)
        return job

    def submit(self) -> None:
        run = [sys.executable, str(SCRIPT), "--steps", str(STEPS), "--out", str(self.out)]
        run += ["--until", str(self.over)]
        spec = {"name": "paced", "run": run, "ranks": RANKS, "devices": f"cpu:{RANKS}"}
        self.id = self.call("POST", "jobs", spec)["id"]
        self.until("running", runs)

    def end(self) -> None:
        """However long all that took, the training is at work until now; its numbers are those of
        as many steps alone."""
        self.over.touch()
        self.until("succeeded", lambda job: job["state"] == "succeeded")
        steps = lines(self.out / "loss-0.csv")
        assert results(self.out) == reference_of(self.out.parent, steps)

    def progress(self, steps: int = 20) -> None:
        log = self.out / "loss-0.csv"
        goal = (lines(log) if log.exists() else 0) + steps
        self.until(f"{steps} steps", lambda _: log.exists() and lines(log) >= goal)

    def home(self) -> str:
        return str(self.job()["region"])


def runs(job: Json) -> bool:
    return bool(job["state"] == "running")


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def elsewhere(region: str) -> str:
    return "south" if region == "north" else "north"


def reference_of(directory: Path, steps: int) -> list[bytes]:
    """The same job under plain torchrun."""
    out = directory / "reference"
    run_plain(out, RANKS, str(SCRIPT), "--steps", str(steps), "--pause-s", "0", "--out", str(out))
    return results(out)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    tmp_path.chmod(0o755)
    out = tmp_path / "out"
    out.mkdir()
    fleet = Fleet(
        regions={
            region: Region(clusters={f"{region}-a": Cluster(nodes=1, device="cpu", devices=RANKS)})
            for region in ("north", "south")
        }
    )
    policy = {"node_lost_after_s": "20"}  # kills here are restarts, never a loss
    with Planet(tmp_path / "planet", fleet, policy=policy, lease_s=15.0) as planet:
        story = Story(planet, out)
        yield story
        story.close()


def results(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(out.glob("loss-*.csv"))]


def test_killing_every_process_of_the_plane_changes_nothing_in_the_result(story: Story) -> None:
    """Each is killed twice: while the job just runs, and in the middle of a move."""
    story.submit()
    agent = f"agent-{story.job()['placement'][0]['node']}"
    for name in ("api", "schedule", "relay", "watch", "valkey", "postgres", agent):
        story.planet.kill(name)
        story.progress()
    for name in ("api", "schedule", "relay", "valkey", "postgres", "agent"):
        before = story.until("running", runs)
        victim = f"agent-{before['placement'][0]['node']}" if name == "agent" else name
        away = elsewhere(before["region"])
        story.call("POST", f"jobs/{story.id}/move", {"to": f"region/{away}"})
        story.planet.kill(victim)
        story.until(f"in {away}", lambda job, away=away: runs(job) and job["region"] == away)
        story.progress()
    story.end()
    lives = story.call("GET", f"jobs/{story.id}/incarnations")["items"]
    assert [life["lost_s"] for life in lives if life["lost_s"]] == []


def test_a_drain_survives_whatever_is_killed_in_the_middle_of_it(story: Story) -> None:
    """Scheduler, API, both agents, and all stores, each right after the order; at last the drain is
    undone as soon as it has begun. The job is nowhere twice, and nothing is lost."""
    story.submit()
    for name in ("schedule", "api", "source", "target", "relay", "postgres"):
        before = story.until("running", runs)
        home, away = before["region"], elsewhere(before["region"])
        drain = story.call("POST", "drains", {"target": f"region/{home}"})
        agents = {"source": f"agent-{home}-a-1", "target": f"agent-{away}-a-1"}
        story.planet.kill(agents.get(name, name))
        story.until(f"in {away}", lambda job, away=away: runs(job) and job["region"] == away)
        found = story.call("GET", f"drains/{drain['id']}")
        assert (found["moved"], found["jobs"], found["ended_at_s"]) == (1, 1, None), name
        story.call("DELETE", f"drains/{drain['id']}")
        story.progress()
    before = story.job()
    drain = story.call("POST", "drains", {"target": f"region/{before['region']}"})
    story.planet.kill("schedule")
    story.call("DELETE", f"drains/{drain['id']}")
    after = story.until("running", runs)
    assert after["incarnation"] <= before["incarnation"] + 1
    assert {n["duty"] for n in story.call("GET", "nodes")["items"]} == {"ready"}
    story.end()
    lives = story.call("GET", f"jobs/{story.id}/incarnations")["items"]
    assert [life["lost_s"] for life in lives if life["lost_s"]] == []
    asked = [o["verb"] for o in story.call("GET", "operations")["items"]]
    assert asked == ["undrain", "drain"] * 7


def test_a_damaged_image_falls_back_to_the_checkpoint_before_and_says_so(story: Story) -> None:
    story.submit()
    story.progress()
    story.call("POST", f"jobs/{story.id}/checkpoints")
    first = story.until("a checkpoint", lambda job: job["checkpoint"])["checkpoint"]
    before = set((story.planet.volume / "chunks").glob("*/*"))
    story.progress()
    agent = f"agent-{story.job()['placement'][0]['node']}"
    story.call("POST", f"jobs/{story.id}/suspend")
    story.until("suspended", lambda job: job["state"] == "suspended")
    new = sorted(set((story.planet.volume / "chunks").glob("*/*")) - before)
    for chunk in new:
        chunk.chmod(0o600)
        chunk.write_bytes(chunk.read_bytes()[:-1])
    story.planet.kill(
        agent
    )  # the next one keeps no ranks that only have to wake: the store is read
    story.call("POST", f"jobs/{story.id}/resume")
    job = story.until("running again", runs)
    assert job["checkpoint"]["cut"] == first["cut"]
    events = story.call("GET", f"jobs/{story.id}/events")["items"]
    (discarded,) = [e for e in events if e["event"] == "checkpoint-discarded"]
    assert any(chunk.name in discarded["reason"] for chunk in new)
    story.end()
