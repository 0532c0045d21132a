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

from . import tables as t
from .books import COLUMNS, JOBS, jobs_from, locking, nodes_from, these_jobs, these_nodes
from .bulk import Question, array_of, ask

_VERIFIED: Final = (
    f"SELECT spec->'aside'->>'of' FROM job WHERE id = ANY (%s::text[]) AND kind = '{Kind.VERIFY}'"
)
_HOSTS: Final = (
    f"SELECT {COLUMNS} FROM node WHERE id = ANY (%s::text[])"
    " OR id IN (SELECT node FROM shard WHERE job = ANY (%s::text[])) ORDER BY id FOR UPDATE"
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


def locked_jobs(ids: Collection[JobId]) -> Question:
    """And those that the ones of kind verify are about; `jobs_from` reads the answer."""
    which = f"s.id = ANY (%s::text[]) OR s.id IN ({_VERIFIED})"
    return Question(f"{JOBS} WHERE {which} ORDER BY s.id FOR UPDATE OF s", (array_of(ids),) * 2)


def locked_hosts(jobs: Collection[JobId], more: Collection[NodeId] = ()) -> Question:
    """The nodes of which jobs, locked already, hold or have reserved something, and `more`;
    `nodes_from` reads the answer."""
    return Question(_HOSTS, (array_of(more), array_of(jobs)))


def jobs_on(db: Connection, node: NodeId) -> set[JobId]:
    """Jobs that sit on the node or have reserved some of it; also those that are being stopped
    there with nothing held any more."""
    found = db.execute(select(t.shard.c.job).where(t.shard.c.node == node))
    return {JobId(job) for (job,) in found}
