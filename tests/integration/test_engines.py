"""Programs that save themselves, on real processes: asked by a signal, begun anew from their files;
and what leads from one engine to the next on a whole planet."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nodes import JOB, LocalNode, Planet, origin, planet, resumed
from sandboxes import until

from singularity.agent.proof import find_criu, probe
from singularity.agent.runtime.sandbox import Sandbox
from singularity.cli import embedded
from singularity.cli.fleet import Cluster, Fleet, Region
from singularity.primitives.cooperation import Cooperation
from singularity.primitives.messages import Report, Start, Stop
from singularity.primitives.model import Engine, Unable
from singularity.primitives.nodes import NodeId
from tests.integration.plain import run_plain
from tests.integration.test_chaos import Story, elsewhere, results, runs

SCRIPT = Path(__file__).parent / "jobs" / "selfsaving.py"
STEPS = 120
ALL = {"a": (0, 1)}
SPLIT = {"b": (0,), "c": (1,)}
COOPERATIVE = Engine.COOPERATIVE

needs_criu = pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Planet]:
    with planet(tmp_path, f"sge{os.getpid() % 0xFFFFFF:x}") as made:
        yield made


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The losses under plain torchrun, never signalled."""
    out = tmp_path_factory.mktemp("reference")
    options = ("--steps", str(STEPS), "--pause-s", "0", "--out", str(out))
    run_plain(out, 2, str(SCRIPT), *options, "--ckpt", str(out / "none.pt"))
    return results(out)


class Gang:
    """The program on nodes of `world`; `options` are its own."""

    def __init__(self, world: Planet, *options: str, within_s: float = 30.0) -> None:
        self.world, self.file = world, world.root / "ckpt" / "latest.pt"
        self._run = (sys.executable, str(SCRIPT), "--steps", str(STEPS), "--out", str(world.out))
        self._run += ("--ckpt", str(self.file), *options)
        self._asked = Cooperation("SIGUSR1", (str(self.file),), within_s)

    def starts(self, placement: dict[str, tuple[int, ...]], incarnation: int) -> dict[str, Start]:
        made = self.world.start(placement, incarnation, STEPS)
        changes = {"run": self._run, "cooperation": self._asked}
        return {name: start.model_copy(update=changes) for name, start in made.items()}

    def begin(self, placement: dict[str, tuple[int, ...]], incarnation: int = 1) -> None:
        self.send(self.starts(placement, incarnation))
        self.progress()

    def send(self, starts: dict[str, Start]) -> None:
        for name, start in starts.items():
            self.world.node(name).send(start)
        for name in starts:
            assert self.world.node(name).report().phase == "running"

    def progress(self, steps: int = 8) -> None:
        goal = self.world.steps() + steps
        until(lambda: self.world.steps() >= goal, f"step {goal}")

    def cut(self, *names: str, keep_running: bool) -> list[Report]:
        for name in names:
            self.world.node(name).cut(1, 1, keep_running=keep_running, engine=COOPERATIVE)
        return [self.world.node(name).report() for name in names]


def ended(node: LocalNode) -> Report:
    while (report := node.report()).phase == "running":
        pass
    return report


def test_a_program_saves_itself_and_goes_on_elsewhere_from_its_file(
    world: Planet, reference: list[bytes]
) -> None:
    gang = Gang(world, "--save-s", "0.3")
    gang.begin(ALL)
    (gone,) = gang.cut("a", keep_running=False)
    assert (gone.phase, gone.cut) == ("dumped", 1)
    assert gone.image is not None and gone.image.engine is COOPERATIVE and gone.image.step >= 8
    assert gone.seconds["dump"] >= 0.3, "the file was not taken before it was closed"
    gang.file.unlink()
    gang.send(resumed(gang.starts(SPLIT, 2), origin(gone)))
    assert gang.file.exists(), "put back where the program looks for it"
    ends = [ended(world.node(n)) for n in SPLIT]
    assert [e.exit_code for e in ends] == [0, 0]
    assert all(gone.step + 8 <= e.step <= STEPS for e in ends), "counted on from the one before"
    assert world.losses() == reference


def test_two_nodes_save_and_run_on_and_a_killed_rank_costs_what_came_after(
    world: Planet, reference: list[bytes]
) -> None:
    gang = Gang(world)
    gang.begin(SPLIT)
    kept = gang.cut(*SPLIT, keep_running=True)
    assert [r.phase for r in kept] == ["running"] * 2 and all(r.image for r in kept)
    gang.progress()
    kill(world, "c", 1, gang.starts(SPLIT, 1)["c"])
    assert ended(world.node("c")).phase == "lost"
    world.node("b").send(Stop(job=JOB, node=NodeId("b"), incarnation=1))
    assert ended(world.node("b")).phase in ("stopped", "exited")
    gang.send(resumed(gang.starts(ALL, 2), origin(*kept)))
    assert ended(world.node("a")).exit_code == 0
    assert world.losses() == reference


def kill(world: Planet, name: str, rank: int, start: Start) -> None:
    found = Sandbox.adopt(world.node(name).layout.sandbox(start, rank))
    assert found is not None and found.pid is not None
    os.kill(found.pid, signal.SIGKILL)


def test_a_program_that_ends_when_it_has_saved_itself_has_not_finished(
    world: Planet, reference: list[bytes]
) -> None:
    gang = Gang(world, "--after", "end")
    gang.begin(ALL)
    (kept,) = gang.cut("a", keep_running=True)
    assert kept.image is not None
    gone = ended(world.node("a"))
    assert (gone.phase, gone.exit_code) == ("lost", None) and "saved itself" in gone.reason
    gang.send(resumed(gang.starts(ALL, 2), origin(kept)))
    assert ended(world.node("a")).exit_code == 0, "of one that nobody signalled it is believed"
    assert world.losses() == reference


