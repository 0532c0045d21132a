"""The only writer of jobs, nodes and their logs. One call, one transaction: rows, history and
letters commit together or not at all. All judgement lives in primitives and scheduler.plan; this
file persists it.

Every method locks services by id first, then jobs, then nodes: one order, so no deadlock.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from singularity.primitives import verbs
from singularity.primitives.errors import (
    Conflict,
    IdempotencyMismatch,
    NotFound,
)
from singularity.primitives.faults import gone, reborn
from singularity.primitives.holdings import hosts, presented
from singularity.primitives.messages import Envelope, Register
from singularity.primitives.model import ACTIVE, TERMINAL, Intent, Job, JobId, Kind
from singularity.primitives.nodes import ClusterId, Node, NodeId, RegionId, Scope
from singularity.primitives.operations import By
from singularity.primitives.records import replace
from singularity.primitives.service import Loss
from singularity.primitives.sla import charged
from singularity.scheduler.plan import Plan, grows, perform
from singularity.scheduler.quota import Quota
from singularity.scheduler.snapshot import Snapshot
from singularity.scheduler.standing import admissible, outdated

from . import tables as t
from .books import Books, End, Readings, insert_jobs, load_jobs, load_nodes, nodes_from
from .bulk import Question, array_of, ask, begun, literally
from .drains import book
from .duties import SqlDuties
from .folding import SqlReports
from .following import Follower
from .lease import Lease
from .locks import jobs_on, lock_jobs, lock_nodes, locked_hosts, locked_jobs, with_verified
from .operations import Deed, note
from .projects import GOVERNED, SqlProjects, opening, projects_from
from .rows import Submission, node_row
from .tariffs import SqlTariffs
from .traffic import SqlServices, write_changes
from .wire import Answer

log = logging.getLogger(__name__)

_NOT_ENDED = t.job_state.c.state.not_in([str(s) for s in TERMINAL])


class SqlLedger(SqlReports, SqlDuties, SqlServices, SqlProjects, SqlTariffs):
    """scheduler.ledger.Ledger on Postgres. A `lease` is asked inside the transaction of every
    commit whether its author still leads, and raises NotLeader."""

    def __init__(self, engine: Engine, lease: Lease | None = None) -> None:
        self._engine, self._lease = engine, lease
        self._readings = Readings()
        self._follower = Follower(engine, self._readings)

    # -- jobs ------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        self.submit_many([(job, Submission())])

    def submit_many(self, jobs: Sequence[tuple[Job, Submission]]) -> list[JobId]:
        """Insert new jobs; returns their ids, or of one submitted earlier with the same key.

        Raises IntegrityError when two of the same key race: nothing is inserted, try again.
        """
        projects = opening({job.spec.project for job, _ in jobs}, jobs[0][0].submitted_at_s)
        digests = {(j.spec.project, s.key): s.digest for j, s in jobs if s.key is not None}
        with begun(self._engine, projects, *_earlier(digests)) as (db, found):
            known = _known(digests, found[1:])
            new = [(j, s) for j, s in jobs if (j.spec.project, s.key or "") not in known]
            insert_jobs(db, new, End())
        return [known.get((job.spec.project, s.key or ""), job.id) for job, s in jobs]

    def intend(self, job: JobId, intent: Intent, now_s: float) -> Job:
        """What the owner wants now. Raises Conflict when the job has ended."""
        return self._wish(job, f"its owner wants: {intent}", now_s, intent=intent, retry_at_s=0.0)

    def confine(self, job: JobId, scope: Scope | None, now_s: float) -> Job:
        where = f"{scope.kind} {scope.id}" if scope else "anywhere"
        return self._wish(job, f"its owner moves it to {where}", now_s, confine=scope)

    def resize(self, job: JobId, devices: int, now_s: float) -> Job:
        return self._wish(job, f"its owner wants {devices} devices", now_s, devices=devices)

    def request_checkpoint(self, job: JobId, now_s: float) -> Job:
        return self._wish(job, "its owner wants a checkpoint", now_s, checkpoint_wanted=True)

    def go_back(self, job: JobId, to: tuple[int, int], now_s: float) -> Job:
        reason = f"its owner goes back to checkpoint {to[0]}-{to[1]}"
        return self._wish(job, reason, now_s, back_to=to, retry_at_s=0.0)

    def _wish(self, job_id: JobId, reason: str, now_s: float, **changes: object) -> Job:
        with self._engine.begin() as db:
            job = lock_jobs(db, {job_id}).get(job_id)
            if job is None:
                raise NotFound(f"there is no job {job_id}", job=job_id)
            if job.state in TERMINAL:
                raise Conflict(
                    f"{job.spec.name} has {job.state}; submit it again to run it once more",
                    job=job_id,
                    state=job.state,
                )
            if job.intent is Intent.CANCEL and changes.get("intent", Intent.CANCEL) != job.intent:
                raise Conflict(f"{job.spec.name} is being cancelled; submit it again", job=job_id)
            after = replace(job, version=job.version + 1, **changes)  # type: ignore[arg-type]
            books = Books(db, {job_id: job}, {})
            after = books.wish(job, after, reason, now_s)
            books.flush()
            return after

    # -- the scheduler ---------------------------------------------------------------------------

    def snapshot(self, now_s: float) -> Snapshot:
        """Reads what has changed since the last one."""
        return self._follower.snapshot(now_s)

    def commit(self, plan: Plan, now_s: float) -> dict[JobId, str]:
        """Carry out each action that is still admissible; the rest, with the reason why not."""
        rejected: dict[JobId, str] = {}
        mine = {a.job for a in plan.actions}
        placed = {s.node for a in plan.actions for s in a.placement}
        # Services are locked first, if any change; else all is by one message.
        locks = locked_jobs(mine), locked_hosts(mine, placed), *GOVERNED
        first = () if plan.changes else locks
        with begun(self._engine, *self._led(), *first) as (db, found):
            self._must_lead(found)
            written = write_changes(db, plan.changes, now_s)
            of_jobs, of_nodes, *said = ask(db, *locks) if plan.changes else found[-len(locks) :]
            jobs, nodes = self._readings.jobs_from(of_jobs), nodes_from(of_nodes)
            governed = projects_from(*said)
            books, quota = Books(db, jobs, nodes, governed), Quota(governed)
            for action in sorted(plan.actions, key=lambda a: a.job):
                job = books.jobs[action.job]
                more = grows(job, action)
                why_not = admissible(job, action, books.nodes) or outdated(job, action, written)
                if why_not := why_not or quota.refuses(job, more):
                    rejected[job.id] = why_not
                else:
                    quota.take(job, more)
                    books.write(job, perform(job, action, now_s), action.reason, now_s)
                    books.pour()
                    if action.pace_s:
                        books.settle()
                        book(db, action.drain, action.pace_s, now_s)
            books.flush(End())
        return rejected

    def retire(self, jobs: Collection[JobId], now_s: float) -> None:
        """Give up the checkpoints of those of `jobs` that have ended."""
        with self._engine.begin() as db:
            if self._lease is not None:
                self._lease.guard(db)
            found = lock_jobs(db, jobs)
            books = Books(db, found, {})
            for job in sorted(found.values(), key=lambda j: j.id):
                if job.state in TERMINAL:
                    books.write(job, verbs.retire(job), "", now_s)
            books.flush()

    def _led(self) -> tuple[Question, ...]:
        return () if self._lease is None else (self._lease.question,)

    def _must_lead(self, found: Sequence[Answer]) -> None:
        """`found` begins with the answers to `_led`. Raises NotLeader."""
        if self._lease is not None:
            self._lease.judge(found[0])

    # -- agents ----------------------------------------------------------------------------------

    def register(self, register: Register, now_s: float) -> Node:
        """Admit a node. One that is new, was lost, or comes with another epoch than ours opens the
        next epoch: every job believed there fails over and its log starts anew."""
        with self._engine.begin() as db:
            _make_place(db, register, now_s)
            jobs = lock_jobs(db, with_verified(db, jobs_on(db, register.node)))
            nodes = lock_nodes(db, {n for j in jobs.values() for n in hosts(j)} | {register.node})
            if jobs_on(db, register.node) - jobs.keys():
                raise Conflict("a job was placed on the node meanwhile; register again")
            node = nodes[register.node]
            books = Books(db, jobs, nodes)
            if node.epoch == 0 or node.lost or node.epoch != register.epoch:
                away = frozenset({node.id})
                for job in sorted(jobs.values(), key=lambda j: j.id):
                    if job.state in ACTIVE and node.id in set(hosts(job)):
                        reason = f"node {node.id} started anew"
                        now = books.jobs[job.id]  # one that was verified there is certified
                        step = verbs.failover(now, away, now_s, reason)
                        books.write(now, step, reason, now_s)
                books.flush()
                db.execute(delete(t.outbox).where(t.outbox.c.node == node.id))
                db.execute(delete(t.node_log).where(t.node_log.c.node == node.id))
                held = node.used > 0
                node = reborn(books.nodes[node.id], now_s, held=held, seen=register.epoch)
            node = presented(node, register, now_s)
            books.put(node)
            books.flush()
            return node

    def hear(self, node: NodeId, epoch: int, acknowledged: int, now_s: float) -> int | None:
        """A heartbeat: drop what is acknowledged; the last seq written, None if not admitted."""
        with self._engine.begin() as db:
            heard = (
                update(t.node)
                .where(t.node.c.id == node, t.node.c.epoch == epoch, ~t.node.c.lost)
                .values(heard_s=now_s)
                .returning(t.node.c.seq)
            )
            written = db.execute(heard).scalar()
            if written is None:
                return None
            for log in (t.outbox, t.node_log):
                seen = (log.c.node == node) & (log.c.epoch == epoch) & (log.c.seq <= acknowledged)
                db.execute(delete(log).where(seen))
            return int(written)

    def charge(self, node: NodeId, lost: Mapping[JobId, Sequence[Loss]], now_s: float) -> None:
        """See scheduler.ledger.Ledger. Most is too little to be written: that is seen without a
        lock."""
        known = self.jobs_of(lost)
        due = {i for i, job in known.items() if charged(job, node, lost[i], now_s) != job}
        with self._engine.begin() as db:
            jobs = lock_jobs(db, due) if due else {}
            books = Books(db, jobs, {})
            for job in jobs.values():
                books.charge(job, charged(job, node, lost[job.id], now_s))
            books.flush()

    def lose(self, silent: Mapping[NodeId, float], now_s: float) -> list[NodeId]:
        """Declare nodes lost, unless they were heard after the given time."""
        lost = []
        with self._engine.begin() as db:
            for node in lock_nodes(db, set(silent)).values():
                if not node.lost and node.heard_s <= silent[node.id]:
                    lost_one = node_row(gone(node, now_s))
                    db.execute(update(t.node).where(t.node.c.id == node.id).values(lost_one))
                    lost.append(node.id)
        return lost

    def letters(self, node: NodeId, epoch: int, after: int) -> list[Envelope]:
        mine = (t.node_log.c.node == node) & (t.node_log.c.epoch == epoch)
        return self._letters(mine & (t.node_log.c.seq > after))

    def unsent(self) -> list[Envelope]:
        return self._letters(t.node_log.c.seq > 0)

    def _letters(self, which: object) -> list[Envelope]:
        log = t.node_log
        query = select(log.c.body).where(which).order_by(log.c.node, log.c.epoch, log.c.seq)  # type: ignore[arg-type]
        with self._engine.connect() as db:
            return [Envelope.model_validate(body) for (body,) in db.execute(query)]

    # -- operators -------------------------------------------------------------------------------

    def acknowledge(self, actor: str, now_s: float) -> None:
        """An operator approves of the evictions until now: they bound no others any more."""
        with self._engine.begin() as db:
            db.execute(insert(t.acknowledgement).values(actor=actor, at_s=now_s))
            note(db, Deed("acknowledge", "evictions", {}, {}), By(actor), now_s)

    def jobs_of(self, ids: Collection[JobId]) -> dict[JobId, Job]:
        """Those of `ids` that exist."""
        with self._engine.connect() as db:
            return {j.id: j for j in load_jobs(db, t.job_state.c.id.in_(sorted(ids)))}

    def shadows(self) -> list[Job]:
        """The jobs of kind verify that have not ended."""
        with self._engine.connect() as db:
            alive = _NOT_ENDED & literally(t.job.c.kind, str(Kind.VERIFY))
            return load_jobs(db, alive)

    def jobs(self) -> dict[JobId, Job]:
        with self._engine.connect() as db:
            return {j.id: j for j in load_jobs(db, t.job_state.c.version >= 0)}

    def nodes(self) -> dict[NodeId, Node]:
        with self._engine.connect() as db:
            return {n.id: n for n in load_nodes(db, select(t.node))}


_Digests = Mapping[tuple[str, str], str | None]  # by project and idempotency key
_EARLIER: Final = """
SELECT project, idempotency_key, id, body_digest FROM job
WHERE project = ANY (%s::text[]) AND idempotency_key = ANY (%s::text[])"""


def _earlier(digests: _Digests) -> tuple[Question, ...]:
    """Asks for all that may have been submitted before."""
    if not digests:
        return ()
    projects, keys = {project for project, _ in digests}, {key for _, key in digests}
    return (Question(_EARLIER, (array_of(projects), array_of(keys))),)


def _known(digests: _Digests, found: Sequence[Answer]) -> dict[tuple[str, str], JobId]:
    """(project, idempotency key) -> job, for those that were submitted before.

    Raises IdempotencyMismatch when the same key came with another body.
    """
    known = {}
    for project, key, job, digest in (row for answer in found for row in answer):
        if (project, key) not in digests:
            continue
        if digests[project, key] != digest:
            raise IdempotencyMismatch(
                f"Idempotency-Key {key!r} was used for another job; choose a new key", job=job
            )
        known[project, key] = JobId(job)
    return known


def _make_place(db: Connection, register: Register, now_s: float) -> None:
    """The node's region, cluster, row and devices, where they are new. Raises Conflict."""
    db.execute(upsert(t.region).values(id=register.region).on_conflict_do_nothing())
    cluster = {"id": register.cluster, "region": register.region}
    db.execute(upsert(t.cluster).values(cluster).on_conflict_do_nothing())
    region = db.scalar(select(t.cluster.c.region).where(t.cluster.c.id == register.cluster))
    if region != register.region:
        raise Conflict(
            f"cluster {register.cluster} is in region {region}, not in {register.region}; give the "
            "other one a name of its own",
            node=register.node,
        )
    fresh = Node(
        id=register.node,
        region=RegionId(register.region),
        cluster=ClusterId(register.cluster),
        device=register.device,
        devices=register.devices,
        known_s=now_s,
        rack=register.rack,
    )
    db.execute(upsert(t.node).values(node_row(fresh)).on_conflict_do_nothing())
    devices = [
        {"node": register.node, "index": i, "kind": register.device}
        for i in range(register.devices)
    ]
    db.execute(upsert(t.device).on_conflict_do_nothing(), devices)
