"""What is physically so, whatever anybody believes: ranks, their steps, and images on disks.

The laws that the whole system is held to are asserted here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from singularity.primitives.holdings import overfull
from singularity.primitives.messages import Start
from singularity.primitives.model import Checkpoint, Engine, JobId
from singularity.primitives.nodes import Node, NodeId
from singularity.primitives.sharing import Part, changed


@dataclass(frozen=True, slots=True)
class Program:
    """What a simulated job does, read from its command line: `steps` mini-batches of `step_s`
    seconds each; with `free` it has no boundary to hold at. It exits with `code` at the end. What
    is not `carried` no transparent engine can dump."""

    steps: int
    step_s: float
    free: bool = False
    code: int = 0
    carried: bool = True

    def line(self) -> tuple[str, ...]:
        return (
            str(self.steps),
            str(self.step_s),
            "free" if self.free else "stepped",
            str(self.code),
            "carried" if self.carried else "stuck",
        )

    @classmethod
    def read(cls, line: tuple[str, ...]) -> Program:
        steps, step_s, kind, code, moves = line
        return cls(int(steps), float(step_s), kind == "free", int(code), moves == "carried")


@dataclass(frozen=True, slots=True)
class Image:
    """One shard on the volume."""

    job: JobId
    ranks: tuple[int, ...]
    step: int
    engine: Engine


@dataclass(slots=True)
class Ranks:
    """One incarnation's ranks on one node. They outlive the agent that started them.

    `stop` and `commit` are what is written on their pages. `exit_code` is the record of how they
    ended by themselves; `gone` when none is left for whatever reason; `hung` when they
    will never make another step.
    """

    start: Start
    program: Program
    step: int = 0
    up: bool = False
    stop: int = 0
    commit: int = 0
    holding: bool = False
    parked: bool = False
    gone: bool = False
    hung: bool = False
    exit_code: int | None = None

    @property
    def key(self) -> tuple[JobId, int]:
        return (self.start.job, self.start.incarnation)

    def write(self, stop: int, commit: int) -> None:
        """The agent writes the pages; ranks at rest look at them at once."""
        self.stop, self.commit = stop, commit
        if self.holding and commit == self.step:
            self.parked = True
        elif self.holding and not self.parked and not 0 < stop <= self.step:
            self.holding = False

    def wake(self) -> None:
        self.parked = self.holding = False
        self.stop = self.commit = 0

    def boundary(self) -> None:
        """One mini-batch is done."""
        self.step += 1
        if not self.program.free and self.stop and self.step >= self.stop:
            self.holding = True
            self.parked = self.commit == self.step


class Physics:
    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self._gangs: dict[tuple[JobId, int], dict[NodeId, Ranks]] = {}
        self._progressed: dict[JobId, int] = {}
        self.lost_steps = 0
        self._furthest: dict[JobId, int] = {}
        self.worked_s = 0.0  # device-seconds of steps done

    def launch(self, start: Start) -> Ranks:
        """Never twice on one node."""
        gang = self._gangs.setdefault((start.job, start.incarnation), {})
        assert start.node not in gang, f"launched twice: {start.job} on {start.node}"
        origin = start.origin
        if origin is not None:
            there = {r for i in origin.shards for r in self._image(i.digest, origin.step).ranks}
            assert set(start.ranks) <= there, f"{start.job}: ranks without an image"
        step = origin.step if origin else 0
        program = Program.read(start.run)
        if start.aside is not None:  # runs a part of the program, and the answer is its end
            most = min(step + start.aside.steps, program.steps)
            program = replace(program, steps=most, code=0)
        ranks = gang[start.node] = Ranks(start, program, step)
        if len(gang) == 1:
            self.lost_steps += max(0, self._furthest.get(start.job, 0) - step)
            self._furthest[start.job] = step
        return ranks

    def may_step(self, ranks: Ranks) -> bool:
        """Collectives: nobody is more than one mini-batch ahead of anybody."""
        gang = self._gangs[ranks.key]
        whole = len(gang) == len(ranks.start.gang)
        return (
            whole
            and all(r.up and r.step >= ranks.step for r in gang.values())
            and not any(r.gone and r.step == ranks.step for r in gang.values())
        )

    def broken(self, ranks: Ranks) -> bool:
        """Has a peer gone in the middle of the work? One that is done with it misses nobody."""
        gang = self._gangs[ranks.key]
        return ranks.step < ranks.program.steps and any(
            r.gone and r.step <= ranks.step for r in gang.values()
        )

    def stepped(self, ranks: Ranks, seconds: float) -> None:
        """At most one incarnation of a job makes progress."""
        job, incarnation = ranks.key
        newest = self._progressed.get(job, 0)
        assert incarnation >= newest, f"{job}: {incarnation} runs although {newest} has run"
        self._progressed[job] = incarnation
        self._furthest[job] = max(self._furthest.get(job, 0), ranks.step)
        self.worked_s += seconds * ranks.start.devices

    def verify(self, job: JobId, made: Checkpoint, ranks: int) -> None:
        """A checkpoint counts only when all its shards exist, at one step, with every rank."""
        found = sorted(
            rank for i in made.shards for rank in self._image(i.digest, made.step, job).ranks
        )
        assert found == list(range(ranks)), (job, found)

    def verify_finished(self, job: JobId, incarnation: int) -> None:
        gang = self._gangs[(job, incarnation)]
        short = {n: r.step for n, r in gang.items() if r.step != r.program.steps}
        assert not short, f"{job} succeeded before it was done: {short}"

    def verify_room(self, node: Node, procs: Mapping[JobId, Ranks]) -> None:
        """What the ranks of one node really use are devices that it has, and no more of each than
        there is."""
        whole, parts = 0, tuple[Part, ...]()
        for start in (r.start for r in procs.values() if not r.gone):
            if start.share is None:
                whole += start.devices
            else:
                assert len(set(start.indices)) == len(start.ranks), start
                parts = changed(parts, frozenset(start.indices), start.share, 1)
        fault = overfull(replace(node, used=whole + len(parts), parts=parts))
        assert not fault, f"{node.id} {fault}"

    def gangs(self) -> Iterator[Mapping[NodeId, Ranks]]:
        return iter(self._gangs.values())

    def _image(self, digest: str, step: int, job: JobId | None = None) -> Image:
        image = self.images.get(digest)
        assert image is not None, f"image {digest} does not exist"
        # Programs that save themselves do so when the signal comes; rank 0 tells the step.
        at_one = image.engine is Engine.TRANSPARENT or 0 in image.ranks
        assert image.step == step or not at_one, (digest, image.step, step)
        assert job is None or image.job == job, (digest, job)
        return image
