"""What a job could give, and what that costs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from singularity.primitives.engines import keeps_nothing
from singularity.primitives.model import Job, Placement
from singularity.primitives.nodes import NodeId
from singularity.primitives.resizing import is_in_place
from singularity.primitives.sla import near_promise

from .draft import Draft
from .policy import Policy
from .price import Price, of_leaving, of_sharing
from .queueing import Footing, footing


@dataclass(frozen=True, slots=True)
class Offer:
    """Devices one victim could give, and what that costs. `target` () means all of them. `level` as
    in queueing: who had most gives first. `live`: no cut is needed. `ruinous`: the work done since
    its last checkpoint goes with them. `moves`: `target` is elsewhere, and the job goes on there.
    `borrowed`: they are not guaranteed to it. `near`: it was given hardly more than was promised.
    It `frees` devices by node, and `gives` so many in all.
    """

    job: Job
    target: Placement
    price: Price
    level: int = 0
    live: bool = False
    ruinous: bool = False
    moves: bool = False
    borrowed: bool = True
    near: bool = False
    frees: tuple[tuple[NodeId, int], ...] = field(init=False, compare=False)
    gives: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        held = {s.node: s.devices for s in self.job.placement}
        for shard in self.target:
            if shard.node in held:
                held[shard.node] -= shard.devices
        frees = tuple((node, more) for node, more in held.items() if more > 0)
        object.__setattr__(self, "frees", frees)
        object.__setattr__(self, "gives", sum(more for _, more in frees))


def offer(draft: Draft, job: Job, target: Placement, policy: Policy) -> Offer:
    """What going to `target`, on nodes of its own, or off its devices costs."""
    had = level_of(draft, job, policy)
    if bool(target) and is_in_place(job, target) and not job.resize_refused:
        return Offer(job, target, of_sharing(job, policy), had, live=True)
    price = of_leaving(job, draft.snapshot.now_s, policy)
    return Offer(job, target, price, had, ruinous=keeps_nothing(job))


def offered(draft: Draft, job: Job, target: Placement, policy: Policy, *, borrowed: bool) -> Offer:
    """The same, and how near the job is to its promise. Made once: it offers that to everybody."""
    known, of = draft.findings.offers, (job.id, target, borrowed)
    if (found := known.get(of)) is None:
        made = offer(draft, job, target, policy)
        found = known[of] = replace(made, borrowed=borrowed, near=near_of(draft, job))
    assert isinstance(found, Offer)
    return found


def footing_of(draft: Draft, job: Job, policy: Policy) -> Footing:
    known = draft.findings.footing
    if (found := known.get(job.id)) is None:
        found = known[job.id] = footing(job, draft.snapshot.now_s, policy)
    return found


def level_of(draft: Draft, job: Job, policy: Policy) -> int:
    return footing_of(draft, job, policy).level


def near_of(draft: Draft, job: Job) -> bool:
    known = draft.findings.near
    if (found := known.get(job.id)) is None:
        found = known[job.id] = near_promise(job, draft.snapshot.now_s)
    return found


def given(offers: list[Offer]) -> list[tuple[Job, int]]:
    """Devices that jobs give up, and do not have elsewhere."""
    return [(o.job, o.gives) for o in offers if not o.moves]


def total(offers: list[Offer]) -> float:
    return sum(o.price.device_s for o in offers)


# -- which come first ------------------------------------------------------------------------------


def weight(chosen: list[Offer], blocked: Job) -> tuple[float, ...]:
    """Of two ways to make room the lighter is taken. For a replica, to suspend weighs more, and so
    does room where it would have to load."""
    owned, ruined = sum(not o.borrowed for o in chosen), sum(o.ruinous for o in chosen)
    gone = sum(not o.target for o in chosen) if blocked.spec.serving else 0
    dearest, near = min(o.job.tier for o in chosen), sum(o.near for o in chosen)
    loads = blocked.warm is not None and not any(_at(blocked.warm, o) for o in chosen)
    return (owned, ruined, gone, -dearest, near, loads, total(chosen), len(chosen))


def cheapest_first(found: Offer) -> tuple[object, ...]:
    """What was borrowed first, what loses no work first; shrinking first, then suspending; each of
    the least urgent tier first, there of who has more than was promised, of who had most, then by
    price."""
    job, suspends = found.job, not found.target
    first = (not found.borrowed, found.ruinous, suspends, -job.tier, found.near, -found.level)
    return (*first, found.price.device_s, job.id)


def cheapest_by_device(found: Offer) -> tuple[object, ...]:
    """The same for whoever needs many: one large job may be cheaper than many small ones."""
    gives = max(1, found.gives)
    *first, price, name = cheapest_first(found)
    return (*first, found.price.device_s / gives, -gives, price, name)


def nearest_first(node: NodeId) -> Callable[[Offer], tuple[object, ...]]:
    """The same for a replica that waits at `node`: who frees that goes before who had more."""

    def order(found: Offer) -> tuple[object, ...]:
        *first, level, price, name = cheapest_first(found)
        return (*first, not _at(node, found), level, price, name)

    return order


def _at(node: NodeId, found: Offer) -> bool:
    return any(freed == node for freed, _ in found.frees)


def spared_first(found: Offer) -> tuple[object, ...]:
    """What is its owner's and loses work first, of the more urgent first, suspending before
    shrinking, the dearest first."""
    first = (found.borrowed, not found.ruinous, found.job.tier, not found.near)
    return (*first, bool(found.target), found.level, -found.price.device_s)
