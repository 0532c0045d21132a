"""The jobs and nodes that a transaction is about, read to be changed.

Each kind is locked in the order of its ids, jobs before nodes: whoever keeps to that (see
applier.py) waits for others, and never in a circle.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select

from singularity.primitives.model import Job, JobId, Kind
from singularity.primitives.nodes import Node, NodeId

from . import tables as t
from .books import JOB, load_jobs, read_jobs
from .bulk import among
from .rows import node_of


def lock_jobs(db: Connection, ids: Collection[JobId]) -> dict[JobId, Job]:
    query = (
        select(*JOB)
        .join(t.job, t.job.c.id == t.job_state.c.id)
        .where(among(t.job_state.c.id, ids))
        .order_by(t.job_state.c.id)
        .with_for_update(of=t.job_state)
    )
    return {job.id: job for job in read_jobs(db, query)}


def jobs_of(db: Connection, ids: Collection[JobId]) -> dict[JobId, Job]:
    return {job.id: job for job in load_jobs(db, among(t.job_state.c.id, ids))}


def with_verified(db: Connection, ids: Collection[JobId]) -> set[JobId]:
    """And the jobs that those of kind verify are about, for their end is written to both."""
    mine = among(t.job.c.id, ids) & (t.job.c.kind == str(Kind.VERIFY))
    found = db.execute(select(t.job.c.spec["aside"]["of"].astext).where(mine))
    return {*ids, *(JobId(of) for (of,) in found if of is not None)}


def lock_nodes(db: Connection, ids: Collection[NodeId]) -> dict[NodeId, Node]:
    query = select(t.node).where(among(t.node.c.id, ids)).order_by(t.node.c.id)
    rows = db.execute(query.with_for_update())
    return {node.id: node for node in map(node_of, rows.mappings())}


def jobs_on(db: Connection, node: NodeId) -> set[JobId]:
    """Jobs that sit on the node or have reserved some of it; also those that are being stopped
    there with nothing held any more."""
    found = db.execute(select(t.shard.c.job).where(t.shard.c.node == node))
    return {JobId(job) for (job,) in found}
