"""Who may be made to give devices to a job that waits."""

from __future__ import annotations

from typing import Final

from singularity.primitives.engines import keeps_nothing
from singularity.primitives.model import Job, JobState, Tier

from .draft import Draft
from .lending import shrinks_for
from .offers import level_of
from .placement import may
from .policy import Policy
from .queueing import yields

ANYWHERE: Final = -1  # in place of a cluster: whoever uses the quota that the blocked job needs


class Givers:
    """Who may be made to give to the blocked job."""

    def __init__(self, draft: Draft, blocked: Job, devices: int, policy: Policy) -> None:
        self._draft, self._blocked, self._devices = draft, blocked, devices
        self._policy = policy
        self._taken: dict[tuple[str, str, Tier], bool] = {}

    def by_cluster(self, equals: bool, any_of_its_quota: bool) -> dict[int, list[Job]]:
        """By the cluster where they are, if the blocked job may go there; under ANYWHERE those
        that use the same quota."""
        draft, found = self._draft, dict[int, list[Job]]()
        snapshot = draft.snapshot
        there = may(draft, self._blocked) & snapshot.ready
        for job in draft.untouched(JobState.RUNNING):
            gives = self._yields(job) if equals else False
            gives = gives or self._may_take(job) or shrinks_for(job, self._blocked)
            if not gives or not draft.can_cut(job):
                continue
            rows = [snapshot.row[n] for n in sorted(job.nodes)]
            if there[rows].any():
                found.setdefault(int(snapshot.cluster[rows[0]]), []).append(job)
            if any_of_its_quota and draft.quota.same(job, self._blocked):
                found.setdefault(ANYWHERE, []).append(job)
        return found

    def may_leave(self, job: Job) -> bool:
        return not shrinks_for(job, self._blocked) or self._may_take(job)

    def _may_take(self, job: Job) -> bool:
        alike = job.spec.project, job.spec.device, job.tier
        if (found := self._taken.get(alike)) is None:
            quota = self._draft.quota
            found = self._taken[alike] = quota.may_take(self._blocked, self._devices, job)
        return found

    def _yields(self, job: Job) -> bool:
        """Does it to its equal, as one that had more so far?"""
        draft, blocked, policy = self._draft, self._blocked, self._policy
        trains = blocked.spec.serving is None and not keeps_nothing(job)
        if not trains or job.tier is not blocked.tier:
            return False
        had_more = level_of(draft, job, policy) > level_of(draft, blocked, policy)
        return had_more and yields(job, draft.snapshot.now_s, policy)
