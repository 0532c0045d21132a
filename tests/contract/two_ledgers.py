"""Both ledgers side by side: a few jobs and nodes, every call made on both, and what must hold of
each whatever was called (test_ledgers.py says what is)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from operator import methodcaller
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from sqlalchemy import Engine, select

from singularity.api import tables as t
from singularity.api.applier import SqlLedger
from singularity.primitives.errors import SingularityError
from singularity.primitives.findings import Certificate, Finding
from singularity.primitives.holdings import holdings, spots
from singularity.primitives.messages import Phase, Register, Start
from singularity.primitives.model import Engine as Chain
from singularity.primitives.model import (
    Job,
    JobId,
    JobSpec,
    JobState,
    Tier,
)
from singularity.primitives.nodes import NodeId, Scope, ScopeKind
from singularity.primitives.projects import claim
from singularity.primitives.sharing import DeviceShare, Precedence
from singularity.scheduler.ledger import Ledger
from singularity.scheduler.plan import Plan
from singularity.scheduler.policy import Policy
from singularity.scheduler.retention import needed
from singularity.scheduler.sim.ledger import MemoryLedger

JOBS = [JobId(f"j{i}") for i in range(4)]
PLACES = {NodeId("n0"): ("r0", "c0"), NodeId("n1"): ("r0", "c0"), NodeId("n2"): ("r1", "c1")}
NODES = list(PLACES)
SCOPES = [
    Scope(ScopeKind.REGION, "r0"),
    Scope(ScopeKind.REGION, "r1"),
    Scope(ScopeKind.CLUSTER, "c0"),
    Scope(ScopeKind.NODE, "n1"),
    Scope(ScopeKind.NODE, "nowhere"),
]
# What a job of each state may hear of next: random phases alone would rarely get anywhere.
LIKELY: dict[JobState, Phase] = {
    JobState.STARTING: "running",
    JobState.RUNNING: "running",
    JobState.SUSPENDING: "dumped",
    JobState.STOPPING: "stopped",
}
SHARES = [None, None, DeviceShare(300, 2 << 30), DeviceShare(700, 6 << 30, Precedence.REAL_TIME)]
ASKED = st.tuples(
    st.integers(1, 6),
    st.sampled_from([1, 4]),
    st.sampled_from(Tier),
    st.booleans(),
    st.booleans(),
    st.sampled_from(SHARES),
)
CHAINS = (
    (Chain.TRANSPARENT, Chain.RESTART),
    (Chain.TRANSPARENT, Chain.COOPERATIVE),
)
POLICY = Policy()
PROJECTS = ["p0", "p1", "team", "unknown"]
FOUND = Certificate(Finding.DIFFERS, "differs", facts=(("engine", "none"),))


def which_of(node: NodeId) -> int:
    return NODES.index(node)


class TwoLedgers(RuleBasedStateMachine):
    """The same calls on both; answers and all that can be read must be equal."""

    engine: Engine

    @initialize(asked=st.lists(ASKED, min_size=4, max_size=4))
    def fresh(self, asked: list[tuple[int, int, Tier, bool, bool, DeviceShare | None]]) -> None:
        names = ", ".join(f'"{table.name}"' for table in t.metadata.sorted_tables)
        with self.engine.begin() as db:
            db.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
        self.sql, self.memory = SqlLedger(self.engine), MemoryLedger()
        self.now_s = 1_000.0
        self.orders = self.services = 0
        self.stale: Plan | None = None
        for node in NODES:
            self.register(node, 0)
        for job, (devices, more, tier, elastic, after, share) in zip(JOBS, asked, strict=True):
            ranks = devices if share else more * devices
            spec = JobSpec(
                name=f"job-{job}",
                run=("train",),
                ranks=ranks,
                devices=devices,
                devices_min=1 if elastic and not share else devices,
                devices_max=devices,
                tier=tier,
                project=PROJECTS[JOBS.index(job) % 2],
                after=(JOBS[0],) if after and job != JOBS[0] else (),
                checkpoint_every_s=30.0 if elastic else None,
                retry_infra=2,
                retry_user=int(elastic),
                engines=CHAINS[elastic],
                share=share,
            )
            fresh = Job(id=job, spec=spec, devices=devices, submitted_at_s=self.now_s)
            self.same(methodcaller("submit", fresh))

    def same(self, call: Callable[[Ledger], Any]) -> Any:
        answers = []
        for ledger in (self.sql, self.memory):
            try:
                answers.append(call(ledger))
            except SingularityError as error:
                answers.append((type(error).__name__, error.status))
        assert answers[0] == answers[1]
        return answers[1]

    @rule(node=st.sampled_from(NODES), epoch=st.integers(-1, 1))
    def register(self, node: NodeId, epoch: int) -> None:
        """epoch 0: as it was admitted last; else as some other life of it would."""
        known = self.memory.nodes().get(node)
        region, cluster = PLACES[node]
        register = Register(
            node=node,
            region=region,
            cluster=cluster,
            device="cpu",
            devices=4,
            address=f"10.0.0.{epoch + 1}",
            epoch=max(0, (known.epoch if known else 0) + epoch),
            memory_bytes=8 << 30,
            preempts=node != NODES[1],
            whole=node != NODES[0] or epoch >= 0,
        )
        self.same(lambda x: x.register(register, self.now_s))

    @invariant()
    def what_a_job_may_come_back_from_is_kept(self) -> None:
        """The checkpoints that count, what a restore in flight reads, and a cut being taken."""
        if not hasattr(self, "memory"):
            return
        jobs, nodes = self.memory.jobs(), self.memory.nodes()
        for job in jobs.values():
            assert len(job.checkpoints) <= job.spec.checkpoint_keep
            assert all(needed(job, c.incarnation, c.cut) for c in job.checkpoints)
            assert not job.dumping or needed(job, job.incarnation, job.cut)
        for node in nodes.values():
            for letter in self.memory.letters(node.id, node.epoch, 0):
                start = letter.command
                if not isinstance(start, Start) or start.origin is None:
                    continue
                job, origin = jobs[start.job], start.origin
                if job.state is JobState.STARTING and start.incarnation == job.incarnation:
                    assert needed(job, origin.incarnation, origin.cut)

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "memory"):
            for read in ("jobs", "nodes", "unsent", "services", "loans", "projects"):
                self.same(methodcaller(read))

    def teardown(self) -> None:
        if hasattr(self, "sql"):
            self.the_story_adds_up()

    def the_story_adds_up(self) -> None:
        """What only the database keeps: events without gaps that fold into the state, shards
        that are the holdings, an outbox that is the log, checkpoints that are the job's."""
        jobs = self.memory.jobs()
        for project in self.memory.projects():
            held = [claim(j) for j in jobs.values() if j.spec.project == project.id]
            assert project.usage.devices == sum(held)
        with self.engine.connect() as db:
            for job in jobs.values():
                mine = select(t.event).where(t.event.c.job == job.id).order_by(t.event.c.seq)
                lines = db.execute(mine).all()
                assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
                assert lines[-1].after == job.state
                assert all(a.after == b.before for a, b in pairwise(lines))
                shards = db.execute(select(t.shard).where(t.shard.c.job == job.id)).all()
                whole = {row.node: row.devices for row in shards if not row.shares}
                assert whole == dict(holdings(job))
                assert {r.node: frozenset(r.shares) for r in shards if r.shares} == spots(job)
                lives = select(t.incarnation.c.incarnation, t.incarnation.c.ended_at_s)
                lives = lives.where(t.incarnation.c.job == job.id).order_by(
                    t.incarnation.c.incarnation
                )
                ended = db.execute(lives).all()
                assert [life.incarnation for life in ended] == list(range(1, job.incarnation + 1))
                assert all(life.ended_at_s is not None for life in ended[:-1])
                cuts = select(t.checkpoint.c.incarnation, t.checkpoint.c.cut)
                cuts = cuts.where(t.checkpoint.c.job == job.id, t.checkpoint.c.counts)
                found = {(row.incarnation, row.cut) for row in db.execute(cuts)}
                own = () if job.spec.aside else job.checkpoints  # who verifies has another's
                assert found == {(c.incarnation, c.cut) for c in own}
            box = select(t.outbox.c.node, t.outbox.c.epoch, t.outbox.c.seq)
            waiting = sorted(tuple(row) for row in db.execute(box))
        assert waiting == [(x.node, x.epoch, x.seq) for x in self.memory.unsent()]
