"""A checkpoint restored beside the job that made it, on real processes: what is found, and that
nothing of the job is touched and nothing is left behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import JOB, LocalNode, Planet, origin, planet
from sandboxes import until

from singularity.agent.proof import find_criu, probe
from singularity.agent.runtime.sandbox import Sandbox
from singularity.primitives.findings import Certificate, Finding
from singularity.primitives.messages import Report, Start, Stop
from singularity.primitives.model import Aside, JobId
from singularity.primitives.nodes import NodeId

SHADOW = JobId("job-aside")
SCRIPT = Path(__file__).parent / "jobs" / "compared.py"
STEPS, LONG = 400, 100_000
AHEAD = 6

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok,
    reason="CRIU does not run here as root",
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Planet]:
    with planet(tmp_path, f"sga{os.getpid() % 0xFFFFFF:x}") as made:
        yield made


def begin(world: Planet, ranks: tuple[int, ...], *options: str, steps: int = STEPS) -> Start:
    (start,) = world.start({"a": ranks}, 1, steps).values()
    run = (sys.executable, str(SCRIPT), "--steps", str(steps), "--out", str(world.out), *options)
    start = start.model_copy(update={"run": run})
    node = world.node("a")
    node.send(start)
    assert node.report().phase == "running"
    until(lambda: world.steps() >= 4, "step 4")
    return start


def cut(world: Planet, note_after: int = AHEAD) -> Report:
    node = world.node("a")
    node.cut(1, 1, keep_running=True, note_after=note_after)
    report = node.report()
    assert report.image is not None, report.reason
    return report


def shadow(world: Planet, start: Start, cut: Report, node: str, number: int = 0) -> Start:
    changes = {
        "job": SHADOW,
        "node": NodeId(node),
        "gang": (NodeId(node),),
        "slots": (0,) * len(start.ranks),
        "devices": 1,
        "origin": origin(cut),
        "aside": Aside(JOB, AHEAD, incarnation=min(number, 1), cut=number),
    }
    return start.model_copy(update=changes)


def answer(node: LocalNode, job: JobId = SHADOW) -> Report:
    """How the ranks of `job` ended."""
    while (report := node.report()).job != job or report.phase == "running":
        pass
    return report


def certified(world: Planet, start: Start, cut: Report, node: str = "b") -> Certificate:
    world.node(node).send(shadow(world, start, cut, node))
    report = answer(world.node(node))
    assert report.certificate is not None, report.reason
    assert (report.phase, report.exit_code) == ("exited", 0)
    return report.certificate


def nothing_left(node: LocalNode) -> None:
    assert not node.layout.page(SHADOW, 0).parent.exists()
    assert not node.layout.job(SHADOW).exists()
    assert list(node.layout.sandboxes.iterdir()) == []
    homes = [home for home in node.layout.scratch.homes if home.exists()]
    left = [path for home in homes for path in home.iterdir()]
    assert all(path.name.startswith(f"recent.{JOB}.") for path in left), left
    assert list((node.layout.node_dir / "views").iterdir()) == []


@pytest.mark.parametrize("ranks", [(0,), (0, 1)])
def test_a_training_is_found_identical_and_is_not_touched(
    world: Planet, ranks: tuple[int, ...]
) -> None:
    start = begin(world, ranks)
    made = cut(world)
    found = certified(world, start, made)
    assert (found.finding, found.parameters) == (Finding.IDENTICAL, "identical"), found.reason
    assert (found.step, found.steps, found.differs_at) == (made.step, AHEAD, None)
    assert found.files == len(ranks)
    assert found.bytes > 0
    nothing_left(world.node("b"))
    assert answer(world.node("a"), JOB).exit_code == 0
    for rank in ranks:
        lines = (world.out / f"loss-{rank}.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == [str(i) for i in range(STEPS)]
    saved = (world.out / "last.txt").read_text()
    assert saved == f"{STEPS - 1}\n", "what the ranks aside wrote under a name, only they saw"


def test_a_job_that_computes_with_the_time_is_found_to_differ(world: Planet) -> None:
    start = begin(world, (0,), "--by-the-clock", steps=LONG)
    found = certified(world, start, cut(world))
    assert (found.finding, found.parameters) == (Finding.DIFFERS, "differ"), found.reason
    assert found.differs_at is not None
    assert found.step <= found.differs_at <= found.step + AHEAD
    assert "loss-0.csv" in found.reason


def test_an_older_cut_is_compared_by_its_files_alone(world: Planet) -> None:
    start = begin(world, (0,))
    made = cut(world, note_after=0)
    node = world.node("b")
    node.send(shadow(world, start, made, "b", number=1))
    found = answer(node).certificate
    assert found is not None
    assert (found.finding, found.parameters, found.files) == (Finding.IDENTICAL, "", 1)


def test_a_program_that_breaks_aside_is_not_comparable_and_says_why(world: Planet) -> None:
    flag = world.out / "break"
    start = begin(world, (0,), "--break-on", str(flag), steps=LONG)
    made = cut(world)
    until(lambda: world.steps() > made.step + 3, "the job gets ahead of its cut")
    draft = flag.with_suffix(".new")
    draft.write_text(str(world.steps()))  # the job is past this step, its shadow is not
    draft.rename(flag)
    found = certified(world, start, made)
    assert found.finding is Finding.INCOMPARABLE
    assert "rank 0 ended with code 7" in found.reason
    nothing_left(world.node("b"))


def test_an_agent_killed_in_the_middle_leaves_nothing_behind(world: Planet) -> None:
    start = begin(world, (0, 1), "--slow", steps=LONG)
    made = cut(world)
    node = world.node("b")
    node.send(shadow(world, start, made, "b"))
    assert node.report().phase == "running"
    ranks = [node.layout.sandbox(shadow(world, start, made, "b"), r) for r in start.ranks]
    pids = [found.pid for p in ranks if (found := Sandbox.adopt(p)) is not None]
    assert len(pids) == 2
    node.restart()
    report = answer(node)
    assert (report.phase, report.certificate) == ("lost", None)
    nothing_left(node)
    for pid in pids:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    goal = world.steps() + 3
    until(lambda: world.steps() >= goal, "the job itself goes on")


def test_a_shadow_that_is_stopped_is_gone_at_once(world: Planet) -> None:
    start = begin(world, (0,), "--slow", steps=LONG)
    made = cut(world)
    node = world.node("b")
    node.send(shadow(world, start, made, "b"))
    assert node.report().phase == "running"
    node.send(Stop(job=SHADOW, node=NodeId("b"), incarnation=1))
    assert answer(node).phase == "stopped"
    nothing_left(node)
