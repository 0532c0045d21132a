"""What happened to a job, told from the job before and after: events and the timeline. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from singularity.primitives import engines
from singularity.primitives.holdings import at_risk_s
from singularity.primitives.messages import Report
from singularity.primitives.model import ACTIVE, TERMINAL, Job, JobState
from singularity.primitives.nodes import Node, NodeId

_PARTS_OF_A_CUT = ("barrier", "dump", "store")


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of a job's history."""

    event: str
    before: str
    after: str
    reason: str
    incarnation: int
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ending:
    """How one incarnation ended: `lost_s` of progress must be done again."""

    incarnation: int
    end: str
    step: int
    lost_s: float


def tell(
    before: Job, after: Job, reason: str, nodes: Mapping[NodeId, Node], now_s: float
) -> list[Happening]:
    """The lines that this change adds, in order; only the last may change the state."""
    lines: list[Happening] = []
    why = reason or after.message

    def add(event: str, to: JobState = before.state, **facts: object) -> None:
        lines.append(Happening(event, before.state, to, why, after.incarnation, facts))

    for event, facts in _of_cuts(before, after):
        lines.append(Happening(event, before.state, before.state, why, after.incarnation, facts))
    if after.hangs > before.hangs:
        add("hung")
    if after.resize_refused and not before.resize_refused:
        add("resize-refused")
    if after.taken is not None and after.taken != before.taken:
        add("taken", price=round(after.taken.price, 3), evicted=after.taken.evicted_at_s == now_s)
    if resized(before, after):
        why = before.message
        add("resized", devices=after.held)
    if after.state is before.state:
        return lines
    ending = end_of(before, after, nodes, now_s)
    if after.state is JobState.STARTING:
        first = nodes[after.placement[0].node]
        add(
            "placed",
            after.state,
            region=first.region,
            cluster=first.cluster,
            nodes=[s.node for s in after.placement],
            devices=after.held,
            step=after.origin.step if after.origin else 0,
        )
    elif ending is not None:
        add(str(after.state), after.state, step=ending.step, lost_s=round(ending.lost_s, 3))
    else:
        add(str(after.state), after.state)
    return lines


def _of_cuts(before: Job, after: Job) -> Iterator[tuple[str, dict[str, object]]]:
    """What became of checkpoints, and of what takes them."""
    made, own = after.checkpoint, after.spec.aside is None  # who verifies has another's checkpoint
    last_s = before.checkpoint.at_s if before.checkpoint else -1.0
    if own and made is not None and made.at_s > last_s:
        raw, new = sum(i.raw_bytes for i in made.shards), sum(i.new_bytes for i in made.shards)
        found = {"cut": made.cut, "step": made.step, "raw_bytes": raw, "new_bytes": new}
        yield "checkpoint", {**found, "engine": str(made.engine)}
    if (handed := after.handover) is not None and handed != before.handover:
        raw = sum(i.raw_bytes for i in handed.shards)
        stay = sum(map(len, handed.standing.values()))
        found = {"cut": handed.cut, "step": handed.step, "raw_bytes": raw}
        yield "handover", {**found, "stay": stay}
    if before.handover and not after.handover and after.state is not JobState.RUNNING:
        yield "handover-discarded", {"cut": before.handover.cut, "step": before.handover.step}
    if before.state in TERMINAL and before.checkpoints and not after.checkpoints:
        yield "checkpoints-retired", {"checkpoints": len(before.checkpoints)}
    elif len(after.checkpoints) < len(before.checkpoints):
        bad = before.checkpoints[0]
        yield "checkpoint-discarded", {"incarnation": bad.incarnation, "cut": bad.cut}
    if after.dump_failures > before.dump_failures:
        yield "checkpoint-failed", {"cut": after.cut}
    if after.engine is not before.engine and after.incarnation == before.incarnation:
        yield "engine", {"engine": str(after.engine or "none"), "why": engines.label(after)}
    if (told := after.certificate) is not None and told != before.certificate:
        yield "certified", {"finding": str(told.finding), "by": told.by}


def with_seconds(known: Mapping[str, float], report: Report) -> dict[str, float]:
    """How long each part of a life's start and of its last cut took, by its slowest node; `known`
    before the report. Parts of an earlier cut are not of this one, which may have none such."""
    same = known.get("cut", 0) == report.cut
    kept = {p: s for p, s in known.items() if same or p not in _PARTS_OF_A_CUT}
    told = {p: max(s, known.get(p, 0.0)) if same else s for p, s in report.seconds.items()}
    return {**kept, **told, "cut": report.cut}


def resized(before: Job, after: Job) -> bool:
    """Did the job take on other devices without a cut?"""
    same_life = after.incarnation == before.incarnation and after.state is JobState.RUNNING
    return same_life and before.state is JobState.RUNNING and after.placement != before.placement


def end_of(before: Job, after: Job, nodes: Mapping[NodeId, Node], now_s: float) -> Ending | None:
    """How the incarnation of `before` ended in this change; None if it did not.

    It ends when it is told to stop, or has left its devices. Progress made since the last cut that
    counts is lost, unless it ended by a cut or by finishing, or its images wait for another try.
    """
    lives = before.state in ACTIVE and before.state is not JobState.STOPPING
    goes_on = after.state in ACTIVE and after.state is not JobState.STOPPING
    if not lives or (goes_on and after.incarnation == before.incarnation):
        return None
    saved = after.origin
    own = saved is not None and saved.incarnation == before.incarnation
    if after.state is JobState.SUCCEEDED:
        return Ending(before.incarnation, "finished", after.step, 0.0)
    if before.state is JobState.SUSPENDING and own and saved and saved.cut == before.cut:
        end = "suspended" if after.state is JobState.SUSPENDED else "moved"
        return Ending(before.incarnation, end, saved.step, 0.0)
    heard_s = [nodes[s.node].heard_s for s in before.placement if nodes[s.node].lost]
    until_s = min(now_s, *heard_s) if heard_s else now_s
    end = "failed" if after.state is JobState.FAILED else "stopped"
    lost_s = 0.0 if after.handover else at_risk_s(before, until_s)
    return Ending(before.incarnation, end, saved.step if saved else 0, lost_s)
