"""What was true when a backup was made is not true any more: nodes have gone on, and are at work.

A restored planet must not believe that its jobs run, nor use a number again that somebody has seen
since: an epoch of a node (letters), a life of a job (reports, and what the store keeps and fences),
an epoch of a leader, the version of a routing table. All of them go on from the second of the
restore, counted since 2020: later than any that was given out before, since none of them is given
out every second, and so is the next restore, also of the same backup.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, func, select, update

from singularity.primitives import verbs
from singularity.primitives.holdings import hosts
from singularity.primitives.model import ACTIVE, TERMINAL, Goal, JobId
from singularity.primitives.nodes import NodeId
from singularity.primitives.records import replace

from . import service_tables as st
from . import tables as t
from .books import Books
from .locks import lock_jobs, lock_nodes, with_verified

_BEGAN_S: Final = 1_577_836_800  # 2020-01-01: so the numbers fit four bytes until 2088
_LIVES = t.job_state.c.state.not_in([str(s) for s in TERMINAL])


def fence(db: Connection, now_s: float, why: str) -> int:
    """All nodes are lost until they register, all jobs that were under way are between two lives.
    Returns how many jobs there are that have not ended. `why` is told in their history."""
    stamp = int(now_s) - _BEGAN_S
    nodes = {NodeId(n) for n in db.execute(select(t.node.c.id)).scalars()}
    alive = {JobId(j) for j in db.execute(select(t.job_state.c.id).where(_LIVES)).scalars()}
    books = Books(db, lock_jobs(db, with_verified(db, alive)), lock_nodes(db, nodes))
    for node in sorted(books.nodes.values(), key=lambda n: n.id):
        books.put(replace(node, lost=True, epoch=max(node.epoch, stamp), seq=0))
    for id_ in sorted(alive):
        job = books.jobs[id_]
        if job.state in ACTIVE:
            gone = frozenset(hosts(job)) | job.nodes
            step = verbs.stop(job, now_s, Goal.RETRY, why, gone)
            books.write(job, step, why, now_s)
        job = books.jobs[id_]
        if job.state not in TERMINAL:
            later = max(job.incarnation + 1, stamp)
            # What a move left in the memory of its nodes is gone with the ranks there.
            anew = replace(job, incarnation=later, handover=None, carried_s=0.0)
            books.charge(job, replace(anew, version=job.version + 1))
    books.flush()
    lease, routing = t.lease.c, st.routing.c
    over = {"holder": "", "expires_at_s": 0.0, "epoch": func.greatest(lease.epoch, stamp)}
    db.execute(update(t.lease).values(over))
    db.execute(update(st.routing).values(version=func.greatest(routing.version, stamp)))
    return len(alive)
