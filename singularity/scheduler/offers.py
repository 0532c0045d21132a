"""What a job could give, and what that costs it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from singularity.primitives.engines import keeps_nothing
from singularity.primitives.model import Job, NodeId, Placement
from singularity.primitives.resizing import is_in_place

from .plan import Draft
from .policy import Policy
from .price import Price, of_leaving, of_sharing
from .queueing import level


@dataclass(frozen=True, slots=True)
class Offer:
    """Devices one victim could give, and what that costs. `target` () means all of them. `level` as
    in queueing: who had most gives first. `live`: no cut is needed. `ruinous`: the work done since
    its last checkpoint goes with them. `moves`: `target` is elsewhere, and the job goes on there.
    """

    job: Job
    target: Placement
    price: Price
    level: int = 0
    live: bool = False
    ruinous: bool = False
    moves: bool = False

    @property
    def freed(self) -> Counter[NodeId]:
        kept = Counter({s.node: s.devices for s in self.target})
        held = Counter({s.node: s.devices for s in self.job.placement})
        return held - kept


def offer(draft: Draft, job: Job, target: Placement, policy: Policy) -> Offer:
    """What going to `target`, on nodes of its own, or off its devices costs."""
    had = level_of(draft, job, policy)
    if bool(target) and is_in_place(job, target) and not job.resize_refused:
        return Offer(job, target, of_sharing(job, policy), had, live=True)
    price = of_leaving(job, draft.snapshot.now_s, policy)
    return Offer(job, target, price, had, ruinous=keeps_nothing(job))


def level_of(draft: Draft, job: Job, policy: Policy) -> int:
    known = draft.findings.level
    if (found := known.get(job.id)) is None:
        found = known[job.id] = level(job, draft.snapshot.now_s, policy)
    return found
