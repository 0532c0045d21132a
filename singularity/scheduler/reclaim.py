"""The cheapest way to make room for a blocked job: shrink, then suspend, by price."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass

import numpy as np

from singularity.primitives.engines import keeps_nothing, loss
from singularity.primitives.holdings import at_risk_s
from singularity.primitives.model import Job, JobState, NodeId, Placement
from singularity.primitives.resizing import is_in_place

from .placement import feasible, find, pack, sizes, stay
from .plan import Action, Draft, Verb
from .policy import Policy
from .snapshot import Ints


@dataclass(frozen=True, slots=True)
class Offer:
    """Devices one victim could give, and what that costs. `target` () means all of them. `ruinous`:
    the work done since its last checkpoint goes with them."""

    job: Job
    target: Placement
    price: float
    ruinous: bool = False

    @property
    def freed(self) -> Counter[NodeId]:
        kept = Counter({s.node: s.devices for s in self.target})
        held = Counter({s.node: s.devices for s in self.job.placement})
        return held - kept


def offer(job: Job, target: Placement, now_s: float, policy: Policy) -> Offer:
    """What going to `target` costs, in device-seconds: the time in which the job's devices do
    nothing for it. No work is lost, for it is cut first and a cut that fails leaves it running;
    but of a job that keeps nothing, all since its last checkpoint."""
    live = bool(target) and is_in_place(job, target) and not job.resize_refused
    if live:
        return Offer(job, target, policy.resize_cost_s * job.held)
    ruinous = keeps_nothing(job)
    lost_s = at_risk_s(job, now_s) if ruinous else 0.0
    return Offer(job, target, (policy.move_cost_s + lost_s) * job.held, ruinous)


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
        for each in chosen[:left]:
            _take(draft, blocked, each)
        return "devices are being reclaimed for it"
    return "no less urgent job could make room"


def _cheapest(draft: Draft, blocked: Job, devices: int, policy: Policy) -> list[Offer]:
    """What makes room in one cluster: sparing work that would be lost first, then the more urgent,
    then by price; [] if none."""
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
            ruined = sum(o.ruinous for o in chosen)
            found.append((ruined, -dearest, cost, cluster, chosen))
    return min(found)[-1] if found else []


def _offers(draft: Draft, jobs: list[Job], short: int, policy: Policy) -> list[Offer]:
    """What loses no work first; shrinking first, then suspending; each cheapest first, least
    urgent tier first."""
    now_s, found = draft.snapshot.now_s, []
    for job in jobs:
        if target := _smaller(draft, job, short):
            found.append(offer(job, target, now_s, policy))
        found.append(offer(job, (), now_s, policy))
    return sorted(found, key=lambda o: (o.ruinous, not o.target, -o.job.tier, o.price, o.job.id))


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
    """Drop what turned out not to be needed: what loses work first, of the more urgent first,
    suspending before shrinking, the dearest first. Of one job at most one offer is kept."""
    kept = list(chosen)
    for each in sorted(chosen, key=lambda o: (not o.ruinous, o.job.tier, bool(o.target), -o.price)):
        rest = [o for o in kept if o is not each]
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
    for each in offers:  # a suspend gives what a shrink of the same job gave, and the rest
        given[each.job.id] = given.get(each.job.id, Counter()) | each.freed
    for freed in given.values():
        for node, more in sorted(freed.items()):
            room[draft.snapshot.row[node]] += more
    return find(draft, blocked, devices, free=room)


def _take(draft: Draft, blocked: Job, taken: Offer) -> None:
    job = taken.job
    verb = Verb.SCALE if taken.target else Verb.SUSPEND
    given = sum(taken.freed.values())
    reason = f"gives {given} devices to {blocked.spec.name} ({blocked.tier.name.lower()})"
    reason += loss(job, draft.snapshot.now_s) if taken.ruinous else ""
    action = Action(verb, job.id, job.version, reason, taken.target, price=taken.price)
    draft.take(action)
