"""Many writers at once on a real Postgres: locks in one order, so no deadlock; books that balance.

The simulator cannot find what only concurrent transactions do.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial

from sqlalchemy import Engine, select

from singularity.api import tables as t
from singularity.api.applier import SqlLedger
from singularity.primitives.errors import Conflict
from singularity.primitives.holdings import holdings
from singularity.primitives.messages import Phase, Register, Report
from singularity.primitives.model import Job, JobId, JobSpec, JobState, ShardImage, Tier
from singularity.primitives.nodes import NodeId
from singularity.scheduler.decide import decide
from singularity.scheduler.policy import Policy

NODES = [NodeId(f"n{i}") for i in range(6)]
NEXT: dict[JobState, tuple[Phase, ...]] = {
    JobState.STARTING: ("running", "running", "refused"),
    JobState.RUNNING: ("running", "running", "lost", "exited"),
    JobState.SUSPENDING: ("dumped", "dumped", "lost"),
    JobState.STOPPING: ("stopped",),
}


class Race:
    """What its threads do is bounded by turns, never by time."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.ledger = engine, SqlLedger(engine)
        self.done: Counter[str] = Counter()
        self.escaped: list[BaseException] = []
        self._lock = threading.Lock()
        for node in NODES:
            self.ledger.register(self.presenting(node, 0), 1.0)
        draw = random.Random(1)
        for i in range(20):
            devices = draw.choice([1, 2, 4, 12])
            spec = JobSpec(
                name=f"job-{i}",
                run=("train",),
                ranks=devices,
                devices=devices,
                devices_min=devices // 2 or 1,
                devices_max=devices,
                tier=Tier(draw.randrange(3)),
                retry_infra=1000,
            )
            job = Job(JobId(f"j{i:02}"), spec, devices=devices, submitted_at_s=1.0)
            self.ledger.submit(job)

    def presenting(self, node: NodeId, epoch: int) -> Register:
        return Register(
            node=node,
            region="eu",
            cluster="c0",
            device="cpu",
            devices=8,
            address="127.0.0.1:1",
            epoch=epoch,
        )

    def turn(self, kind: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Conflict:
            kind = f"{kind} refused"  # told to come again: an answer, not an escape
        except BaseException as error:
            self.escaped.append(error)
            kind = f"{kind} failed"
        with self._lock:
            self.done[kind] += 1

    def commit(self, seed: int, turns: int) -> None:
        for i in range(turns):
            now_s = 1_000.0 * (i + 1)  # past every backoff
            plan = decide(self.ledger.snapshot(now_s), Policy())
            self.turn("commit", partial(self.ledger.commit, plan, now_s))

    def report(self, seed: int, turns: int) -> None:
        draw = random.Random(seed)
        for i in range(turns):
            jobs = [j for j in self.ledger.jobs().values() if j.placement]
            for job in draw.sample(jobs, min(4, len(jobs))):
                said = self.said(job, draw)
                self.turn("report", partial(self.ledger.record, said, 1_000.0 * (i + 1)))

    def said(self, job: Job, draw: random.Random) -> Report:
        shard = draw.choice(job.placement)
        phase = draw.choice(NEXT[job.state])
        image = ShardImage(shard.node, shard.ranks, "d", step=job.cut) if job.cut else None
        return Report(
            job=job.id,
            node=shard.node,
            incarnation=job.incarnation,
            phase=phase,
            cut=job.cut,
            image=image,
            exit_code=0 if phase == "exited" else None,
        )

    def join(self, seed: int, turns: int) -> None:
        draw = random.Random(seed)
        for i in range(turns):
            node = draw.choice(NODES)
            epoch = draw.choice([0, self.ledger.nodes()[node].epoch])
            again = self.presenting(node, epoch)
            self.turn("join", partial(self.ledger.register, again, 1_000.0 * (i + 1)))


def test_books_balance_whoever_writes(engine: Engine) -> None:
    race = Race(engine)
    work = [(race.commit, s, 25) for s in range(3)] + [(race.report, s, 40) for s in range(10, 14)]
    work.append((race.join, 20, 25))
    threads = [threading.Thread(target=act, args=(seed, turns)) for act, seed, turns in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not race.escaped, race.escaped[:3]
    assert race.done["commit"] == 75 and race.done["report"] > 100 and race.done["join"] > 10

    jobs, nodes = race.ledger.jobs(), race.ledger.nodes()
    held: Counter[NodeId] = Counter()
    for job in jobs.values():
        held.update(holdings(job))
    assert {n.id: n.used for n in nodes.values()} == {n: held[n] for n in NODES}
    with engine.connect() as db:
        rows = db.execute(select(t.shard.c.node, t.shard.c.devices)).all()
        written: Counter[str] = Counter()
        for row in rows:
            written[row.node] += row.devices
        assert written == Counter({n: d for n, d in held.items() if d})
        for job in jobs.values():
            mine = select(t.event.c.seq).where(t.event.c.job == job.id).order_by(t.event.c.seq)
            seqs = list(db.execute(mine).scalars())
            assert seqs == list(range(1, len(seqs) + 1))
        last = select(t.node_log.c.seq).order_by(t.node_log.c.seq.desc()).limit(1)
        for node in nodes.values():
            here = last.where(t.node_log.c.node == node.id, t.node_log.c.epoch == node.epoch)
            assert (db.execute(here).scalar() or 0) == node.seq
    race.ledger.snapshot(1e6)  # asserts the books itself
