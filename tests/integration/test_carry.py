"""Every way people run PyTorch, unchanged: cut by the real barrier, dumped by the real CRIU,
restored on other nodes; every loss and every weight as in a run that nobody touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import LocalNode, Planet, origin, planet, resumed
from sandboxes import until

from singularity.agent.checkpoint import find_criu, probe
from singularity.primitives.messages import Report

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)

SCRIPT = Path(__file__).parent / "jobs" / "carry.py"
STEPS, PAUSE_S = 80, 0.04
PATIENCE_S = 120.0  # torch.compile on a machine that is very busy
RANKS = {"script": 1, "alone": 1, "hsdp": 4}  # else two
CASES = (
    *("script", "alone", "ddp", "zero", "fsdp2", "hsdp", "accumulate", "optimizers"),
    *("forked", "persistent", "compiled", "talk", "inference", "by-hand"),
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Planet]:
    with planet(tmp_path, f"sgc{os.getpid() % 0xFFFFFF:x}") as made:
        yield made


def untouched(case: str, ranks: int, out: Path) -> list[bytes]:
    """The files of a run of its own, as people start it."""
    out.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    argv = [sys.executable, *(launcher if ranks > 1 else []), *words(case, out, 0.0)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return logs(out)


def words(case: str, out: Path, pause_s: float) -> list[str]:
    return [str(SCRIPT), case, "--out", str(out), "--steps", str(STEPS), "--pause-s", str(pause_s)]


def logs(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(out.glob("loss-*.csv"))]


def progress(world: Planet, steps: int = 6) -> None:
    goal = world.steps() + steps
    until(lambda: world.steps() >= goal, f"step {goal}", PATIENCE_S)


def ended(world: Planet, node: LocalNode) -> Report:
    while (report := node.report()).phase == "running":
        pass
    said = "".join(p.read_text() for p in (world.root / "volume").glob("jobs/*/logs/*"))
    assert report.exit_code == 0, f"{report}\n{said}"
    return report


@pytest.mark.parametrize("case", CASES)
def test_it_is_carried_and_its_numbers_stay_the_same(world: Planet, case: str) -> None:
    ranks = RANKS.get(case, 2)
    run = (sys.executable, *words(case, world.out, PAUSE_S))
    here = {"a": tuple(range(ranks))}
    there = {"b": here["a"][: (ranks + 1) // 2], "c": here["a"][(ranks + 1) // 2 :]}
    there = {node: mine for node, mine in there.items() if mine}
    node = world.node("a")
    node.send(world.start(here, 1, STEPS)["a"].model_copy(update={"run": run}))
    assert node.report().phase == "running"
    progress(world)
    node.cut(1, 1, keep_running=True)
    kept = node.report()
    assert kept.image is not None, kept.reason
    progress(world)
    node.cut(1, 2, keep_running=False)
    gone = node.report()
    assert gone.phase == "dumped", gone
    assert world.steps() < STEPS, "it was still at work"
    for name, start in resumed(world.start(there, 2, STEPS), origin(gone)).items():
        world.node(name).send(start.model_copy(update={"run": run}))
    for name in there:
        assert world.node(name).report().phase == "running"
    for name in there:
        ended(world, world.node(name))
    assert logs(world.out) == untouched(case, ranks, world.root / "untouched")
