"""Engines of simulated cuts: which ranks are held, what a dump comes to, what an image is."""

from __future__ import annotations

from singularity.primitives.messages import Cut
from singularity.primitives.model import Engine, NodeId, ShardImage, Unable

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


def image(cut: Cut, ranks: Ranks, node: NodeId, physics: Physics) -> ShardImage:
    """What the node has stored of its ranks, as they are now."""
    digest = f"{cut.job}.{cut.incarnation}.{cut.cut}.{node}.{ranks.step}"
    mine = ranks.start.ranks
    physics.images[digest] = Image(cut.job, mine, ranks.step, cut.engine)
    return ShardImage(node, mine, digest, ranks.step, engine=cut.engine)
