"""Who may be made to give devices to a job that waits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from singularity.primitives.engines import keeps_nothing
from singularity.primitives.model import Job, Tier

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
        self._taken: dict[tuple[str, Tier], bool] = {}

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
        of_kind = roster(self._draft).kinds.get(self._blocked.spec.device, {})
        for (project, tier), jobs in of_kind.items():
            all_of_them = self._may_take(project, tier, jobs[0].job)
            for each in jobs:
                if self._draft.touched(each.job):
                    continue
                gives = all_of_them or shrinks_for(each.job, self._blocked)
                if gives or (equals and self._yields(each.job)):
                    yield each

    def may_leave(self, job: Job) -> bool:
        taken = self._may_take(job.spec.project, job.tier, job)
        return taken or not shrinks_for(job, self._blocked)

    def _may_take(self, project: str, tier: Tier, job: Job) -> bool:
        if (found := self._taken.get((project, tier))) is None:
            quota = self._draft.quota
            found = quota.may_take(self._blocked, self._devices, job)
            self._taken[project, tier] = found
        return found

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
