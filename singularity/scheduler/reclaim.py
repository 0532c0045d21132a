"""The cheapest way to make room for a blocked job: shrink, then suspend, by price."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass

import numpy as np

from singularity.primitives.model import Job, JobState, NodeId, Placement
from singularity.primitives.resizing import is_in_place

from .placement import feasible, find, pack, sizes, stay
from .plan import Action, Draft, Verb
from .policy import Policy
from .snapshot import Ints


@dataclass(frozen=True, slots=True)
class Offer:
    """Devices one victim could give, and what that costs. `target` () means all of them."""

    job: Job
    target: Placement
    price: float

    @property
    def freed(self) -> Counter[NodeId]:
        kept = Counter({s.node: s.devices for s in self.target})
        held = Counter({s.node: s.devices for s in self.job.placement})
        return held - kept


def price(job: Job, target: Placement, policy: Policy) -> float:
    """Device-seconds that going to `target` costs: the time in which the job's devices do nothing
    for it. No work is lost: it is cut first, and a cut that fails leaves it running."""
    live = bool(target) and is_in_place(job, target) and not job.resize_refused
    return (policy.resize_cost_s if live else policy.move_cost_s) * job.held


def reclaim(draft: Draft, blocked: Job, policy: Policy) -> str:
    """Take devices from less urgent jobs so that `blocked` will fit, at its full size or, where
    that cannot be, at its least; says what was done, or why nothing. What is being freed already
    is counted and not asked for again. A plan stops a bounded number of jobs; the next goes on."""
    wanted = sizes(blocked)
    for devices in dict.fromkeys((*wanted[:1], *wanted[-1:])):
        if there := _room(draft, blocked, devices, []):
            draft.promise(there)
            return "devices are being freed for it"
        if not (chosen := _cheapest(draft, blocked, devices, policy)):
            continue
        left = policy.preemptions_per_tick_max - draft.preemptions
        if left <= 0:
            return f"this round may stop no more than {policy.preemptions_per_tick_max} jobs"
        draft.promise(_room(draft, blocked, devices, chosen))
        for offer in chosen[:left]:
            _take(draft, blocked, offer)
        return "devices are being reclaimed for it"
    return "no less urgent job could make room"


def _cheapest(draft: Draft, blocked: Job, devices: int, policy: Policy) -> list[Offer]:
    """What makes room in one cluster: sparing the more urgent first, then by price; [] if none."""
    snapshot = draft.snapshot
    may = feasible(snapshot, blocked) & snapshot.ready
    room = np.where(may, _unclaimed(draft), 0)
    per_cluster = np.bincount(snapshot.cluster, weights=room, minlength=len(snapshot.cluster_names))
    victims: dict[int, list[Job]] = {}
    for job in draft.untouched(JobState.RUNNING):
        rows = [snapshot.row[n] for n in sorted(job.nodes)]
        if job.tier > blocked.tier and may[rows].any() and draft.can_cut(job):
            victims.setdefault(int(snapshot.cluster[rows[0]]), []).append(job)
    found = []
    for cluster, jobs in sorted(victims.items()):
        short = devices - int(per_cluster[cluster])
        if sum(j.held for j in jobs) < short:
            continue
        offers = _offers(draft, jobs, max(1, short), policy)
        if chosen := _choose(draft, blocked, devices, offers):
            dearest, cost = min(o.job.tier for o in chosen), sum(o.price for o in chosen)
            found.append((-dearest, cost, cluster, chosen))
    return min(found)[-1] if found else []


def _offers(draft: Draft, jobs: list[Job], short: int, policy: Policy) -> list[Offer]:
    """Shrinking first, then suspending; each cheapest first, least urgent tier first."""
    shrinks, suspends = [], []
    for job in jobs:
        if target := _smaller(draft, job, short):
            shrinks.append(Offer(job, target, price(job, target, policy)))
        suspends.append(Offer(job, (), price(job, (), policy)))
    return [
        *sorted(shrinks, key=lambda o: (-o.job.tier, o.price, o.job.id)),
        *sorted(suspends, key=lambda o: (-o.job.tier, o.price, o.job.id)),
    ]


def _choose(draft: Draft, blocked: Job, devices: int, offers: list[Offer]) -> list[Offer]:
    """The first offers that together are enough, less those that turn out not to be needed."""

    def enough(count: int) -> bool:
        return bool(_room(draft, blocked, devices, offers[:count]))

    counts = range(len(offers) + 1)  # more offers never make less room
    count = bisect_left(counts, True, key=enough)
    return _needed(draft, blocked, devices, offers[:count]) if count in counts else []


def _smaller(draft: Draft, job: Job, wanted: int) -> Placement:
    """The job on its own nodes with as many devices fewer as are wanted, or as it can spare; where
    that needs no cut, with every rank where it is."""
    own = np.zeros_like(draft.free)
    for shard in job.placement:
        own[draft.snapshot.row[shard.node]] = shard.devices
    options = list(sizes(job, most=job.held - 1)) if job.held > 1 else []
    if not options:
        return ()
    devices = max((d for d in options if job.held - d >= wanted), default=options[-1])
    return stay(draft, job, devices) or pack(draft.snapshot, own, job, devices)


def _needed(draft: Draft, blocked: Job, devices: int, chosen: list[Offer]) -> list[Offer]:
    """Drop what turned out not to be needed: of the more urgent first, suspending before
    shrinking, the dearest first. Of one job at most one offer is kept."""
    kept = list(chosen)
    for offer in sorted(chosen, key=lambda o: (o.job.tier, bool(o.target), -o.price)):
        rest = [o for o in kept if o is not offer]
        if _room(draft, blocked, devices, rest):
            kept = rest
    suspended = {o.job.id for o in kept if not o.target}
    return [o for o in kept if not o.target or o.job.id not in suspended]


def _unclaimed(draft: Draft) -> Ints:
    """int64[N]: free now or soon, and not meant for a job that waits ahead."""
    found: Ints = np.maximum(draft.free + draft.coming - draft.promised, 0)
    return found


def _room(draft: Draft, blocked: Job, devices: int, offers: list[Offer]) -> Placement:
    """Where the blocked job would fit if the offers were taken; () if nowhere."""
    room = _unclaimed(draft)
    given: dict[str, Counter[NodeId]] = {}
    for offer in offers:  # a suspend gives what a shrink of the same job gave, and the rest
        given[offer.job.id] = given.get(offer.job.id, Counter()) | offer.freed
    for freed in given.values():
        for node, more in sorted(freed.items()):
            room[draft.snapshot.row[node]] += more
    return find(draft, blocked, devices, free=room)


def _take(draft: Draft, blocked: Job, offer: Offer) -> None:
    job = offer.job
    verb = Verb.SCALE if offer.target else Verb.SUSPEND
    given = sum(offer.freed.values())
    reason = f"gives {given} devices to {blocked.spec.name} ({blocked.tier.name.lower()})"
    action = Action(verb, job.id, job.version, reason, offer.target, price=offer.price)
    draft.take(action)
