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
    """Those of one kind of device, in id order. Some may have got an action since. `first` of each
    project and tier, and `projects` one of each project; is there one in more than one cluster?"""

    by_cluster: Mapping[int, Sequence[Runs]]
    clusters: tuple[int, ...]
    first: Mapping[tuple[str, Tier], Job]
    projects: tuple[Job, ...]
    straddled: bool


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
    by_cluster: dict[int, list[Runs]] = {}
    first: dict[tuple[str, Tier], Job] = {}
    projects: dict[str, Job] = {}
    for each in jobs:
        job = each.job
        by_cluster.setdefault(each.cluster, []).append(each)
        first.setdefault((job.spec.project, job.tier), job)
        projects.setdefault(job.spec.project, job)
    straddled = any(clusters[row] != each.cluster for each in jobs for row in each.rows)
    return Crew(by_cluster, tuple(sorted(by_cluster)), first, tuple(projects.values()), straddled)
