"""Quotas in a storm: an operator who keeps changing them, and the law that none is exceeded."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from singularity.primitives.errors import InvalidSpec, NotFound
from singularity.primitives.projects import Allotment, Project
from singularity.scheduler.quota import Quota

if TYPE_CHECKING:
    from .world import World

PROJECTS: Final = ("x", "y", "team", "guests")  # x and y are parts of team; guests have no limit
_LARGEST: Final = 16  # devices of a job: with a lower limit it would wait for ever
_OWN: Final = (("team", "", 48), ("x", "team", 24), ("y", "team", 24))


def rethink(world: World) -> None:
    """The operator thinks of something else."""
    rng = world.rng
    for name, parent, most in _OWN:
        guaranteed = int(rng.integers(most // 2, most + 1))
        borrow = [None, max(0, _LARGEST - guaranteed), _LARGEST][int(rng.integers(3))]
        lend = [None, int(rng.integers(guaranteed + 1))][int(rng.integers(2))]
        said = (Allotment("sim", guaranteed, borrow, lend),)
        made = Project(name, parent, float(rng.choice([0.5, 1.0, 4.0])), said)
        with suppress(InvalidSpec, NotFound):  # nodes are not there yet, or parts have more
            world.ledger.set_project(made, world.now_s)
            world.note("quota", name, said)


def exceeded(world: World, before: Quota) -> list[str]:
    """Projects above their limit that hold more than `before`. One whose limit was lowered may stay
    above it, until its jobs end."""
    projects = world.ledger.projects()
    now, found = Quota(projects), []
    for project in projects:
        for said in project.allotments:
            key = project.id, said.kind
            if said.most is not None and now.use[key] > max(said.most, before.use[key]):
                found.append(f"{project.id} holds {now.use[key]} of {said.most} {said.kind}")
    return found
