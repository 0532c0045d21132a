"""Shares of a device: real processes that share processors under the kernel's own limits, and two
jobs on one device of a real planet."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from nodes import JOB, Planet, planet

from singularity.agent.proof import find_criu, probe
from singularity.agent.runtime import sandbox
from singularity.agent.runtime.cgroup import (
    _PERIOD_US,
    Cgroup,
    Limits,
    Seat,
    make_cgroup,
    obstacle,
    preempts,
)
from singularity.cli import embedded
from singularity.cli.fleet import Cluster, Fleet, Region
from singularity.primitives.messages import Start
from singularity.primitives.sharing import DeviceShare, Precedence
from tests.integration.plain import run_plain
from tests.integration.sandboxes import until

JOBS = Path(__file__).parent / "jobs"
PATIENCE_S = 180.0
BUSY = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"
GREEDY = "held = []\nwhile True: held.append(bytearray(1 << 20))"
MIB = 1 << 20
PERIOD_S = _PERIOD_US / 1e6
Json = dict[str, Any]

pytestmark = pytest.mark.skipif(
    not preempts(), reason=f"no real-time shares here: {obstacle() or 'the kernel is older'}"
)


# -- the kernel ----------------------------------------------------------------------------------


@pytest.fixture
def seats() -> Iterator[Callable[[int, bool], Cgroup]]:
    """Groups with parts of one device, of one processor, each with a process that never rests."""
    made: list[tuple[Cgroup, subprocess.Popen[bytes]]] = []

    def take(milli: int, first: bool) -> Cgroup:
        seat = Seat(f"test-{os.getpid()}", 1.0, milli, first)
        group, reason = make_cgroup(f"test-{os.getpid()}-{len(made)}", Limits(seat=seat))
        assert group is not None, reason
        made.append((group, subprocess.Popen(group.enter([sys.executable, "-c", BUSY]))))
        return group

    yield take
    for _, process in made:
        process.kill()
        process.wait()
    for group, _ in made:
        group.remove()
    assert not any(path.exists() for group, _ in made for path in (*group.paths, *group.above))


def ran_s(group: Cgroup) -> float:
    usage = group.usage()
    assert usage is not None
    return usage.cpu_s


def beside(groups: list[Cgroup], most_s: float) -> list[float]:
    """What each ran while the first ran for so long."""
    until(lambda: all(ran_s(g) > 0 for g in groups), "all began", PATIENCE_S)
    before = [ran_s(g) for g in groups]
    until(lambda: ran_s(groups[0]) - before[0] >= most_s, "the first ran", PATIENCE_S)
    return [ran_s(g) - b for g, b in zip(groups, before, strict=True)]


def test_real_time_goes_first(seats: Callable[[int, bool], Cgroup]) -> None:
    be = seats(500, False)
    until(lambda: ran_s(be) > 0.2, "it has the device to itself", PATIENCE_S)
    first, left = beside([seats(1000, True), be], 1.0)
    assert left < 0.2 * first, (first, left)


def test_best_effort_divides_in_the_ratio_of_the_shares(
    seats: Callable[[int, bool], Cgroup],
) -> None:
    large, small = beside([seats(750, False), seats(250, False)], 1.5)
    assert 2.0 < large / small < 4.5, (large, small)


def test_real_time_has_no_more_than_its_share(seats: Callable[[int, bool], Cgroup]) -> None:
    """However much it wants; so something is left for the others. In each period that the kernel
    counts it runs for its share, and what it takes too much it pays back in the next."""
    groups = [seats(200, True), seats(800, False)]
    before = ran_s(groups[1])
    until(lambda: counted(groups[0])["nr_throttled"] >= 5, "it wants more", PATIENCE_S)
    rt_s = ran_s(groups[0])
    periods = counted(groups[0])["nr_periods"]  # read later, so of no less time
    assert rt_s <= 0.2 * PERIOD_S * (periods + 2), (rt_s, periods)
    until(lambda: ran_s(groups[1]) > before, "the others had what was left", PATIENCE_S)


def counted(group: Cgroup) -> dict[str, int]:
    """What the kernel says of a group's quota."""
    lines = (group.path("cpu") / "cpu.stat").read_text().splitlines()
    return {name: int(value) for name, value in map(str.split, lines)}


