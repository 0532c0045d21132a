"""Would a blocked job fit, and its quota admit it, if others gave what they offer?

`room_for` is the rule, and says where; it looks at every node. Whoever tries hundreds of offers
one after another asks a Space, which keeps what each changes. A property test holds the two
together.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from singularity.primitives.holdings import holdings
from singularity.primitives.model import Job, JobId, Placement
from singularity.primitives.nodes import NodeId
from singularity.primitives.projects import claim

from .draft import Draft
from .fleet.gangs import Gang
from .fleet.layout import Level
from .offers import Offer, given
from .placement import find, gang, may

_SHARES = JobId("")  # in place of a job: what all that give shares give together


def room_for(draft: Draft, blocked: Job, devices: int, offers: list[Offer]) -> Placement:
    """Where the blocked job would fit if the offers were taken; () if nowhere, or if its quota
    would still not admit it."""
    if lacking_quota(draft, blocked, devices, offers) > 0:
        return ()
    free = draft.unclaimed().copy()
    freed: dict[str, Counter[NodeId]] = {}
    shared = {o.job.id for o in offers if o.job.spec.share is not None}
    freed["shares"] = _emptied(draft, shared)
    # A suspend gives what a shrink of the same job gave, and the rest.
    for each in (o for o in offers if o.job.id not in shared):
        freed[each.job.id] = freed.get(each.job.id, Counter()) | Counter(dict(each.frees))
        if each.moves:
            for shard in each.target:
                row = draft.snapshot.row[shard.node]
                free[row] = max(0, int(free[row]) - shard.devices)
    for gives in freed.values():
        for node, more in sorted(gives.items()):
            free[draft.snapshot.row[node]] += more
    return find(draft, blocked, devices, free=free, leaving=shared)


def lacking_quota(draft: Draft, blocked: Job, devices: int, offers: list[Offer]) -> int:
    """Devices that its quota would still not admit if the offers were taken."""
    if not draft.quota.governs:
        return 0
    most: dict[str, tuple[Job, int]] = {}
    for job, count in given(offers):
        most[job.id] = (job, max(count, most.get(job.id, (job, 0))[1]))
    idle = draft.idle(blocked.spec.device, draft.unclaimed()) + sum(n for _, n in most.values())
    bound = draft.quota.bound_later(blocked, idle, most.values())
    return 0 if bound is None else devices - claim(blocked) - bound.room


def _emptied(draft: Draft, shared: set[JobId]) -> Counter[NodeId]:
    """Devices that become whole if these jobs give up their shares."""
    if not shared:
        return Counter()
    return draft.parts.emptied(shared, soon=True) - draft.parts.emptied((), soon=True)


class Space:
    """What `blocked` finds on `devices` devices, with the offers that were added. It has room where
    a domain holds as many units as it has, or one node, where it may not be spread."""

    def __init__(self, draft: Draft, blocked: Job, devices: int) -> None:
        self._draft, self._blocked, self._devices = draft, blocked, devices
        self._offers: dict[JobId, list[Offer]] = {}
        self._gives: dict[JobId, dict[NodeId, int]] = {}
        self._given: dict[JobId, int] = {}
        self._changed: dict[int, list[int]] = {}  # devices taken and given, by row
        self._wanted = gang(blocked.spec, devices)
        self._governs, self._idle, self._less = draft.quota.governs, 0, Counter[tuple[str, str]]()
        if self._governs:
            self._idle = draft.idle(blocked.spec.device, draft.unclaimed())
        if self._wanted is not None and blocked.spec.share is None:
            self._look(self._wanted)

    def _look(self, wanted: Gang) -> None:
        """Count units by domain, or nodes that hold all."""
        draft, snapshot, unit = self._draft, self._draft.snapshot, wanted.unit
        free = draft.unclaimed()
        there = may(draft, self._blocked) & snapshot.ready
        there[draft.shunned(self._blocked)] = False
        self._there, self._free = there, free
        units = np.where(there, free, 0) // unit
        self._single = wanted.within is Level.NODE and wanted.spread is None
        layout = snapshot.fleet.layout
        self._of = layout.of[Level.CLUSTER if wanted.within is Level.NODE else wanted.within]
        self._position = layout.position
        if self._single:
            self._enough = int((units >= wanted.units).sum())
        else:
            have = np.bincount(self._of[self._position], weights=units).astype(np.int64)
            self._have: list[int] = have.tolist()
            self._enough = int((have >= wanted.units).sum())
        for node, held in holdings(self._blocked).items():
            self._shift(snapshot.row[node], 0, held)

    def add(self, offer: Offer) -> None:
        self._offers.setdefault(offer.job.id, []).append(offer)
        self._reckon(offer, 1)

    def drop(self, offer: Offer) -> None:
        """Of the same offers as were added."""
        left = [o for o in self._offers[offer.job.id] if o is not offer]
        self._offers[offer.job.id] = left
        self._reckon(offer, -1)

    def fits(self) -> bool:
        if self._wanted is None:
            return False
        if self._blocked.spec.share is not None:
            offers = [o for each in self._offers.values() for o in each]
            return bool(room_for(self._draft, self._blocked, self._devices, offers))
        return self._enough > 0 and self.admitted()

    def admitted(self) -> bool:
        """By its quota."""
        if not self._governs:
            return True
        more = self._devices - claim(self._blocked)
        return self._draft.quota.admits_later(self._blocked, more, self._idle, self._less)

    # -- what an offer changes -------------------------------------------------------------------

    def _reckon(self, offer: Offer, sign: int) -> None:
        job = offer.job
        now, counts = dict[NodeId, int](), [0]
        for each in self._offers[job.id]:
            counts.append(0 if each.moves else each.gives)
            for node, more in each.frees:
                now[node] = max(more, now.get(node, 0))
        if self._governs:
            self._count(job, max(counts))
        if self._wanted is None or self._blocked.spec.share is not None:
            return
        if job.spec.share is not None:
            shared = {j for j, o in self._offers.items() if o and o[0].job.spec.share is not None}
            self._give(_SHARES, dict(_emptied(self._draft, shared)))
            return
        if offer.moves:
            for shard in offer.target:
                self._shift(self._draft.snapshot.row[shard.node], sign * shard.devices, 0)
        self._give(job.id, now)

    def _count(self, job: Job, gives: int) -> None:
        """The job gives up so many devices of its project, and no longer as many as before."""
        before = self._given.get(job.id, 0)
        if gives != before:
            self._given[job.id] = gives
            self._idle += gives - before
            for key in self._draft.quota.keys(job):
                self._less[key] += gives - before

    def _give(self, who: JobId, now: dict[NodeId, int]) -> None:
        before, self._gives[who] = self._gives.get(who, {}), now
        for node in before.keys() | now.keys():
            if more := now.get(node, 0) - before.get(node, 0):
                self._shift(self._draft.snapshot.row[node], 0, more)

    def _shift(self, row: int, taken: int, given: int) -> None:
        if not self._there[row]:
            return
        wanted = self._wanted
        assert wanted is not None
        now = self._changed.setdefault(row, [0, 0])
        free = int(self._free[row])
        before = (max(0, free - now[0]) + now[1]) // wanted.unit
        now[0] += taken
        now[1] += given
        after = (max(0, free - now[0]) + now[1]) // wanted.unit
        if self._single:
            self._enough += (after >= wanted.units) - (before >= wanted.units)
            return
        domain = int(self._of[self._position[row]])
        have = self._have[domain]
        self._have[domain] = have + after - before
        self._enough += (have + after - before >= wanted.units) - (have >= wanted.units)
