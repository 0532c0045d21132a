"""Engines of simulated cuts: which ranks are held, what a dump comes to, what an image is."""

from __future__ import annotations

from dataclasses import dataclass, field

from singularity.primitives.messages import Cut, Start
from singularity.primitives.model import Engine, Held, JobId, ShardImage, Unable
from singularity.primitives.nodes import NodeId

from .physics import Image, Physics, Program, Ranks

NO_CRIU = "CRIU is not installed"


def runs_on(cut: Cut, program: Program) -> bool:
    """Are the ranks cut wherever they are, and not held at a step?"""
    return program.free or cut.engine is Engine.COOPERATIVE


def obstacle(cut: Cut, program: Program, *, node_dumps: bool) -> tuple[str, Unable] | None:
    """What stands in the way of this engine for ever."""
    if cut.engine is not Engine.TRANSPARENT:
        return None
    if not node_dumps:
        return NO_CRIU, Unable.NODE
    return None if program.carried else ("it has a socket open", Unable.JOB)


@dataclass(slots=True)
class Memory:
    """What a machine keeps of handovers, one a job; gone when its power is."""

    _kept: dict[JobId, tuple[int, str]] = field(default_factory=dict)

    def keep(self, cut: Cut, image: ShardImage) -> None:
        if cut.handover:
            self._kept[cut.job] = (cut.incarnation, image.digest)

    def holds(self, job: JobId, image: ShardImage) -> bool:
        return job in self._kept and self._kept[job][1] == image.digest

    def let_go(self, job: JobId, incarnation: int) -> None:
        if job in self._kept and self._kept[job][0] <= incarnation:
            del self._kept[job]

    def clear(self) -> None:
        self._kept.clear()


def needed(start: Start) -> tuple[ShardImage, ...]:
    """What a life must find in the memory of nodes to begin."""
    mine = set(start.ranks)
    shards = start.origin.shards if start.origin else ()
    return tuple(i for i in shards if i.held and mine & set(i.ranks))


def image(cut: Cut, ranks: Ranks, node: NodeId, physics: Physics) -> ShardImage:
    """What the node keeps of its ranks, as they are now."""
    digest = f"{cut.job}.{cut.incarnation}.{cut.cut}.{node}.{ranks.step}"
    mine = ranks.start.ranks
    physics.images[digest] = Image(cut.job, mine, ranks.step, cut.engine)
    held = Held(digest, "", "", cut.stay) if cut.handover else None
    return ShardImage(node, mine, digest, ranks.step, engine=cut.engine, held=held)