# -- one node ------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Planet]:
    with planet(tmp_path, f"sgs{os.getpid() % 0xFFFFFF:x}") as made:
        yield made


def start(world: Planet, run: tuple[str, ...], share: DeviceShare) -> Start:
    made = world.start({"a": (0,)}, 1, 1)["a"]
    found = {"run": run, "share": share, "indices": (2,)}
    return made.model_copy(update=found)


def test_a_rank_over_its_memory_is_killed_and_everybody_is_told_why(world: Planet) -> None:
    node = world.node("a")
    share = DeviceShare(500, 96 * MIB, Precedence.BEST_EFFORT)
    node.send(start(world, (sys.executable, "-c", GREEDY), share))
    assert node.report().phase == "running"
    report = node.report()
    assert (report.phase, report.exit_code) == ("exited", 137)
    assert report.reason == "rank 0 took more memory than its 0.0938 GiB, and was killed"


def test_a_rank_whose_share_cannot_be_enforced_is_not_started(
    world: Planet, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = world.node("a")
    monkeypatch.setattr(sandbox, "make_cgroup", lambda *_: (None, "the kernel says no"))
    node.send(start(world, (sys.executable, "-c", BUSY), DeviceShare(500, 96 * MIB)))
    report = node.report()
    assert report.phase == "refused"
    assert report.reason == "its share cannot be enforced: the kernel says no"


def test_how_a_sharer_fares_is_measured(world: Planet) -> None:
    """Two that never rest on one processor: each takes twice as long as alone, or longer."""
    node = world.node("a")
    share = DeviceShare(500, 96 * MIB)
    command = start(world, (sys.executable, "-c", BUSY), share)
    node.send(command)
    node.send(command.model_copy(update={"job": "other"}))
    assert {node.report().phase, node.report().phase} == {"running"}

    def both() -> list[Any]:
        return list(node.sharing.look(node.executor.sharers()).get(2, ()))

    until(lambda: len(both()) == 2, "both are there", PATIENCE_S)
    until(lambda: all(s.slowdown for s in both()), "both ran", PATIENCE_S)
    before = node.executor.sharers()
    node.sharing.look(before)
    until(lambda: sum(_cpu_s(s) for s in before) > 2.0, "both ran for a while", PATIENCE_S)
    found = both()
    assert {s.job for s in found} == {JOB, "other"}
    assert all(s.slowdown > 1.5 and 0 < s.used_bytes <= s.cap_bytes for s in found), found
    assert not any(s.complaint for s in found)


def _cpu_s(sharer: Any) -> float:
    usage = sharer.sandbox.usage()
    return usage.cpu_s if usage else 0.0


# -- a planet ------------------------------------------------------------------------------------

FOR_EVER = "1000000"  # steps; they end when the story is over
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")


class Story:
    """Jobs on a planet of two nodes with one device each."""

    def __init__(self, made: embedded.Planet, out: Path) -> None:
        self.planet, self.out, self.over = made, out, out / "over"
        headers = {"Authorization": f"Bearer {made.token}"}
        self.http = httpx.Client(base_url=made.url, headers=headers, timeout=20)

    def call(self, method: str, path: str, body: object = None) -> Any:
        response = self.http.request(method, f"/v1/{path}", json=body)
        assert response.is_success, response.text
        return response.json()

    def submit(self, name: str, share: Json, *run: str) -> None:
        self.call("POST", "jobs", {"name": name, "run": [sys.executable, *run], "share": share})

    def job(self, name: str) -> Json:
        found: Json = self.call("GET", f"jobs/{name}")
        return found

    def until(self, name: str, what: str, ready: Callable[[Json], object]) -> Json:
        def look() -> object:
            job = self.job(name)
            assert job["state"] not in ("failed", "cancelled"), job
            return ready(job)

        until(look, f"{name}: {what}", PATIENCE_S)
        return self.job(name)

    def state(self, name: str, state: str) -> Json:
        return self.until(name, state, lambda job: job["state"] == state)

    def lines(self, file: str) -> int:
        path = self.out / file
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def progress(self, file: str, more: int = 20) -> None:
        goal = self.lines(file) + more
        until(lambda: self.lines(file) >= goal, f"{more} lines more in {file}", PATIENCE_S)

    def seat(self, name: str) -> tuple[str, list[int]]:
        (placed,) = self.job(name)["placement"]
        return placed["node"], placed["indices"]

    def used(self) -> dict[str, int]:
        return {n["id"]: n["used"] for n in self.call("GET", "nodes")["items"]}


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    tmp_path.chmod(0o755)
    out = tmp_path / "out"
    out.mkdir()
    clusters = {"a": Cluster(nodes=2, device="cpu", devices=1)}
    fleet = Fleet(regions={"here": Region(clusters=clusters)})
    with embedded.Planet(tmp_path / "planet", fleet) as made:
        story = Story(made, out)
        yield story
        story.http.close()


@pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)
def test_a_service_and_a_training_share_one_device(story: Story) -> None:
    """The training is suspended, comes back, and moves away; the service does not notice, and no
    loss differs from those of the training alone."""
    paced, until_over = str(JOBS / "paced.py"), ("--until", str(story.over))
    serving = (str(JOBS / "serving.py"), "--out", str(story.out / "served"), *until_over)
    training = (paced, "--steps", FOR_EVER, "--out", str(story.out), *until_over)
    rt = {"memory": "1GiB", "compute": "30%", "class": "rt"}
    story.submit("serve", rt, *serving)
    story.submit("train", {"memory": "1GiB", "compute": "60%"}, *training)
    for name in ("serve", "train"):
        story.state(name, "running")
    story.progress("served")
    story.progress("loss-0.csv")
    assert story.seat("serve") == story.seat("train") == ("a-1", [0])
    assert story.used() == {"a-1": 1, "a-2": 0}
    (first, _) = story.call("GET", "nodes")["items"]
    assert first["preempts"] and [p["compute_milli"] for p in first["parts"]] == [900]

    told = story.until("train", "how it fares", lambda j: j["sharing"] and j["sharing"][0]["busy"])
    (fares,) = told["sharing"]
    assert 0 < fares["used_bytes"] <= fares["cap_bytes"] == 1 << 30
    assert fares["incarnation"] == 1 and fares["held_s"] >= fares["lost_s"] >= 0.0
    assert told["share"]["lost_s"] <= fares["lost_s"], "what is charged is what was lost"
    (device,) = [d for d in story.call("GET", "accelerators")["items"] if d["node"] == "a-1"]
    assert device["given"] == {"compute_milli": 900, "memory_bytes": 2 << 30}
    assert {s["name"] for s in device["sharers"]} == {"serve", "train"}
    kinds = [reason["kind"] for reason in story.call("GET", "jobs/train/why")["reasons"]]
    assert kinds[0] == "placed" and "sharing" in kinds

    story.call("POST", "jobs/train/suspend")
    story.state("train", "suspended")
    story.progress("served")
    assert story.used() == {"a-1": 1, "a-2": 0}
    story.call("POST", "jobs/train/resume")
    story.state("train", "running")
    assert story.seat("train") == ("a-1", [0])
    story.progress("loss-0.csv")

    story.call("POST", "jobs/train/move", {"to": "node/a-2"})
    story.until("train", "is there", lambda j: j["state"] == "running" and _node(j) == "a-2")
    assert story.used() == {"a-1": 1, "a-2": 1}
    story.progress("served")
    story.over.touch()
    for name in ("serve", "train"):
        story.state(name, "succeeded")
    assert story.used() == {"a-1": 0, "a-2": 0}
    assert story.job("serve")["incarnation"] == 1
    alone, steps = story.out / "alone", str(story.lines("loss-0.csv"))
    run_plain(alone, 1, *TORCHRUN, paced, "--steps", steps, "--pause-s", "0", "--out", str(alone))
    assert (story.out / "loss-0.csv").read_bytes() == (alone / "loss-0.csv").read_bytes()


def _node(job: Json) -> str:
    return str(job["placement"][0]["node"])


def test_a_share_that_no_device_can_give_is_refused(story: Story) -> None:
    for share, told in (
        ({"memory": "900TiB", "compute": "10%"}, "share.memory: no cpu has"),
        ({"memory": "1GiB", "compute": "0%"}, "from 1% to 100%"),
    ):
        body = {"name": "job", "run": "true", "share": share}
        response = story.http.post("/v1/jobs", json=body)
        assert response.status_code in (409, 422), response.text
        assert told in response.text
