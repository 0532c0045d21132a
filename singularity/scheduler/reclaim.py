"""The cheapest way to make room for a blocked job: shrink, then suspend, then move, by price."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from singularity.primitives.engines import keeps_nothing, loss
from singularity.primitives.model import Job, JobState, Placement

from .draft import Draft
from .givers import ANYWHERE, Givers
from .lending import beside, shrinking
from .offers import (
    Offer,
    cheapest_by_device,
    cheapest_first,
    given,
    level_of,
    offer,
    offered,
    spared_first,
    total,
    weight,
)
from .placement import alike, find, may, pack, sizes, stay
from .plan import Action, Verb
from .policy import Policy
from .price import of_leaving, of_moving, spoken
from .sharing import narrowed
from .snapshot import Flags
from .space import Space, lacking_quota, room_for

_IN_VAIN = "no less urgent job could make room"
_BLOCKS_TRIED = 8  # where others are moved away from; the next best are hardly ever better


class Made(NamedTuple):
    """What was done to make room, or why nothing; and whether room `comes`."""

    told: str
    comes: bool


def reclaim(draft: Draft, blocked: Job, attempts: Sequence[int], policy: Policy) -> Made:
    """Take devices from less urgent jobs so that `blocked` will fit on the first number of devices
    in `attempts`, or the next. What is being freed already is counted and not asked for again.
    Where no less urgent job can give, equals share with it, are moved out of its way, and at last
    leave their devices if they had more than it so far. A plan stops a bounded number of jobs; the
    next goes on."""
    if told := _hopeless(draft, blocked, attempts, policy):
        return Made(told, comes=False)
    for devices in attempts:
        if there := room_for(draft, blocked, devices, []):
            draft.promise(blocked, there)
            return Made("devices are being freed for it", comes=True)
        if draft.preemptions >= policy.preemptions_per_tick_max:
            continue
        if chosen := _cheapest(draft, blocked, devices, policy):
            if not all(o.target for o in chosen) and shrinking(draft, blocked):
                return Made("waits for what is shrinking, before anybody is suspended", comes=False)
            return _carry_out(draft, blocked, devices, chosen, policy)
    if draft.preemptions >= policy.preemptions_per_tick_max:
        return Made(_rest(policy), comes=False)
    if shared := _shared(draft, blocked, policy):
        return shared
    for devices in attempts:
        lacks = lacking_quota(draft, blocked, devices, [])  # to move others gives no quota
        if lacks <= 0 and (chosen := _out_of_the_way(draft, blocked, devices, policy)):
            return _carry_out(draft, blocked, devices, chosen, policy)
        if chosen := _cheapest(draft, blocked, devices, policy, equals=True):
            return _carry_out(draft, blocked, devices, chosen, policy)
    draft.findings.vain[_kind(draft, blocked, attempts[-1])] = (
        attempts[-1],
        level_of(draft, blocked, policy),
    )
    return Made(_IN_VAIN, comes=False)


def _hopeless(draft: Draft, blocked: Job, attempts: Sequence[int], policy: Policy) -> str:
    """What is known without looking for anybody to give; "" for nothing."""
    if not attempts or _in_vain(draft, blocked, attempts[-1], policy):
        return _IN_VAIN
    if draft.quota.hopeless(blocked, attempts[-1]):
        return "nothing less urgent of its project could make room"
    return ""


def _in_vain(draft: Draft, blocked: Job, least: int, policy: Policy) -> bool:
    """Did nobody give for another of its kind that wanted no more, and had had no more?"""
    found = draft.findings.vain.get(_kind(draft, blocked, least))
    if blocked.held:
        return False
    return found is not None and found[0] <= least and found[1] <= level_of(draft, blocked, policy)


def _kind(draft: Draft, blocked: Job, least: int) -> Hashable:
    unit, project = max(1, least // blocked.spec.ranks), blocked.spec.project
    alone = blocked.id if blocked.spec.topology.apart else ""
    return alike(blocked), blocked.tier, unit, alone, project if draft.quota.governs else ""


# -- those less urgent give ----------------------------------------------------------------------


def _cheapest(
    draft: Draft, blocked: Job, devices: int, policy: Policy, *, equals: bool = False
) -> list[Offer]:
    """What makes room in one cluster: what was borrowed first, sparing work that would be lost,
    then the more urgent, then by price; [] if none. `equals`: who had more than it so far gives as
    well. To a replica its equals that train give whatever they can without leaving, and whoever can
    shrink does so before anybody is suspended."""
    per_cluster, more = _per_cluster(draft, blocked), beside(draft, blocked)
    lacks = lacking_quota(draft, blocked, devices, [])
    givers = Givers(draft, blocked, devices, policy)
    found = list[tuple[tuple[float, ...], list[Offer]]]()
    for cluster, jobs in sorted(givers.by_cluster(equals, lacks > 0).items()):
        free = blocked.held + per_cluster.get(cluster, 0)
        short = max(lacks, 0 if cluster == ANYWHERE else devices - free)
        if sum(j.held for j in jobs) < short and blocked.spec.share is None:
            continue
        offers = _offers(draft, blocked, jobs, max(1, short) + more, policy)
        offers = [o for o in offers if o.target or givers.may_leave(o.job)]
        for order in (cheapest_first, cheapest_by_device):
            offers.sort(key=order)
            chosen = _choose(draft, blocked, devices, offers, _least(short, offers))
            if chosen and draft.quota.spares(blocked, devices, given(chosen)):
                found.append(((*weight(chosen, blocked), cluster), chosen))
    return min(found, key=lambda f: f[0])[1] if found else []


def _offers(draft: Draft, blocked: Job, jobs: list[Job], short: int, policy: Policy) -> list[Offer]:
    found, borrows = list[Offer](), dict[str, bool]()
    for job in jobs:
        if (borrowed := borrows.get(job.spec.project)) is None:
            borrowed = borrows[job.spec.project] = draft.quota.borrows(job, blocked)
        for target in dict.fromkeys((_smaller(draft, job, short), ())):
            found.append(offered(draft, job, target, policy, borrowed=borrowed))
    return found


def _least(short: int, offers: list[Offer]) -> int:
    """How many of the first offers it takes at the very least to free `short` devices."""
    freed = 0
    for count, each in enumerate(offers):
        if freed >= short:
            return count
        freed += each.gives
    return len(offers)


def _choose(
    draft: Draft, blocked: Job, devices: int, offers: list[Offer], least: int
) -> list[Offer]:
    """The first offers that together are enough, `least` or more, less those that turn out not to
    be needed."""
    space = Space(draft, blocked, devices)
    for count, each in enumerate(offers):
        if count >= least and space.fits():
            return _needed(space, offers[:count])
        space.add(each)
    return _needed(space, offers) if space.fits() else []


def _smaller(draft: Draft, job: Job, wanted: int) -> Placement:
    """The job on its own nodes with as many devices fewer as are wanted, or as it can spare; where
    that needs no cut, with every rank where it is."""
    options = list(sizes(job, most=job.held - 1)) if job.held > 1 else []
    if not options:
        return ()
    devices = max((d for d in options if job.held - d >= wanted), default=options[-1])
    if there := stay(draft, job, devices):
        return there
    own = np.zeros_like(draft.free)
    for shard in job.placement:
        own[draft.snapshot.row[shard.node]] = shard.devices
    return pack(draft.snapshot, own, job, devices)


def _needed(space: Space, chosen: list[Offer]) -> list[Offer]:
    """Drop what turned out not to be needed: `chosen` is what the space was offered. Of one job at
    most one offer is kept."""
    kept = list(chosen)
    for each in sorted(chosen, key=spared_first):
        space.drop(each)
        if space.fits():
            kept = [o for o in kept if o is not each]
        else:
            space.add(each)
    suspended = {o.job.id for o in kept if not o.target}
    return [o for o in kept if not o.target or o.job.id not in suspended]


# -- equals share ----------------------------------------------------------------------------------


def _shared(draft: Draft, blocked: Job, policy: Policy) -> Made | None:
    """Admit it by making equals narrower, where that is worth more; None where it is not."""
    if blocked.held or blocked.spec.serving is not None:  # equals gave what they could to that
        return None
    for devices, narrow in narrowed(draft, blocked, _per_cluster(draft, blocked), policy):
        jobs = [(draft.snapshot.by_id[job], to) for job, to in sorted(narrow.items())]
        offers = [offer(draft, job, stay(draft, job, to), policy) for job, to in jobs]
        chosen = _choose(draft, blocked, devices, sorted(offers, key=cheapest_first), 0)
        if chosen and draft.quota.spares(blocked, devices, given(chosen)):
            return _carry_out(draft, blocked, devices, chosen, policy)
    return None


def _per_cluster(draft: Draft, blocked: Job) -> dict[int, int]:
    """Devices by cluster that are unclaimed on nodes where it may go."""
    there = may(draft, blocked) & draft.snapshot.ready
    room = np.bincount(draft.snapshot.cluster, weights=np.where(there, draft.unclaimed(), 0))
    return dict(enumerate(room.astype(int).tolist()))


# -- equals move out of the way --------------------------------------------------------------------


def _out_of_the_way(draft: Draft, blocked: Job, devices: int, policy: Policy) -> list[Offer]:
    """Jobs no more urgent than `blocked` that fit elsewhere, all at the size they have, and whose
    going frees one block of devices that it fits in; [] unless that costs less than it gains."""
    snapshot = draft.snapshot
    there = may(draft, blocked) & snapshot.ready
    by_node = blocked.spec.same_node or devices > blocked.spec.ranks
    blocks = np.arange(len(snapshot.nodes)) if by_node else snapshot.cluster.astype(np.int64)
    room = np.bincount(blocks, weights=np.where(there, draft.unclaimed(), 0))
    spare = np.maximum(draft.free - draft.promised, 0)
    inside, elsewhere = np.bincount(blocks, weights=spare), int(spare.sum())
    if (room + elsewhere - inside < devices).all():
        return []
    movers: dict[int, list[Job]] = {}
    could = np.zeros_like(room)
    for job in draft.untouched(JobState.RUNNING):
        if job.tier >= blocked.tier and may_move(draft, job, policy):
            for shard in job.placement:
                row = snapshot.row[shard.node]
                if there[row]:
                    could[blocks[row]] += shard.devices
                    movers.setdefault(int(blocks[row]), []).append(job)
    enough = [
        block
        for block in sorted(movers)
        if room[block] + min(could[block], elsewhere - inside[block]) >= devices
    ]
    enough.sort(key=lambda block: (devices - room[block], block))
    found = []
    for block in enough[:_BLOCKS_TRIED]:
        moves = _moves(draft, blocked, devices, (movers[block], blocks == block), policy)
        if moves and total(moves) <= policy.relocation_pays_s * devices:
            found.append((total(moves), block, moves))
    return min(found, key=lambda f: f[:-1])[-1] if found else []


def may_move(draft: Draft, job: Job, policy: Policy) -> bool:
    """Only who loses nothing by it, frees whole devices, and was not started or moved just now."""
    rests = job.running_at_s is None or draft.snapshot.now_s - job.running_at_s < policy.quantum_s
    loses = keeps_nothing(job) or job.engine is None
    return not rests and not loses and job.spec.share is None and draft.can_cut(job)


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
    chosen, space = list[Offer](), Space(draft, blocked, devices)
    priced = [(of_leaving(job, draft.snapshot.now_s, policy).device_s, job) for job in jobs]
    for _, job in sorted(priced, key=lambda p: (p[0], p[1].id)):
        homeless = replace(job, placement=(), target=())  # its own devices are no place to go
        if target := find(draft, homeless, job.held, free=elsewhere):
            for shard in target:
                elsewhere[draft.snapshot.row[shard.node]] -= shard.devices
            far = _region(draft, target) != _region(draft, job.placement)
            price = of_moving(job, draft.snapshot.now_s, policy, far=far)
            chosen.append(Offer(job, target, price, moves=True))
            space.add(chosen[-1])
            if space.fits():
                return _needed(space, chosen)
    return []


def _region(draft: Draft, placement: Placement) -> int:
    return int(draft.snapshot.region[draft.snapshot.row[placement[0].node]])


# -- what comes of it ------------------------------------------------------------------------------


def _carry_out(
    draft: Draft, blocked: Job, devices: int, chosen: list[Offer], policy: Policy
) -> Made:
    """Take what was chosen, as far as one plan and one minute may go; says what was done."""
    there, done = room_for(draft, blocked, devices, chosen), list[Offer]()
    for each in chosen:
        if bound := _bound(draft, each, policy):
            break
        _take(draft, blocked, each)
        done.append(each)
    if not done:
        return Made(bound, comes=False)
    draft.promise(blocked, there)
    what = "moved out of its way" if chosen[0].moves else "reclaimed for it"
    jobs = "1 job" if len(chosen) == 1 else f"{len(chosen)} jobs"
    told = f"devices are being {what}: {jobs}, {spoken(total(chosen))} device-seconds"
    return Made(told, comes=True)


def _bound(draft: Draft, wanted: Offer, policy: Policy) -> str:
    """Why this plan may not do that as well; "" if it may."""
    if draft.preemptions >= policy.preemptions_per_tick_max:
        return _rest(policy)
    if not wanted.live and draft.evictions >= policy.evictions_per_minute_max:
        most = policy.evictions_per_minute_max
        return (
            f"{most} jobs were evicted within a minute, no more may be without an operator: "
            "singularity evictions --acknowledge"
        )
    return ""


def _rest(policy: Policy) -> str:
    return f"this round may stop no more than {policy.preemptions_per_tick_max} jobs"


def _take(draft: Draft, blocked: Job, taken: Offer) -> None:
    job, now_s = taken.job, draft.snapshot.now_s
    whom = f"{blocked.spec.name} ({blocked.tier.name.lower()})"
    if taken.moves:
        verb, reason = Verb.MIGRATE, f"makes room for {whom}"
    else:
        verb = Verb.SCALE if taken.target else Verb.SUSPEND
        what = "its shares" if job.spec.share else f"{taken.gives} devices"
        reason = f"gives {what} to {whom}"
    serving, at_home = blocked.spec.serving, job.spec.project == blocked.spec.project
    equal = job.tier == blocked.tier and (at_home or not draft.quota.governs)
    if equal and not taken.moves and serving is None:
        reason += ", to which they are worth more," if taken.target else ", which had less so far,"
    reason += f" for {taken.price.text}"
    reason += loss(job, now_s) if taken.ruinous else ""
    action = Action(verb, job.id, job.version, reason, taken.target, price=taken.price.device_s)
    whole = job.spec.share is None  # only such devices are lent
    if serving is not None and not taken.moves and whole:
        action = replace(action, lent_to=serving.service)
    draft.take(action)
