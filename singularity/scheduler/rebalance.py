"""Jobs moved together, so that whole nodes come free for gangs: what that costs, what it gains.

A gang that needs a whole node, or many, cannot use devices that are free in ones and twos. Clearing
a node pays if its jobs fit on others that are partly used anyway, and their moves cost less than
`relocation_pays_s` for each device of the node. Nobody moves twice, nor whoever came just now.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from singularity.primitives.holdings import hosts
from singularity.primitives.model import ACTIVE, Job, JobState, Placement
from singularity.primitives.nodes import Node, Scope

from .draft import Draft
from .orders import Order, Settle
from .placement import find
from .plan import Action, Verb
from .policy import Policy
from .price import Price, of_leaving
from .reclaim import may_move
from .snapshot import Ints


@dataclass(frozen=True, slots=True)
class Relocation:
    job: Job
    target: Placement
    price: Price


@dataclass(frozen=True, slots=True)
class Clearance:
    """A node that comes free, by whose moves; in device-seconds what they cost and what it is
    worth. No moves: all who are there are leaving already."""

    node: Node
    moves: tuple[Relocation, ...]
    cost_s: float
    worth_s: float


def tidy(draft: Draft, policy: Policy) -> tuple[Order, ...]:
    """Begin the moves of the order in force, as many as may be under way; end it when there are
    none left."""
    order, snapshot = draft.snapshot.rebalancing, draft.snapshot
    if order is None:
        return ()
    if order.until_s <= snapshot.now_s:
        return (Settle(order.id, "its time is over"),)
    if (room := policy.migrations_per_tick_max - len(_moving(draft))) <= 0:
        return ()
    found = clearances(draft, order.scope, policy, room)
    for clearance in found:
        for each in clearance.moves[:room]:
            job, room = each.job, room - 1
            reason = f"frees {clearance.node.id} as a whole for {each.price.text}"
            draft.take(Action(Verb.MIGRATE, job.id, job.version, reason, each.target))
    if found or _moving(draft):
        return ()
    return (Settle(order.id, "nothing is gained by further moves"),)


def clearances(
    draft: Draft, scope: Scope | None, policy: Policy, moves_most: int | None = None
) -> tuple[Clearance, ...]:
    """What pays now, the cheapest for its devices first; no further than to `moves_most` moves,
    for to look for all takes seconds on thousands of nodes. Changes nothing."""
    snapshot = draft.snapshot
    there = _by_node(draft)
    partly = snapshot.ready & (snapshot.free > 0) & (snapshot.free < snapshot.total)
    room = np.where(partly, np.maximum(draft.free - draft.promised, 0), 0)
    candidates = []
    for row in np.flatnonzero(partly).tolist():
        node = snapshot.nodes[row]
        if scope is not None and not scope.holds(node):
            continue
        if (jobs := _movers(draft, node, there[row], policy)) is not None:
            price = sum(of_leaving(j, snapshot.now_s, policy).device_s for j in jobs)
            candidates.append((price / node.devices, node.used, row, jobs))
    found, moved, taken = [], set[str](), set[int]()
    for _, _, row, jobs in sorted(candidates, key=lambda c: c[:3]):
        if moves_most is not None and len(moved) >= moves_most:
            break
        if row in taken or any(job.id in moved for job in jobs):
            continue
        clearance, left = _cleared(draft, row, jobs, room, policy)
        if clearance is None:
            continue
        found.append(clearance)
        room = left
        room[row] = 0
        moved.update(job.id for job in jobs)
        taken.update(snapshot.row[s.node] for m in clearance.moves for s in m.target)
    return tuple(found)


def _by_node(draft: Draft) -> defaultdict[int, list[Job]]:
    found: defaultdict[int, list[Job]] = defaultdict(list)
    for job in draft.snapshot.loose:
        if job.state in ACTIVE:
            for node in sorted(set(hosts(job))):
                found[draft.snapshot.row[node]].append(job)
    return found


def _movers(draft: Draft, node: Node, jobs: list[Job], policy: Policy) -> list[Job] | None:
    """Those who would have to move for the node to be free, the largest first; None where somebody
    cannot, or where a job that is there already is to come."""
    staying = [j for j in jobs if not _leaves(j, node)]
    if not all(j.state is JobState.RUNNING and may_move(draft, j, policy) for j in staying):
        return None
    return sorted(staying, key=lambda j: (-j.held, j.id))


def _leaves(job: Job, node: Node) -> bool:
    return job.state is JobState.SUSPENDING and all(s.node != node.id for s in job.target)


def _moving(draft: Draft) -> list[Job]:
    return [j for j in draft.snapshot.astir if j.state is JobState.SUSPENDING and j.target]


def _cleared(
    draft: Draft, row: int, jobs: list[Job], room: Ints, policy: Policy
) -> tuple[Clearance | None, Ints]:
    """The node without `jobs`, each elsewhere in its region, and what room is left then; None where
    one does not fit, or it does not pay."""
    snapshot = draft.snapshot
    node, left = snapshot.nodes[row], room.copy()
    near = snapshot.region == snapshot.region[row]
    moves = []
    for job in jobs:
        own = [snapshot.row[n] for n in sorted(job.nodes)]
        elsewhere = np.where(near, left, 0)
        elsewhere[own] = 0
        homeless = replace(job, placement=(), target=())  # its own devices are no place to go
        target = find(draft, homeless, job.held, free=elsewhere)
        if not target:
            return None, room
        for shard in target:
            left[snapshot.row[shard.node]] -= shard.devices
        moves.append(Relocation(job, target, of_leaving(job, snapshot.now_s, policy)))
    cost_s = sum(m.price.device_s for m in moves)
    worth_s = policy.relocation_pays_s * node.devices
    if cost_s >= worth_s:
        return None, room
    return Clearance(node, tuple(moves), cost_s, worth_s), left
