"""The cheapest way to make room for a blocked job: shrink, then suspend, then move, by price."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from singularity.primitives.engines import keeps_nothing, loss
from singularity.primitives.model import Job, JobState, NodeId, Placement, Tier
from singularity.primitives.projects import claim
from singularity.primitives.resizing import is_in_place

from .placement import feasible, find, pack, sizes, stay
from .plan import Action, Draft, Verb
from .policy import Policy
from .price import Price, of_leaving, of_moving, of_sharing, spoken
from .snapshot import Flags, Ints

_ANYWHERE = -1  # in place of a cluster: whoever uses the quota that the blocked job needs
_BLOCKS_TRIED = 8  # where others are moved away from; the next best are hardly ever better


@dataclass(frozen=True, slots=True)
class Offer:
    """Devices one victim could give, and what that costs. `target` () means all of them. `live`:
    no cut is needed. `ruinous`: the work done since its last checkpoint goes with them. `moves`:
    `target` is elsewhere, and the job goes on there. `borrowed`: they are not guaranteed to it.
    `near`: it was given hardly more than what its tier promises."""

    job: Job
    target: Placement
    price: Price
    live: bool = False
    ruinous: bool = False
    moves: bool = False
    borrowed: bool = True
    near: bool = False

    @property
    def freed(self) -> Counter[NodeId]:
        kept = Counter({s.node: s.devices for s in self.target})
        held = Counter({s.node: s.devices for s in self.job.placement})
        return held - kept


def offer(job: Job, target: Placement, now_s: float, policy: Policy) -> Offer:
    """What going to `target`, on nodes of its own, or off its devices costs."""
    if bool(target) and is_in_place(job, target) and not job.resize_refused:
        return Offer(job, target, of_sharing(job, policy), live=True)
    return Offer(job, target, of_leaving(job, now_s, policy), ruinous=keeps_nothing(job))


def reclaim(draft: Draft, blocked: Job, policy: Policy) -> str:
    """Take devices from less urgent jobs so that `blocked` will fit, at its full size or, where
    that cannot be, at its least; says what was done, or why nothing. What is being freed already
    is counted and not asked for again. Where nobody can be made to give, its equals may be moved
    out of its way. A plan stops a bounded number of jobs; the next goes on."""
    wanted = sizes(blocked)
    if draft.quota.hopeless(blocked, min(wanted, default=blocked.devices)):
        return "nothing less urgent of its project could make room"
    within = draft.quota.claimable(blocked, wanted)
    attempts = list(dict.fromkeys((*wanted[:1], *within, *wanted[-1:])))
    for devices in attempts:
        if there := _room(draft, blocked, devices, []):
            draft.promise(blocked, there)
            return "devices are being freed for it"
        if chosen := _cheapest(draft, blocked, devices, policy):
            return _carry_out(draft, blocked, devices, chosen, policy)
    for devices in attempts:
        if _lacks(draft, blocked, devices, []) > 0:
            continue  # to move others gives no quota
        if chosen := _out_of_the_way(draft, blocked, devices, policy):
            return _carry_out(draft, blocked, devices, chosen, policy)
    return "no less urgent job could make room"


# -- those less urgent give ----------------------------------------------------------------------


def _cheapest(draft: Draft, blocked: Job, devices: int, policy: Policy) -> list[Offer]:
    """What makes room in one cluster: sparing work that would be lost first, then the more urgent,
    then by price; [] if none."""
    snapshot = draft.snapshot
    may = feasible(snapshot, blocked) & snapshot.ready
    room = np.where(may, _unclaimed(draft), 0)
    per_cluster = np.bincount(snapshot.cluster, weights=room, minlength=len(snapshot.cluster_names))
    lacks = _lacks(draft, blocked, devices, [])
    victims, gives = dict[int, list[Job]](), dict[tuple[str, Tier], bool]()
    for job in draft.untouched(JobState.RUNNING):
        alike = job.spec.project, job.tier
        if alike not in gives:
            gives[alike] = draft.quota.may_take(blocked, devices, job)
        if gives[alike] and draft.can_cut(job):
            rows = [snapshot.row[n] for n in sorted(job.nodes)]
            if may[rows].any():
                victims.setdefault(int(snapshot.cluster[rows[0]]), []).append(job)
            if lacks > 0 and draft.quota.same(job, blocked):
                victims.setdefault(_ANYWHERE, []).append(job)
    found = list[tuple[tuple[float, ...], list[Offer]]]()
    for cluster, jobs in sorted(victims.items()):
        short = max(lacks, devices - int(per_cluster[cluster]) if cluster != _ANYWHERE else 0)
        if sum(j.held for j in jobs) < short:
            continue
        offers = _offers(draft, blocked, jobs, max(1, short), policy)
        for order in (_cheapest_first, _cheapest_by_device):
            chosen = _choose(draft, blocked, devices, sorted(offers, key=order))
            if chosen and draft.quota.spares(blocked, devices, _given(chosen)):
                found.append(((*_weight(chosen), cluster), chosen))
    return min(found, key=lambda f: f[0])[1] if found else []


def _offers(draft: Draft, blocked: Job, jobs: list[Job], short: int, policy: Policy) -> list[Offer]:
    now_s, found, borrows = draft.snapshot.now_s, list[Offer](), dict[str, bool]()
    for job in jobs:
        if job.spec.project not in borrows:
            borrows[job.spec.project] = draft.quota.borrows(job, blocked)
        borrowed, near = borrows[job.spec.project], draft.near_promise(job)
        for target in dict.fromkeys((_smaller(draft, job, short), ())):
            made = offer(job, target, now_s, policy)
            found.append(replace(made, borrowed=borrowed, near=near))
    return found


def _weight(chosen: list[Offer]) -> tuple[float, ...]:
    """Of two ways to make room the lighter is taken."""
    owned, ruined = sum(not o.borrowed for o in chosen), sum(o.ruinous for o in chosen)
    dearest, near = min(o.job.tier for o in chosen), sum(o.near for o in chosen)
    return (owned, ruined, -dearest, near, _total(chosen), len(chosen))


def _given(offers: list[Offer]) -> list[tuple[Job, int]]:
    """Devices that jobs give up, and do not have elsewhere."""
    return [(o.job, sum(o.freed.values())) for o in offers if not o.moves]


def _cheapest_first(found: Offer) -> tuple[object, ...]:
    """What was borrowed first, what loses no work first; shrinking first, then suspending; each of
    the least urgent tier first, who has more than was promised before who has not, by price."""
    job = found.job
    first = (not found.borrowed, found.ruinous, not found.target, -job.tier, found.near)
    return (*first, found.price.device_s, job.id)


def _cheapest_by_device(found: Offer) -> tuple[object, ...]:
    """The same for whoever needs many: one large job may be cheaper than many small ones."""
    given = max(1, sum(found.freed.values()))
    *first, price, name = _cheapest_first(found)
    return (*first, found.price.device_s / given, -given, price, name)


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
    """Drop what turned out not to be needed: what is its owner's and loses work first, of the more
    urgent first, suspending before shrinking, the dearest first. Of one job one offer is kept."""
    kept = list(chosen)
    for each in sorted(chosen, key=_spared_first):
        rest = [o for o in kept if o is not each]
        if _room(draft, blocked, devices, rest):
            kept = rest
    suspended = {o.job.id for o in kept if not o.target}
    return [o for o in kept if not o.target or o.job.id not in suspended]


def _spared_first(found: Offer) -> tuple[object, ...]:
    first = (found.borrowed, not found.ruinous, found.job.tier, not found.near)
    return (*first, bool(found.target), -found.price.device_s)


# -- equals move out of the way --------------------------------------------------------------------


def _out_of_the_way(draft: Draft, blocked: Job, devices: int, policy: Policy) -> list[Offer]:
    """Jobs no more urgent than `blocked` that fit elsewhere, all at the size they have, and whose
    going frees one block of devices that it fits in; [] unless that costs less than it gains."""
    snapshot = draft.snapshot
    may = feasible(snapshot, blocked) & snapshot.ready
    by_node = blocked.spec.same_node or devices > blocked.spec.ranks
    blocks = np.arange(len(snapshot.nodes)) if by_node else snapshot.cluster.astype(np.int64)
    room = np.bincount(blocks, weights=np.where(may, _unclaimed(draft), 0))
    movers: dict[int, list[Job]] = {}
    could = np.zeros_like(room)
    for job in draft.untouched(JobState.RUNNING):
        if job.tier >= blocked.tier and _may_move(draft, job, policy):
            for shard in job.placement:
                row = snapshot.row[shard.node]
                if may[row]:
                    could[blocks[row]] += shard.devices
                    movers.setdefault(int(blocks[row]), []).append(job)
    enough = [block for block in sorted(movers) if room[block] + could[block] >= devices]
    enough.sort(key=lambda block: (devices - room[block], block))
    found = []
    for block in enough[:_BLOCKS_TRIED]:
        moves = _moves(draft, blocked, devices, (movers[block], blocks == block), policy)
        if moves and _total(moves) <= policy.relocation_pays_s * devices:
            found.append((_total(moves), block, moves))
    return min(found, key=lambda f: f[:-1])[-1] if found else []


def _may_move(draft: Draft, job: Job, policy: Policy) -> bool:
    """Only who loses nothing by it, and was not started or moved just now."""
    rests = job.running_at_s is None or draft.snapshot.now_s - job.running_at_s < policy.quantum_s
    return not rests and not keeps_nothing(job) and job.engine is not None and draft.can_cut(job)


def _moves(
    draft: Draft,
    blocked: Job,
    devices: int,
    leaving: tuple[list[Job], Flags],
    policy: Policy,
) -> list[Offer]:
    """The cheapest of the jobs moved out of the block, one by one, until the gang fits."""
    of_block, inside = leaving
    jobs = {job.id: job for job in of_block}.values()
    elsewhere = np.where(inside, 0, np.maximum(draft.free - draft.promised, 0))
    chosen: list[Offer] = []
    priced = [(of_leaving(job, draft.snapshot.now_s, policy).device_s, job) for job in jobs]
    for _, job in sorted(priced, key=lambda p: (p[0], p[1].id)):
        homeless = replace(job, placement=(), target=())  # its own devices are no place to go
        if target := find(draft, homeless, job.held, free=elsewhere):
            for shard in target:
                elsewhere[draft.snapshot.row[shard.node]] -= shard.devices
            far = _region(draft, target) != _region(draft, job.placement)
            price = of_moving(job, draft.snapshot.now_s, policy, far=far)
            chosen.append(Offer(job, target, price, moves=True))
            if _room(draft, blocked, devices, chosen):
                return _needed(draft, blocked, devices, chosen)
    return []


def _region(draft: Draft, placement: Placement) -> int:
    return int(draft.snapshot.region[draft.snapshot.row[placement[0].node]])


# -- what comes of it ------------------------------------------------------------------------------


def _total(offers: list[Offer]) -> float:
    return sum(o.price.device_s for o in offers)


def _unclaimed(draft: Draft) -> Ints:
    """int64[N]: free now or soon, and not meant for a job that waits ahead."""
    found: Ints = np.maximum(draft.free + draft.coming - draft.promised, 0)
    return found


def _room(draft: Draft, blocked: Job, devices: int, offers: list[Offer]) -> Placement:
    """Where the blocked job would fit if the offers were taken; () if nowhere, or if its quota
    would still not admit it."""
    room = _unclaimed(draft)
    if _lacks(draft, blocked, devices, offers) > 0:
        return ()
    given: dict[str, Counter[NodeId]] = {}
    for each in offers:  # a suspend gives what a shrink of the same job gave, and the rest
        given[each.job.id] = given.get(each.job.id, Counter()) | each.freed
        if each.moves:
            for shard in each.target:
                row = draft.snapshot.row[shard.node]
                room[row] = max(0, int(room[row]) - shard.devices)
    for freed in given.values():
        for node, more in sorted(freed.items()):
            room[draft.snapshot.row[node]] += more
    return find(draft, blocked, devices, free=room)


def _lacks(draft: Draft, blocked: Job, devices: int, offers: list[Offer]) -> int:
    """Devices that its quota would still not admit if the offers were taken."""
    if not draft.quota.governs:
        return 0
    most: dict[str, tuple[Job, int]] = {}
    for job, count in _given(offers):
        most[job.id] = (job, max(count, most.get(job.id, (job, 0))[1]))
    idle = draft.idle(blocked.spec.device, _unclaimed(draft)) + sum(n for _, n in most.values())
    bound = draft.quota.bound_later(blocked, idle, most.values())
    return 0 if bound is None else devices - claim(blocked) - bound.room


def _carry_out(
    draft: Draft, blocked: Job, devices: int, chosen: list[Offer], policy: Policy
) -> str:
    """Take what was chosen, as far as one plan and one minute may go; says what was done."""
    there, done = _room(draft, blocked, devices, chosen), list[Offer]()
    for each in chosen:
        if bound := _bound(draft, each, policy):
            break
        _take(draft, blocked, each)
        done.append(each)
    if not done:
        return bound
    draft.promise(blocked, there)
    what = "moved out of its way" if chosen[0].moves else "reclaimed for it"
    jobs = "1 job" if len(chosen) == 1 else f"{len(chosen)} jobs"
    return f"devices are being {what}: {jobs}, {spoken(_total(chosen))} device-seconds"


def _bound(draft: Draft, wanted: Offer, policy: Policy) -> str:
    """Why this plan may not do that as well; "" if it may."""
    if draft.preemptions >= policy.preemptions_per_tick_max:
        return f"this round may stop no more than {policy.preemptions_per_tick_max} jobs"
    if not wanted.live and draft.evictions >= policy.evictions_per_minute_max:
        most = policy.evictions_per_minute_max
        return (
            f"{most} jobs were evicted within a minute, no more may be without an operator: "
            "singularity evictions --acknowledge"
        )
    return ""


def _take(draft: Draft, blocked: Job, taken: Offer) -> None:
    job, now_s = taken.job, draft.snapshot.now_s
    whom = f"{blocked.spec.name} ({blocked.tier.name.lower()})"
    if taken.moves:
        verb, reason = Verb.MIGRATE, f"makes room for {whom}"
    else:
        verb = Verb.SCALE if taken.target else Verb.SUSPEND
        reason = f"gives {sum(taken.freed.values())} devices to {whom}"
    reason += f" for {taken.price.text}"
    reason += loss(job, now_s) if taken.ruinous else ""
    action = Action(verb, job.id, job.version, reason, taken.target, price=taken.price.device_s)
    draft.take(action)