def test_a_rank_that_would_die_of_the_signal_is_not_given_it(
    world: Planet, reference: list[bytes]
) -> None:
    gang = Gang(world, "--deaf")
    gang.begin(ALL)
    (said,) = gang.cut("a", keep_running=False)
    assert (said.phase, said.image, said.unable) == ("running", None, Unable.JOB)
    assert "no handler for SIGUSR1" in said.reason
    assert ended(world.node("a")).exit_code == 0
    assert world.losses() == reference


def test_files_that_never_come_cost_nothing_but_the_wait(
    world: Planet, reference: list[bytes]
) -> None:
    gang = Gang(world, "--after", "never", within_s=1.0)
    gang.begin(ALL)
    (said,) = gang.cut("a", keep_running=False)
    assert (said.phase, said.image, said.unable) == ("running", None, None)
    assert "within 1 s" in said.reason and f"{gang.file} is not there" in said.reason
    assert ended(world.node("a")).exit_code == 0
    assert world.losses() == reference


def test_an_agent_that_dies_while_the_program_saves_itself_asks_again(
    world: Planet, reference: list[bytes]
) -> None:
    gang = Gang(world, "--save-s", "1")
    gang.begin(ALL)
    node = world.node("a")
    node.cut(1, 1, keep_running=False, engine=COOPERATIVE)
    until(gang.file.exists, "it began to save itself")
    node.restart()
    gone = node.report()
    assert gone.phase == "dumped" and gone.image is not None
    gang.send(resumed(gang.starts(ALL, 2), origin(gone)))
    assert ended(node).exit_code == 0
    assert world.losses() == reference


# -- the chain, on a planet ----------------------------------------------------------------------


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    tmp_path.chmod(0o755)
    (tmp_path / "out").mkdir()
    regions = {
        name: Region(clusters={f"{name}-a": Cluster(nodes=1, device="cpu", devices=2)})
        for name in ("north", "south")
    }
    with embedded.Planet(tmp_path / "planet", Fleet(regions=regions)) as made:
        told = Story(made, tmp_path / "out")
        yield told
        told.close()


def submit(story: Story, **checkpoint: Any) -> Path:
    """A job with a pipe to us, which no dump can carry; the file it saves itself to."""
    root = story.out.parent
    fifo, file = root / "fifo", root / "ckpt" / "latest.pt"
    os.mkfifo(fifo)

    def drain() -> None:  # each life opens it anew, on both ranks
        while True:
            with fifo.open("rb") as end:
                end.read()

    threading.Thread(target=drain, daemon=True).start()
    run = [sys.executable, str(SCRIPT), "--steps", "400", "--out", str(story.out)]
    run += ["--ckpt", str(file), "--fifo", str(fifo)]
    spec = {"name": "j", "run": run, "ranks": 2, "devices": "cpu:2", "checkpoint": checkpoint}
    story.id = story.call("POST", "jobs", spec)["id"]
    story.until("running", runs)
    story.progress()
    return file


def whole(story: Story) -> bool:
    """Both ranks have each step once."""
    found = [[x.split(b",")[0] for x in data.splitlines()] for data in results(story.out)]
    return found == [[b"%d" % i for i in range(400)]] * 2


@needs_criu
def test_what_cannot_be_carried_is_saved_by_its_own_program_and_says_so(story: Story) -> None:
    file = story.out.parent / "ckpt" / "latest.pt"
    submit(story, signal="SIGUSR1", path=str(file))
    away = elsewhere(story.home())
    assert story.job()["checkpointing"]["engine"] == "transparent"
    story.call("POST", f"jobs/{story.id}/move", {"to": f"region/{away}"})
    job = story.until(f"in {away}", lambda job: runs(job) and job["region"] == away)
    assert job["checkpoint"]["engine"] == "cooperative" and job["checkpoint"]["step"] > 0
    events = story.call("GET", f"jobs/{story.id}/events")["items"]
    (told,) = [e for e in events if e["event"] == "engine"]
    assert told["facts"]["engine"] == "cooperative" and "fifo" in told["facts"]["why"]
    story.until("succeeded", lambda job: job["state"] == "succeeded")
    assert whole(story)


@needs_criu
def test_what_nothing_can_keep_begins_again_only_where_its_owner_allowed_it(story: Story) -> None:
    submit(story, engines=["transparent", "restart"])
    story.call("POST", f"jobs/{story.id}/checkpoints")
    job = story.until("the label", lambda job: job["checkpointing"]["engine"] == "restart")
    assert runs(job) and "fifo" in job["checkpointing"]["reason"]
    why = story.call("GET", f"jobs/{story.id}/why")["reasons"]
    assert any(r["kind"] == "engine" and r["detail"].startswith("restart") for r in why)
    story.call("POST", f"jobs/{story.id}/suspend")
    job = story.until("suspended", lambda job: job["state"] == "suspended")
    assert job["checkpoint"] is None
    story.call("POST", f"jobs/{story.id}/resume")
    story.until("succeeded", lambda job: job["state"] == "succeeded")
    lives = story.call("GET", f"jobs/{story.id}/incarnations")["items"]
    assert [life["step_from"] for life in lives] == [0, 0]
    assert any(life["lost_s"] for life in lives), "and what that cost is told"
    assert whole(story)
