"""Who may be made to give devices to a job that waits."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Final

from singularity.primitives.engines import keeps_nothing
from singularity.primitives.model import Job, Tier

from .draft import Draft
from .lending import shrinks_for
from .offers import footing_of, level_of
from .placement import may
from .policy import Policy
from .queueing import yields
from .roster import Runs, roster
from .snapshot import Flags

ANYWHERE: Final = -1  # in place of a cluster: whoever uses the quota that the blocked job needs


class Givers:
    """Who may be made to give to the blocked job; with `equals`, who had more than it so far as
    well. Jobs of one project and tier are judged together, but for those that give to an equal."""

    def __init__(
        self, draft: Draft, blocked: Job, devices: int, policy: Policy, equals: bool
    ) -> None:
        self._draft, self._blocked, self._devices = draft, blocked, devices
        self._policy, self.equals = policy, equals
        self._crew = roster(draft).kinds.get(blocked.spec.device)
        self._stands: dict[str, int] = {}

    @property
    def clusters(self) -> Sequence[int]:
        """Where some run that are of its kind of device, in order."""
        return self._crew.clusters if self._crew else ()

    @property
    def projects(self) -> Sequence[Job]:
        """One job of each project that has some there."""
        return self._crew.projects if self._crew else ()

    @property
    def straddled(self) -> frozenset[int]:
        """Clusters where one runs that is in another, too."""
        return self._crew.straddled if self._crew else frozenset()

    @cached_property
    def verdicts(self) -> Hashable:
        """Who may be made to give, by project and tier: equal for all who find the same."""
        first = self._crew.first if self._crew else {}
        return tuple(self._may_take(job) for job in first.values())

    def of(self, cluster: int) -> list[Job]:
        """Those in the cluster on nodes where the blocked job may go; under ANYWHERE those that use
        the same quota."""
        if self._crew is None:
            return []
        if cluster == ANYWHERE:
            every = [r.job for jobs in self._crew.by_cluster.values() for r in self._willing(jobs)]
            return [job for job in every if self._draft.quota.same(job, self._blocked)]
        there, jobs = self._there, self._willing(self._crew.by_cluster[cluster])
        return [r.job for r in jobs if any(there[row] for row in r.rows)]

    def may_leave(self, job: Job) -> bool:
        return not shrinks_for(job, self._blocked) or self._may_take(job)

    @cached_property
    def _there(self) -> Flags:
        return may(self._draft, self._blocked) & self._draft.snapshot.ready

    def _willing(self, classes: Mapping[tuple[str, Tier], Sequence[Runs]]) -> list[Runs]:
        touched, found = self._draft.touched, list[Runs]()
        for (_, tier), jobs in classes.items():
            if self._may_take(jobs[0].job):
                found += [r for r in jobs if not touched(r.job)]
            elif tier is self._blocked.tier:
                equal = [r for r in jobs if self._gives_to_equal(r.job)]
                found += [r for r in equal if not touched(r.job)]
        return found

    def _gives_to_equal(self, job: Job) -> bool:
        return shrinks_for(job, self._blocked) or (self.equals and self._yields(job))

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
        to = footing_of(draft, blocked, policy)
        if level_of(draft, job, policy) <= to.level:
            return False  # most of them
        return yields(job, to, draft.snapshot.now_s, policy)
