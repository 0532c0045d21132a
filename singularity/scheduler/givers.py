"""Who may be made to give devices to a job that waits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from singularity.primitives.engines import keeps_nothing
from singularity.primitives.model import Job

from .draft import Draft
from .lending import shrinks_for
from .offers import level_of
from .placement import may
from .policy import Policy
from .queueing import yields
from .roster import Runs, roster
from .snapshot import Flags

ANYWHERE: Final = -1  # in place of a cluster: whoever uses the quota that the blocked job needs


class Givers:
    """Who may be made to give to the blocked job. Jobs of one project, tier and kind of device are
    judged together, but for those that yield to an equal."""

    def __init__(self, draft: Draft, blocked: Job, devices: int, policy: Policy) -> None:
        self._draft, self._blocked, self._devices = draft, blocked, devices
        self._policy = policy
        self._stands: dict[str, int] = {}

    def by_cluster(self, equals: bool, any_of_its_quota: bool) -> dict[int, list[Job]]:
        """By the cluster where they are, if the blocked job may go there; under ANYWHERE those
        that use the same quota."""
        draft, found = self._draft, defaultdict[int, list[Job]](list)
        there = may(draft, self._blocked) & draft.snapshot.ready
        for each in self._willing(equals):
            if _any(there, each.rows):
                found[each.cluster].append(each.job)
            if any_of_its_quota and draft.quota.same(each.job, self._blocked):
                found[ANYWHERE].append(each.job)
        return dict(found)

    def _willing(self, equals: bool) -> Iterator[Runs]:
        draft, blocked = self._draft, self._blocked
        of_kind = roster(draft).kinds.get(blocked.spec.device, {})
        for (_, tier), jobs in of_kind.items():
            every = self._may_take(jobs[0].job)
            if every or tier is blocked.tier:
                for each in jobs:
                    gives = every or self._gives_to_equal(each.job, equals)
                    if gives and not draft.touched(each.job):
                        yield each

    def _gives_to_equal(self, job: Job, equals: bool) -> bool:
        return shrinks_for(job, self._blocked) or (equals and self._yields(job))

    def may_leave(self, job: Job) -> bool:
        return not shrinks_for(job, self._blocked) or self._may_take(job)

    def _may_take(self, job: Job) -> bool:
        """As Quota.may_take, with what is the same for all of a project looked up."""
        blocked, quota = self._blocked, self._draft.quota
        project, less_urgent = job.spec.project, job.tier > blocked.tier
        if not quota.governs or project == blocked.spec.project:
            return less_urgent
        if (found := self._stands.get(project)) is None:
            found = self._stands[project] = quota.stands(blocked, self._devices, job)
        return less_urgent + found >= 2

    def _yields(self, job: Job) -> bool:
        """Does it to its equal, as one that had more so far?"""
        draft, blocked, policy = self._draft, self._blocked, self._policy
        trains = blocked.spec.serving is None and not keeps_nothing(job)
        if not trains or job.tier is not blocked.tier:
            return False
        had_more = level_of(draft, job, policy) > level_of(draft, blocked, policy)
        return had_more and yields(job, draft.snapshot.now_s, policy)


def _any(there: Flags, rows: tuple[int, ...]) -> bool:
    return any(there[row] for row in rows)
