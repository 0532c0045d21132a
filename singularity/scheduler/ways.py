"""The cheapest offers that make room for a blocked job, looked for cluster by cluster.

What was found in a cluster is remembered, and holds for all that ask alike, until a device there
is given, freed or promised: of a thousand jobs that wait, most ask for the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Final

import numpy as np

from singularity.primitives.holdings import holdings
from singularity.primitives.model import Job, Placement

from .draft import Draft
from .givers import ANYWHERE, Givers
from .lending import beside
from .offers import (
    Offer,
    cheapest_by_device,
    cheapest_first,
    footing_of,
    given,
    nearest_first,
    offered,
    spared_first,
    weight,
)
from .placement import alike, may, pack, sizes, stay
from .policy import Policy
from .space import Space, lacking_quota

_TRIED: Final = 4  # sizes by which somebody shrinks less; the next are hardly ever better


def cheapest(
    draft: Draft, blocked: Job, devices: int, policy: Policy, *, equals: bool = False
) -> list[Offer]:
    """What makes room in one cluster: what was borrowed first, sparing work that would be lost,
    then the more urgent, then by price; [] if none. `equals`: who had more than it so far gives as
    well. To a replica its equals that train give whatever they can without leaving, and whoever can
    shrink does so before anybody is suspended."""
    lacks = lacking_quota(draft, blocked, devices, [])
    ways = _Ways(draft, blocked, devices, Givers(draft, blocked, devices, policy, equals), policy)
    found = list[tuple[tuple[float, ...], list[Offer]]]()
    clusters = ways.givers.clusters
    for cluster in (ANYWHERE, *clusters) if lacks > 0 else clusters:
        for chosen in ways.of(cluster, lacks):
            if draft.quota.spares(blocked, devices, given(chosen)):
                found.append(((*weight(chosen, blocked), cluster), chosen))
    return min(found, key=lambda f: f[0])[1] if found else []


class _Ways:
    """To make room for one blocked job."""

    def __init__(
        self, draft: Draft, blocked: Job, devices: int, givers: Givers, policy: Policy
    ) -> None:
        self._draft, self._blocked, self._devices = draft, blocked, devices
        self.givers, self._policy = givers, policy
        self._room = per_cluster(draft, blocked)
        self._more = beside(draft, blocked)
        self._borrows: dict[str, bool] = {}
        self._asks = self._asked()

    def of(self, cluster: int, lacks: int) -> Sequence[list[Offer]]:
        """Those first that are cheapest, or cheapest by device. What is remembered is of askers
        whom their quotas do not hinder."""
        if self._asks is None or lacks > 0 or cluster in self.givers.straddled:
            return self._made(cluster, lacks)
        key, stirred = (cluster, self._asks), self._draft.stirred[cluster]
        known = self._draft.findings.ways.get(key)
        if known is None or known[0] != stirred:
            known = self._draft.findings.ways[key] = stirred, self._made(cluster, lacks)
        found: Sequence[list[Offer]] = known[1]  # type: ignore[assignment]
        return found

    def _asked(self) -> Hashable | None:
        """Whoever asks the same finds the same in a cluster where nothing has changed since. None
        for one that is like no other."""
        draft, blocked = self._draft, self._blocked
        spec, givers = blocked.spec, self.givers
        alone = spec.serving is not None or spec.share is not None or bool(spec.topology.apart)
        if alone or holdings(blocked):
            return None
        stands = footing_of(draft, blocked, self._policy) if givers.equals else None
        borrows = tuple(self._borrowed(job) for job in givers.projects)
        asks = alike(blocked), blocked.tier, spec.ranks, self._devices
        return (*asks, stands, givers.verdicts, borrows)

    def _borrowed(self, job: Job) -> bool:
        project = job.spec.project
        if (found := self._borrows.get(project)) is None:
            found = self._borrows[project] = self._draft.quota.borrows(job, self._blocked)
        return found

    def _made(self, cluster: int, lacks: int) -> list[list[Offer]]:
        blocked, devices, jobs = self._blocked, self._devices, self.givers.of(cluster)
        free = blocked.held + self._room.get(cluster, 0)
        short = max(lacks, 0 if cluster == ANYWHERE else devices - free)
        if not jobs or (sum(j.held for j in jobs) < short and blocked.spec.share is None):
            return []
        offers = self._offers(jobs, max(1, short) + self._more)
        offers = [o for o in offers if o.target or self.givers.may_leave(o.job)]
        found = []
        orders: list[Callable[[Offer], tuple[object, ...]]] = [cheapest_first, cheapest_by_device]
        if blocked.warm is not None:
            orders.append(nearest_first(blocked.warm))
        for order in orders:
            offers.sort(key=order)
            if chosen := choose(self._draft, blocked, devices, offers, _least(short, offers)):
                found.append(self._trimmed(chosen, max(1, short) + self._more))
        return found

    def _trimmed(self, chosen: list[Offer], wanted: int) -> list[Offer]:
        """The same, but nobody shrinks by more than is `wanted` with what the others give."""
        excess, draft, blocked = sum(o.gives for o in chosen) - wanted, self._draft, self._blocked
        if excess <= 0 or blocked.spec.share is not None:
            return chosen
        space, kept = Space(draft, blocked, self._devices), list(chosen)
        for each in chosen:
            space.add(each)
        for each in sorted((o for o in chosen if o.target), key=spared_first):
            job, to = each.job, each.job.held - each.gives
            for devices in [d for d in sizes(job, min(to + excess, job.held - 1)) if d > to][
                :_TRIED
            ]:
                target = fewer(draft, job, devices)
                less = offered(draft, job, target, self._policy, borrowed=each.borrowed)
                space.drop(each)
                space.add(less)
                if target and less.live >= each.live and space.fits():
                    kept[kept.index(each)] = less
                    excess -= each.gives - less.gives
                    break
                space.drop(less)
                space.add(each)
        return kept

    def _offers(self, jobs: Sequence[Job], short: int) -> list[Offer]:
        found, draft = list[Offer](), self._draft
        for job in jobs:
            borrowed = self._borrowed(job)
            for target in dict.fromkeys((_smaller(draft, job, short), ())):
                found.append(offered(draft, job, target, self._policy, borrowed=borrowed))
        return found


def per_cluster(draft: Draft, blocked: Job) -> dict[int, int]:
    """Devices by cluster that are unclaimed on nodes where it may go."""
    there = may(draft, blocked) & draft.snapshot.ready
    room = np.bincount(draft.snapshot.cluster, weights=np.where(there, draft.unclaimed(), 0))
    return dict(enumerate(room.astype(int).tolist()))


def choose(
    draft: Draft, blocked: Job, devices: int, offers: Sequence[Offer], least: int = 0
) -> list[Offer]:
    """The first offers that together are enough, `least` or more, less those that turn out not to
    be needed."""
    space = Space(draft, blocked, devices)
    for count, each in enumerate(offers):
        if count >= least and space.fits():
            return needed(space, offers[:count])
        space.add(each)
    return needed(space, offers) if space.fits() else []


def needed(space: Space, chosen: Sequence[Offer]) -> list[Offer]:
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


def _least(short: int, offers: Sequence[Offer]) -> int:
    """How many of the first offers it takes at the very least to free `short` devices."""
    freed = 0
    for count, each in enumerate(offers):
        if freed >= short:
            return count
        freed += each.gives
    return len(offers)


def _smaller(draft: Draft, job: Job, wanted: int) -> Placement:
    """The job on its own nodes with as many devices fewer as are wanted, or as it can spare; where
    that needs no cut, with every rank where it is."""
    held = job.held
    options = sizes(job, most=held - 1) if held > 1 else []
    if not options:
        return ()
    devices = max((d for d in options if held - d >= wanted), default=options[-1])
    return fewer(draft, job, devices)


def fewer(draft: Draft, job: Job, devices: int) -> Placement:
    """The job on so many devices of its own nodes; with every rank where it is, if that can be."""
    if there := stay(draft, job, devices):
        return there
    own = np.zeros_like(draft.free)
    for shard in job.placement:
        own[draft.snapshot.row[shard.node]] = shard.devices
    return pack(draft.snapshot, own, job, devices)
