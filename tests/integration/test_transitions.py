"""One training through any schedule of what can happen to it: the numbers of a run left alone.

A schedule is drawn from a seed, which a failure names: checkpoints, suspensions, moves with some
ranks staying where they are, other slots. SINGULARITY_TRANSITIONS says how many in one run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from nodes import SCRIPT, Planet, origin, planet, resumed
from sandboxes import until

from singularity.agent.proof import find_criu, probe
from singularity.primitives.messages import Origin, Report, Start
from tests.integration.plain import run_plain

RANKS = 4
NODES = "abcd"
PAUSE_S = "0.02"
COUNT = int(os.environ.get("SINGULARITY_TRANSITIONS", "3"))
SEED = int(os.environ.get("SINGULARITY_SEED", "1"))

pytestmark = pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)

Placement = dict[str, tuple[int, ...]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Planet]:
    with planet(tmp_path, f"sgx{os.getpid() % 0xFFFFFF:x}") as made:
        yield made


class Gang:
    """The training, where it is, and what was done to it."""

    def __init__(self, world: Planet, random: Random) -> None:
        self._world, self._random = world, random
        self.over, self.done = world.root / "over", list[str]()
        self.life, self.cut, self.resize = 1, 0, 0
        self.placement = self._somewhere()
        self._start(None)

    def step(self) -> None:
        """One transition, and some mini-batches after it."""
        chosen = self._random.choice((self.checkpoint, self.suspend, self.move, self.reslot))
        chosen()
        goal = self._world.steps() + 5
        until(lambda: self._world.steps() >= goal, f"step {goal} after {self.done}")

    def checkpoint(self) -> None:
        self.done.append("checkpoint")
        for report in self._cut(keep_running=True, stay=None):
            assert (report.phase, report.cut) == ("running", self.cut), (report, self.done)

    def suspend(self) -> None:
        self.done.append("suspend")
        found = origin(*self._cut(keep_running=False, stay=None))
        self.placement = self._somewhere()
        self._go_on(found)

    def move(self) -> None:
        """Past the store; who is on its node already stays."""
        target = self._somewhere()
        stay = {n: tuple(set(r) & set(target.get(n, ()))) for n, r in self.placement.items()}
        self.done.append(f"move to {target}")
        found = origin(*self._cut(keep_running=False, stay=stay))
        self.placement = target
        self._go_on(found)

    def reslot(self) -> None:
        """Each node shares its devices in some other way."""
        self.resize += 1
        self.done.append("reslot")
        for name, ranks in self.placement.items():
            devices = self._random.randint(1, len(ranks))
            slots = tuple(i * devices // len(ranks) for i in range(len(ranks)))
            self._world.node(name).reslot(self.life, self.resize, slots)
        for name in self.placement:
            report = self._world.node(name).report()
            assert (report.phase, report.resize, report.reason) == ("running", self.resize, "")

    def end(self) -> None:
        self.over.touch()
        for name in self.placement:
            while (report := self._world.node(name).report()).phase == "running":
                pass
            assert report.exit_code == 0, (report, self.done)

    def _somewhere(self) -> Placement:
        """The ranks in order on one to four nodes."""
        nodes = sorted(self._random.sample(NODES, self._random.randint(1, len(NODES))))
        bounds = sorted(self._random.sample(range(1, RANKS), len(nodes) - 1))
        cuts = [0, *bounds, RANKS]
        return {n: tuple(range(cuts[i], cuts[i + 1])) for i, n in enumerate(nodes)}

    def _cut(self, *, keep_running: bool, stay: dict[str, tuple[int, ...]] | None) -> list[Report]:
        self.cut += 1
        for name in self.placement:
            staying = None if stay is None else tuple(sorted(stay[name]))
            node = self._world.node(name)
            node.cut(self.life, self.cut, keep_running=keep_running, stay=staying)
        reports = [self._world.node(name).report() for name in self.placement]
        assert all(r.image is not None for r in reports), (reports, self.done)
        return reports

    def _go_on(self, found: Origin) -> None:
        self.life += 1
        self._start(found)

    def _start(self, found: Origin | None) -> None:
        run = (sys.executable, str(SCRIPT), "--steps", "1000000", "--pause-s", PAUSE_S)
        run += ("--out", str(self._world.out), "--until", str(self.over))
        starts: dict[str, Start] = self._world.start(self.placement, self.life, 0)
        starts = resumed(starts, found) if found is not None else starts
        for name, start in starts.items():
            self._world.node(name).send(start.model_copy(update={"run": run}))
        for name in self.placement:
            report = self._world.node(name).report()
            assert report.phase == "running", (report, self.done)


def test_any_schedule_of_transitions_leaves_the_numbers_as_they_are(
    world: Planet, tmp_path: Path
) -> None:
    gang = Gang(world, Random(SEED))
    until(lambda: world.steps() >= 5, "step 5")
    for _ in range(COUNT):
        gang.step()
    gang.end()
    steps, out = world.steps(), tmp_path / "alone"
    options = ("--steps", str(steps), "--pause-s", "0", "--out", str(out))
    run_plain(out, RANKS, str(SCRIPT), *options)
    alone = [path.read_bytes() for path in sorted(out.glob("loss-*.csv"))]
    assert world.losses() == alone, f"seed {SEED}: {gang.done}"
