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
class Roster:
    """In id order; `kinds` by kind of device, and there by project and tier. Some may have got an
    action since."""

    jobs: Sequence[Runs]
    kinds: Mapping[str, Mapping[tuple[str, Tier], Sequence[Runs]]]


def roster(draft: Draft) -> Roster:
    """Of those that had no action when it was first asked for."""
    if (found := draft.findings.roster) is None:
        found = draft.findings.roster = _written(draft)
    assert isinstance(found, Roster)
    return found


def _written(draft: Draft) -> Roster:
    snapshot, kinds = draft.snapshot, dict[str, dict[tuple[str, Tier], list[Runs]]]()
    jobs = []
    for job in draft.untouched(JobState.RUNNING):
        if not draft.can_cut(job):
            continue
        rows = tuple(sorted(snapshot.row[n] for n in job.nodes))
        each = Runs(job, rows, int(snapshot.cluster[rows[0]]))
        jobs.append(each)
        of_kind = kinds.setdefault(job.spec.device, {})
        of_kind.setdefault((job.spec.project, job.tier), []).append(each)
    return Roster(jobs, kinds)
