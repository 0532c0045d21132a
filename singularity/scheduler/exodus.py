"""What a drain would do, before anybody asks for it: who goes where, when, and at what price.

It is the drain's own judgement (`evacuate.fate`) on a picture in which the nodes are draining
already; times are those of each job's own cuts, where it was ever measured.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace

from singularity.primitives.drains import Drain, Leaving
from singularity.primitives.model import ACTIVE, Job, JobId, JobState, Placement, Tier
from singularity.primitives.nodes import Duty

from . import evacuate
from .draft import Draft
from .evacuate import Fate, How
from .plan import Action, Verb
from .policy import Policy
from .snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Departure:
    """One job that is there now.

    bytes        of its last images; None for one that never had any
    begins_s     seconds from the beginning of the drain; None where it stays
    pause_s      how long its ranks stand still
    debt_s       device-seconds that this takes from a job with a promise (premium, standard)
    """

    job: JobId
    name: str
    tier: Tier
    held: int
    fate: Fate
    bytes: int | None
    begins_s: float | None
    pause_s: float
    debt_s: float


@dataclass(frozen=True, slots=True)
class Exodus:
    """The departures, in the order in which they begin, and when the last is over; None while
    somebody stays."""

    departures: tuple[Departure, ...]
    ends_s: float | None


def foresee(snapshot: Snapshot, order: Drain, policy: Policy) -> Exodus:
    """As if the drain began now, and nobody else moved."""
    order = replace(order, paused=False)
    draft = Draft(_as_drained(snapshot, order), policy)
    lanes, found, ends_s = _Lanes(snapshot, order, policy), [], [0.0]
    for job in _concerned(draft):
        fate = _fate(draft, job, order, policy)
        pause_s = job.pause_s or policy.move_cost_s
        begins_s = None
        if fate.how is How.MOVE:
            draft.take(Action(Verb.MIGRATE, job.id, job.version, fate.reason, fate.target))
            begins_s = lanes.book(job, pause_s)
            ends_s.append(begins_s + pause_s)
        elif fate.how is How.SUSPEND:
            begins_s = 0.0
            ends_s.append(pause_s)
        elif order.deadline_s is not None and order.leaving is Leaving.MIGRATE:
            begins_s = _escalates_s(order, job, snapshot.now_s, policy)
            fate = Fate(How.SUSPEND, f"{fate.reason}; suspended when the deadline is near")
            ends_s.append(begins_s + pause_s)
        found.append(_departure(job, fate, begins_s, pause_s))
    stays = any(d.begins_s is None for d in found)
    found.sort(key=lambda d: (d.begins_s is None, d.begins_s or 0.0, d.tier, d.job))
    return Exodus(tuple(found), None if stays else max(ends_s))


def lead_s(snapshot: Snapshot, order: Drain, policy: Policy) -> float:
    """How long before its deadline a drain has to begin, if everybody who is there now is to move.
    Cheap: asks for no place, so it may be asked in every round."""
    lanes, ends_s = _Lanes(snapshot, order, policy), 0.0
    inside = snapshot.inside(order.scope)
    for job in snapshot.jobs:
        if job.state in ACTIVE and any(inside[snapshot.row[n]] for n in job.nodes):
            pause_s = job.pause_s or policy.move_cost_s
            ends_s = max(ends_s, lanes.book(job, pause_s) + pause_s)
    return ends_s


class _Lanes:
    """When moves begin, seconds from the beginning: so many at a time, and no more bytes a second
    than the order allows."""

    def __init__(self, snapshot: Snapshot, order: Drain, policy: Policy) -> None:
        most = order.moves_most or len(snapshot.jobs) or 1
        self._free_s = [0.0] * min(policy.migrations_per_tick_max, most)
        self._order, self._policy, self._next_s = order, policy, 0.0

    def book(self, job: Job, pause_s: float) -> float:
        begins_s = max(heapq.heappop(self._free_s), self._next_s)
        heapq.heappush(self._free_s, begins_s + pause_s)
        self._next_s = begins_s + evacuate.pace_s(self._order, job, self._policy)
        return begins_s


def _as_drained(snapshot: Snapshot, order: Drain) -> Snapshot:
    nodes = [replace(n, duty=Duty.DRAINING) if order.scope.holds(n) else n for n in snapshot.nodes]
    others = [d for d in snapshot.drains if d.id != order.id]
    drains = (*others, order)
    return snapshot.anew(nodes, snapshot.jobs, drains=drains)


def _concerned(draft: Draft) -> Iterator[Job]:
    """Jobs on the nodes that are drained, the most urgent first."""
    jobs = sorted(draft.snapshot.jobs, key=lambda j: (j.tier, j.id))
    return (j for j in jobs if j.state in ACTIVE and evacuate.draining(draft, j))


def _fate(draft: Draft, job: Job, order: Drain, policy: Policy) -> Fate:
    match job.state:
        case JobState.RUNNING if job.spec.aside is not None:
            return Fate(How.SUSPEND, "a verification ends where its node is drained")
        case JobState.RUNNING | JobState.STARTING:
            found = evacuate.fate(draft, job, order, policy)
            if job.spec.serving is not None and found.how is How.MOVE:
                return replace(found, reason="it rests when another answers in its place")
            return found
        case _:
            return Fate(How.SUSPEND, "it is leaving its devices already")


def _escalates_s(order: Drain, job: Job, now_s: float, policy: Policy) -> float:
    assert order.deadline_s is not None
    return max(0.0, order.deadline_s - evacuate.notice_s(job.tier, policy) - now_s)


def _departure(job: Job, fate: Fate, begins_s: float | None, pause_s: float) -> Departure:
    last = job.origin
    promised = job.tier is not Tier.BASIC and begins_s is not None
    return Departure(
        job=job.id,
        name=job.spec.name,
        tier=job.tier,
        held=job.held,
        fate=fate,
        bytes=last.raw_bytes if last else None,
        begins_s=begins_s,
        pause_s=pause_s,
        debt_s=pause_s * job.held * job.spec.fraction if promised else 0.0,
    )


def destination(snapshot: Snapshot, target: Placement) -> tuple[str, ...]:
    """The regions of a target."""
    nodes = (snapshot.nodes[snapshot.row[s.node]] for s in target)
    return tuple(sorted({str(n.region) for n in nodes}))
