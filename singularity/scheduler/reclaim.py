"""The cheapest way to make room for a blocked job: shrink, then suspend, then move, by price."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from singularity.primitives.engines import keeps_nothing, loss
from singularity.primitives.model import Job, JobState, Placement

from .draft import Draft
from .lending import shrinking
from .offers import (
    Offer,
    cheapest_first,
    footing_of,
    given,
    offer,
    total,
)
from .placement import alike, find, may
from .plan import Action, Verb, called
from .policy import Policy
from .price import of_leaving, of_moving, spoken
from .sharing import narrowed
from .snapshot import Flags
from .space import Space, lacking_quota, room_for
from .ways import cheapest, choose, fewer, needed, per_cluster

_IN_VAIN = "no less urgent job could make room"
_BLOCKS_TRIED = 8  # where others are moved away from; the next best are hardly ever better


class Made(NamedTuple):
    """What was done to make room, or why nothing; and whether room `comes`."""

    told: str
    comes: bool


def reclaim(draft: Draft, blocked: Job, attempts: Sequence[int], policy: Policy) -> Made:
    """Take devices from less urgent jobs so that `blocked` will fit on the first number of devices
    in `attempts`, or the next. What is being freed already is counted and not asked for again.
    Where no less urgent job can give, equals are moved out of its way; of one that has nothing yet
    they share with it first, and at last leave their devices if they had more than it so far. A
    plan stops a bounded number of jobs; the next goes on."""
    if told := _hopeless(draft, blocked, attempts, policy):
        return Made(told, comes=False)
    for devices in attempts:
        if there := room_for(draft, blocked, devices, []):
            draft.promise(blocked, there)
            return Made("devices are being freed for it", comes=True)
        if draft.preemptions >= policy.preemptions_per_tick_max:
            continue
        if chosen := cheapest(draft, blocked, devices, policy):
            if not all(o.target for o in chosen) and shrinking(draft, blocked):
                return Made("waits for what is shrinking, before anybody is suspended", comes=False)
            return _carry_out(draft, blocked, devices, chosen, policy)
    if draft.preemptions >= policy.preemptions_per_tick_max:
        return Made(_rest(policy), comes=False)
    made = _shared(draft, blocked, policy) or _of_equals(draft, blocked, attempts, policy)
    if made is not None:
        return made
    draft.findings.vain[_kind(draft, blocked, attempts[-1])] = (
        attempts[-1],
        footing_of(draft, blocked, policy),
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
    if blocked.held or found is None or found[0] > least:
        return False
    its, own = found[1], footing_of(draft, blocked, policy)
    return its.level <= own.level and its.had <= own.had


def _kind(draft: Draft, blocked: Job, least: int) -> Hashable:
    unit, project = max(1, least // blocked.spec.ranks), blocked.spec.project
    alone = blocked.id if blocked.spec.topology.apart else ""
    return alike(blocked), blocked.tier, unit, alone, project if draft.quota.governs else ""


# -- equals share ----------------------------------------------------------------------------------


def _shared(draft: Draft, blocked: Job, policy: Policy) -> Made | None:
    """Admit it by making equals narrower, where that is worth more; None where it is not."""
    if blocked.held or blocked.spec.serving is not None:  # equals gave what they could to that
        return None
    for devices, narrow in narrowed(draft, blocked, per_cluster(draft, blocked), policy):
        jobs = [(draft.snapshot.by_id[job], to) for job, to in sorted(narrow.items())]
        offers = [offer(draft, job, fewer(draft, job, to), policy) for job, to in jobs]
        chosen = choose(draft, blocked, devices, sorted(offers, key=cheapest_first))
        if chosen and draft.quota.spares(blocked, devices, given(chosen)):
            return _carry_out(draft, blocked, devices, chosen, policy)
    return None


def _of_equals(draft: Draft, blocked: Job, attempts: Sequence[int], policy: Policy) -> Made | None:
    """Move equals out of its way, or let those make way that had more so far; not for one that has
    devices, for what they gave up for it would be missed there as much."""
    for devices in attempts:
        lacks = lacking_quota(draft, blocked, devices, [])  # to move others gives no quota
        if lacks <= 0 and (chosen := _out_of_the_way(draft, blocked, devices, policy)):
            return _carry_out(draft, blocked, devices, chosen, policy)
        chosen = [] if blocked.held else cheapest(draft, blocked, devices, policy, equals=True)
        if chosen:
            return _carry_out(draft, blocked, devices, chosen, policy)
    return None


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
        if job.id != blocked.id and job.tier >= blocked.tier and may_move(draft, job, policy):
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
                return needed(space, chosen)
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
    whom = f"{called(blocked, job)} ({blocked.tier.name.lower()})"
    if taken.moves:
        verb, reason = Verb.MIGRATE, f"makes room for {whom}"
    else:
        answers = job.spec.serving is not None and bool(job.endpoint)
        verb = Verb.EVICT if answers else Verb.SUSPEND
        verb = Verb.SCALE if taken.target else verb
        what = "its shares" if job.spec.share else f"{taken.gives} devices"
        reason = f"gives {what} to {whom}"
    serving, at_home = blocked.spec.serving, job.spec.project == blocked.spec.project
    equal = job.tier == blocked.tier and (at_home or not draft.quota.governs)
    if equal and not taken.moves and serving is None:
        reason += ", to which they are worth more," if taken.target else ", which had less so far,"
    reason += f" for {taken.price.text}"
    reason += loss(job, now_s) if taken.ruinous else ""
    cost = taken.price.device_s
    action = Action(verb, job.id, job.version, reason, taken.target, price=cost, whom=blocked.id)
    whole = job.spec.share is None  # only such devices are lent
    if serving is not None and not taken.moves and whole:
        action = replace(action, lent_to=serving.service)
    draft.take(action)
