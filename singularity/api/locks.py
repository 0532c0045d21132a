"""The jobs and nodes that a transaction is about, read to be changed.

Each kind is locked in the order of its ids, jobs before nodes: whoever keeps to that (see
applier.py) waits for others, and never in a circle.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, select

from singularity.primitives.model import Job, JobId, Kind
from singularity.primitives.nodes import Node, NodeId
from singularity.primitives.projects import Project

from . import tables as t
from .books import jobs_from, locking, nodes_from, these_jobs, these_nodes
from .bulk import Question, array_of, ask
from .projects import GOVERNED, projects_from

_VERIFIED: Final = (
    f"SELECT spec->'aside'->>'of' FROM job WHERE id = ANY (%s::text[]) AND kind = '{Kind.VERIFY}'"
)


def lock_jobs(db: Connection, ids: Collection[JobId]) -> dict[JobId, Job]:
    (rows,) = ask(db, locking(these_jobs(ids), "s"))
    return jobs_from(rows)


def jobs_of(db: Connection, ids: Collection[JobId]) -> dict[JobId, Job]:
    (rows,) = ask(db, these_jobs(ids))
    return jobs_from(rows)


def with_verified(db: Connection, ids: Collection[JobId]) -> set[JobId]:
    """And the jobs that those of kind verify are about, for their end is written to both."""
    (found,) = ask(db, Question(_VERIFIED, (array_of(ids),)))
    return {*ids, *(JobId(of) for (of,) in found if of is not None)}


def lock_nodes(db: Connection, ids: Collection[NodeId]) -> dict[NodeId, Node]:
    (rows,) = ask(db, locking(these_nodes(ids), "node"))
    return nodes_from(rows)


def lock_nodes_governed(
    db: Connection, ids: Collection[NodeId]
) -> tuple[dict[NodeId, Node], list[Project]]:
    """Nodes, and then all projects, so that none comes to hold more meanwhile; no projects where
    nobody has a limit."""
    nodes, locked, said = ask(db, locking(these_nodes(ids), "node"), *GOVERNED)
    return nodes_from(nodes), projects_from(locked, said)


def jobs_on(db: Connection, node: NodeId) -> set[JobId]:
    """Jobs that sit on the node or have reserved some of it; also those that are being stopped
    there with nothing held any more."""
    found = db.execute(select(t.shard.c.job).where(t.shard.c.node == node))
    return {JobId(job) for (job,) in found}
