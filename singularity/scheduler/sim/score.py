"""How well a world did, in figures that can be compared between seeds and policies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from singularity.primitives.model import JobState

from .world import World


@dataclass(frozen=True, slots=True)
class Score:
    """`utilisation`: device time spent on mini-batches, of all device time until the last job
    ended. `lost_steps`: mini-batches done again because a failover went back to a checkpoint."""

    simulated_s: float
    utilisation: float
    finished: int
    failed: int
    checkpoints: int
    preemptions: int
    migrations: int
    failovers: int
    lost_steps: int
    decisions: int

    @classmethod
    def of(cls, world: World) -> Score:
        counts, states = world.counts, [j.state for j in world.ledger.jobs().values()]
        capacity_s = sum(m.node.devices for m in world.machines.values()) * world.now_s
        verbs = ("resume", "checkpoint", "suspend", "migrate", "scale", "failover", "stop")
        return cls(
            simulated_s=round(world.now_s),
            utilisation=round(world.physics.worked_s / max(capacity_s, 1.0), 3),
            finished=states.count(JobState.SUCCEEDED),
            failed=states.count(JobState.FAILED),
            checkpoints=counts["checkpoint"],
            preemptions=counts["suspend"] + counts["scale"],
            migrations=counts["migrate"],
            failovers=counts["failover"],
            lost_steps=world.physics.lost_steps,
            decisions=sum(counts[v] for v in verbs),
        )


def table(scores: Iterable[Score]) -> str:
    """Least, median and most of every figure."""
    found = list(scores)
    if not found:
        return "no seed ran to its end"
    lines = [f"{'':<14}{'least':>10}{'median':>10}{'most':>10}"]
    for field in fields(Score):
        values = sorted(float(getattr(score, field.name)) for score in found)
        middle = values[len(values) // 2]
        lines.append(f"{field.name:<14}{values[0]:>10g}{middle:>10g}{values[-1]:>10g}")
    return "\n".join(lines)
