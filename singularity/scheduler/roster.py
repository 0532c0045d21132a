"""The jobs that run and that may be cut, with where they are: looked up once for a plan, however
many jobs wait for what they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from singularity.primitives.model import Job, JobState, Tier

from .draft import Draft


@dataclass(frozen=True, slots=True)
class Runs:
    """A job on the `rows` of its nodes, in their order, and the cluster of the first."""

    job: Job
    rows: tuple[int, ...]
    cluster: int


@dataclass(frozen=True, slots=True)
class Crew:
    """Those of one kind of device, by cluster and there by project and tier. Some may have got an
    action since. `first` of each project and tier, and `projects` one of each project; `straddled`
    are clusters with one that is in another, too."""

    by_cluster: Mapping[int, Mapping[tuple[str, Tier], Sequence[Runs]]]
    clusters: tuple[int, ...]
    first: Mapping[tuple[str, Tier], Job]
    projects: tuple[Job, ...]
    straddled: frozenset[int]


@dataclass(frozen=True, slots=True)
class Roster:
    """In id order, and by kind of device."""

    jobs: Sequence[Runs]
    kinds: Mapping[str, Crew]


def roster(draft: Draft) -> Roster:
    """Of those that had no action when it was first asked for."""
    if (found := draft.findings.roster) is None:
        found = draft.findings.roster = _written(draft)
    assert isinstance(found, Roster)
    return found


def _written(draft: Draft) -> Roster:
    snapshot, kinds = draft.snapshot, dict[str, list[Runs]]()
    clusters = snapshot.cluster.tolist()
    jobs = []
    for job in draft.untouched(JobState.RUNNING):
        if draft.can_cut(job):
            rows = tuple(sorted(snapshot.row[s.node] for s in job.placement))
            jobs.append(Runs(job, rows, clusters[rows[0]]))
            kinds.setdefault(job.spec.device, []).append(jobs[-1])
    return Roster(jobs, {kind: _crew(of_kind, clusters) for kind, of_kind in kinds.items()})


def _crew(jobs: Sequence[Runs], clusters: Sequence[int]) -> Crew:
    by_cluster: dict[int, dict[tuple[str, Tier], list[Runs]]] = {}
    first: dict[tuple[str, Tier], Job] = {}
    projects: dict[str, Job] = {}
    straddled = set[int]()
    for each in jobs:
        of = each.job.spec.project, each.job.tier
        by_cluster.setdefault(each.cluster, {}).setdefault(of, []).append(each)
        first.setdefault(of, each.job)
        projects.setdefault(of[0], each.job)
        there = {clusters[row] for row in each.rows}
        straddled |= there if len(there) > 1 else set()
    every = tuple(sorted(by_cluster)), first, tuple(projects.values()), frozenset(straddled)
    return Crew(by_cluster, *every)
