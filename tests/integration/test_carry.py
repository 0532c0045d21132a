"""Every way people run PyTorch, unchanged: cut by the real barrier, dumped by the real CRIU,
restored on other nodes; every loss and every weight as in a run that nobody touched.

A choice of them here; `make carry` for all."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import LocalNode, Planet, origin, planet, resumed
from sandboxes import until

from singularity.agent.proof import find_criu, probe
from singularity.primitives.messages import Report
from singularity.primitives.model import Unable
from tests.integration.plain import run_plain

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)

SCRIPT = Path(__file__).parent / "jobs" / "carry.py"
STEPS = 400  # 16 s and more while they are slow
PATIENCE_S = 120.0  # torch.compile on a machine that is very busy
RANKS = {"script": 1, "alone": 1, "compiled-step": 1, "hsdp": 4}  # else two
RANKS |= {
    "islands": 4,
    "apart": 4,
    "grid": 4,
    "pipeline": 3,
    "eight": 8,
    "evaluator": 3,
    "server": 3,
}
STARTING = ("spawned", "forked-fed", "launched")  # the plane starts one, which starts two
RANKS |= dict.fromkeys(STARTING, 1)
CASES = (
    *("script", "alone", "ddp", "zero", "fsdp2", "hsdp", "accumulate", "optimizers"),
    *("forked", "persistent", "compiled", "compiled-step", "talk", "inference", "by-hand"),
    *("spawned", "forked-fed", "apart", "grid", "pipeline", "islands", "eight"),
    *("evaluator", "server"),
)
OFTEN = (
    *("script", "ddp", "fsdp2", "persistent", "compiled", "talk", "inference", "grid", "spawned"),
    "evaluator",
)
CHOSEN = CASES if os.environ.get("SINGULARITY_CARRY") == "all" else OFTEN
NAMED = {  # what is said of jobs that cannot be carried
    "spawned-fed": "shares a semaphore by name",
    "served-fed": "shares a semaphore by name",
    "launched": "TCP connection within the job",
}
KEPT_RUNNING = (
    "alone",
    "ddp",
    "persistent",
    "inference",
    "apart",
    "grid",
    "pipeline",
    "spawned",
    "evaluator",
)  # cut once before, and they go on


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Planet]:
    with planet(tmp_path, f"sgc{os.getpid() % 0xFFFFFF:x}") as made:
        made.cut_deadline_s = PATIENCE_S  # a refusal is said before
        yield made


def untouched(case: str, ranks: int, out: Path) -> list[bytes]:
    """The files of a run of its own, as people start it."""
    run_plain(out, ranks, *words(case, out))
    return logs(out)


def words(case: str, out: Path) -> list[str]:
    script = SCRIPT.with_name("launching.py") if case in STARTING else SCRIPT
    return [str(script), case, "--out", str(out), "--steps", str(STEPS)]


def logs(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(out.glob("loss-*.csv"))]


def progress(world: Planet, node: LocalNode, steps: int = 6) -> None:
    goal = world.steps() + steps
    until(lambda: world.steps() >= goal or not node.reports.empty(), f"step {goal}", PATIENCE_S)
    assert node.reports.empty(), f"{node.report()}\n{said(world)}"


def said(world: Planet) -> str:
    return "".join(p.read_text() for p in (world.root / "volume").glob("jobs/*/logs/*"))


def ended(world: Planet, node: LocalNode) -> Report:
    """However long the rest of the training takes: it may not stand still for as long as a report
    is waited for."""
    while True:
        steps = world.steps()
        try:
            report = node.report()
        except queue.Empty:
            assert world.steps() > steps, f"nothing happens at step {steps}\n{said(world)}"
            continue
        if report.phase != "running":
            assert report.exit_code == 0, f"{report}\n{said(world)}"
            return report


@pytest.mark.parametrize("case", CHOSEN)
def test_it_is_carried_and_its_numbers_stay_the_same(world: Planet, case: str) -> None:
    ranks = RANKS.get(case, 2)
    run = (sys.executable, *words(case, world.out))
    slow = world.out / "slow"
    slow.touch()
    here = {"a": tuple(range(ranks))}
    there = {"b": here["a"][: (ranks + 1) // 2], "c": here["a"][(ranks + 1) // 2 :]}
    there = {node: mine for node, mine in there.items() if mine}
    node = world.node("a")
    node.send(world.start(here, 1, STEPS)["a"].model_copy(update={"run": run}))
    assert node.report().phase == "running"
    progress(world, node)
    if case in KEPT_RUNNING:
        node.cut(1, 1, keep_running=True)
        kept = node.report()
        assert kept.image is not None, kept.reason
        progress(world, node)
    node.cut(1, 2, keep_running=False)
    gone = node.report()
    assert gone.phase == "dumped", gone.reason or gone
    assert world.steps() < STEPS, "it was still at work"
    slow.unlink()
    for name, start in resumed(world.start(there, 2, STEPS), origin(gone)).items():
        world.node(name).send(start.model_copy(update={"run": run}))
    for name in there:
        report = world.node(name).report()
        assert report.phase == "running", report
    for name in there:
        ended(world, world.node(name))
    assert logs(world.out) == untouched(case, ranks, world.root / "untouched")


@pytest.mark.skipif(CHOSEN is not CASES, reason="make carry tries them")
@pytest.mark.parametrize("case", sorted(NAMED))
def test_what_cannot_be_carried_is_named_and_ends_as_if_untouched(world: Planet, case: str) -> None:
    ranks = RANKS.get(case, 2)
    run = (sys.executable, *words(case, world.out))
    slow = world.out / "slow"
    slow.touch()
    node = world.node("a")
    start = world.start({"a": tuple(range(ranks))}, 1, STEPS)["a"]
    node.send(start.model_copy(update={"run": run}))
    assert node.report().phase == "running"
    progress(world, node)
    node.cut(1, 1, keep_running=False)
    refused = node.report()
    assert (refused.phase, refused.unable) == ("running", Unable.JOB), refused
    assert NAMED[case] in refused.reason
    slow.unlink()
    ended(world, node)
    assert logs(world.out) == untouched(case, ranks, world.root / "untouched")


def test_nodes_that_count_to_different_numbers_make_one_checkpoint(world: Planet) -> None:
    """The evaluator comes to more, or to less, than those who train; later on other nodes, too."""
    run = (sys.executable, *words("evaluator", world.out))
    slow = world.out / "slow"
    slow.touch()
    placed = {"a": (0, 1), "b": (2,)}
    nodes = [world.node(name) for name in placed]
    for node in nodes:
        start = world.start(placed, 1, STEPS)[node.name]
        node.send(start.model_copy(update={"run": run}))
    for node in nodes:
        assert node.report().phase == "running"
    progress(world, nodes[0])
    for node in nodes:
        node.cut(1, 1, keep_running=False)
    gone = [node.report() for node in nodes]
    first = origin(*gone)
    assert 0 < first.step <= world.steps() + 1, "it is told in mini-batches"
    other = {"b": (0,), "c": (1, 2)}
    nodes = [world.node(name) for name in other]
    for node in nodes:
        start = resumed(world.start(other, 2, STEPS), first)[node.name]
        node.send(start.model_copy(update={"run": run}))
    for node in nodes:
        assert node.report().phase == "running"
    progress(world, nodes[0])
    for node in nodes:
        node.cut(2, 2, keep_running=True)
    images = [node.report() for node in nodes]
    assert origin(*images).step > first.step
    slow.unlink()
    for node in nodes:
        ended(world, node)
    assert logs(world.out) == untouched("evaluator", 3, world.root / "untouched")


def test_messages_that_cross_every_mini_batch_are_named_and_the_job_goes_on(world: Planet) -> None:
    """No rank could park: what it has sent is received only after the next boundary."""
    world.cut_deadline_s = 8.0
    run = (sys.executable, *words("overtaken", world.out))
    slow = world.out / "slow"
    slow.touch()
    node = world.node("a")
    node.send(world.start({"a": (0, 1)}, 1, STEPS)["a"].model_copy(update={"run": run}))
    assert node.report().phase == "running"
    progress(world, node)
    node.cut(1, 1, keep_running=False)
    refused = node.report()
    assert (refused.phase, refused.image) == ("running", None)
    assert "has yet to begin its side of a message" in refused.reason
    slow.unlink()
    ended(world, node)
    assert logs(world.out) == untouched("overtaken", 2, world.root / "untouched")
