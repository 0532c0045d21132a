"""A rank that waits for ever in the user's code is found, its stack is kept, and the gang goes back
to its last cut. Real torch, real py-spy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import JOB, Planet, origin, planet, resumed
from sandboxes import until

from singularity.agent.proof import find_criu, probe
from singularity.api.stacks import stacks, text
from singularity.primitives.errors import NotFound
from singularity.primitives.messages import Report, Start, Stop

SCRIPT = Path(__file__).parent / "jobs" / "hanging.py"
STEPS, HANGS_AT, HANG_AFTER_S = 60, 40, 3.0
SPLIT = {"a": (0,), "b": (1,)}

needs_criu = pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Planet]:
    with planet(tmp_path, f"sgn{os.getpid() % 0xFFFFFF:x}") as made:
        yield made


def starts(world: Planet, incarnation: int) -> dict[str, Start]:
    run = (sys.executable, str(SCRIPT), "--steps", str(STEPS), "--at", str(HANGS_AT))
    run += ("--marker", str(world.root / "marker"), "--out", str(world.out))
    changes = {"run": run, "hang_after_s": HANG_AFTER_S}
    made = world.start(SPLIT, incarnation, STEPS)
    return {name: start.model_copy(update=changes) for name, start in made.items()}


def phase(world: Planet, name: str, wanted: str) -> Report:
    """The next report of that phase; others may come before it."""
    while (report := world.node(name).report()).phase != wanted:
        assert report.phase in ("running", "hung"), report
    return report


@needs_criu
def test_a_hang_is_found_kept_and_undone(world: Planet) -> None:
    for name, start in starts(world, 1).items():
        world.node(name).send(start)
    for name in SPLIT:
        phase(world, name, "running")
    until(lambda: world.steps() >= 5, "some steps")
    for name in SPLIT:
        world.node(name).cut(1, 1, keep_running=True)
    kept = [phase(world, name, "running") for name in SPLIT]
    found = phase(world, "b", "hung")
    assert found.step == HANGS_AT + 1
    assert found.reason == f"rank 1 has made no step for more than 3 s, after {HANGS_AT + 1}"
    for name in SPLIT:  # as the control plane does when one of them has said it
        world.node(name).send(Stop(job=JOB, node=world.node(name).name, incarnation=1, stacks=True))
    for name in SPLIT:
        phase(world, name, "stopped")
    volume = world.node("a").layout.volume
    assert [(s.incarnation, s.rank) for s in stacks(volume, JOB)] == [(1, 0), (1, 1)]
    culprit = "".join(text(volume, JOB, 1, 1))
    assert "wait_for_what_never_comes (hanging.py:" in culprit, culprit
    assert "rank 1 has made no step" in culprit
    peer = "".join(text(volume, JOB, None, 0))
    assert "backward" in peer or "model" in peer, "its peer waits in a collective"
    with pytest.raises(NotFound):
        text(volume, JOB, 2, None)
    (world.root / "marker").touch()
    for name, start in resumed(starts(world, 2), origin(*kept)).items():
        world.node(name).send(start)
    for name in SPLIT:
        assert phase(world, name, "exited").exit_code == 0
    steps = [line.split(b",")[0] for line in world.losses()[1].splitlines()]
    assert steps == [b"%d" % i for i in range(STEPS)], "each step once"


def test_an_agent_that_restarts_while_a_rank_hangs_still_finds_it(world: Planet) -> None:
    for name, start in starts(world, 1).items():
        world.node(name).send(start)
    for name in SPLIT:
        phase(world, name, "running")
    until(lambda: world.steps() > HANGS_AT, "the step at which one hangs")
    world.node("b").restart()
    assert phase(world, "b", "hung").step == HANGS_AT + 1
    assert "hanging.py" in "".join(text(world.node("b").layout.volume, JOB, 1, 1))
