"""How many decisions a second are durable when many jobs can start at once: a round of the
scheduler (what changed is read, `decide`, the plan is checked and committed) over a Postgres that
syncs, with quotas in force; and what else a job costs, from submit to its end, when many come
together. There are no agents: their reports are made up and folded in as the API does. CPU of both
sides is told, for wall time belongs to whoever else uses the machine.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from sqlalchemy import Engine, create_engine, make_url

from singularity.api import interpreter
from singularity.api.applier import SqlLedger
from singularity.api.database import synced
from singularity.api.intake import entries
from singularity.api.lease import Lease
from singularity.api.outbox import relay
from singularity.api.schema import migrate
from singularity.api.schemas import read_job
from singularity.cli.servers import Postgres
from singularity.primitives.messages import Phase, Register, Report, Sealed
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId
from singularity.primitives.projects import Allotment, Project
from singularity.primitives.transport import SigningKey
from singularity.scheduler.decide import decide
from singularity.scheduler.plan import Plan
from singularity.scheduler.policy import Policy
from singularity.scheduler.standing import check

DEVICES = 500


@dataclass
class Costs:
    """Wall seconds, and CPU of this process and of the database, by part."""

    postgres: Postgres
    profile: bool
    found: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)

    @contextmanager
    def of(self, part: str, *, nested: bool = False) -> Iterator[None]:
        wall_s, cpu_s, theirs_s = time.perf_counter(), time.process_time(), self._theirs_s()
        profiler = cProfile.Profile() if self.profile and not nested else None
        if profiler:
            profiler.enable()
        try:
            yield
        finally:
            took = time.perf_counter() - wall_s, time.process_time() - cpu_s
            self.found.setdefault(part, []).append((*took, self._theirs_s() - theirs_s))
            if profiler:
                profiler.disable()
                print(f"== {part}")
                pstats.Stats(profiler).sort_stats("tottime").print_stats(28)

    def _theirs_s(self) -> float:
        assert self.postgres.child.pid is not None
        one = psutil.Process(self.postgres.child.pid)
        times = [p.cpu_times() for p in (one, *one.children())]
        return sum(t.user + t.system for t in times)

    def tell(self, part: str, jobs: int) -> None:
        rows = [[1e6 * s / jobs for s in each] for each in self.found[part]]
        wall, ours, theirs = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"{part:<28} {wall:8.0f} {ours:8.0f} {theirs:8.0f}   {1e6 / wall:8.0f} a second; "
            f"{1e6 / max(ours, theirs):8.0f} if no one else ran"
        )


class NoBox:
    """Where letters go."""

    def publish(self, node: NodeId, letters: list[Sealed]) -> None:
        pass


class Scene:
    def __init__(self, engine: Engine, costs: Costs, jobs: int, projects: int) -> None:
        self.engine, self.costs, self.count = engine, costs, jobs
        self.lease = Lease(engine, "schedule", "bench", lasts_s=3600.0)
        assert self.lease.hold()
        self.doors, self.ledger = SqlLedger(engine), SqlLedger(engine, self.lease)
        for number in range(-(-jobs // DEVICES)):
            where = {"region": "r", "cluster": "c", "address": "127.0.0.1:1", "device": "cpu"}
            node = NodeId(f"n{number:03}")
            self.doors.register(Register(node=node, devices=DEVICES, **where), time.time())
        self.projects = [f"p{n}" for n in range(projects)]
        own = -(-jobs // projects) if projects else 0
        said = (Allotment("cpu", own // 2, None),)
        for each in self.projects:
            self.ledger.set_project(Project(each, allotments=said), time.time())
        self.ledger.snapshot(time.time())

    def turn(self, number: int) -> None:
        """All jobs at once, from submit to the end."""
        documents = [self._document(number, i) for i in range(self.count)]
        with self.costs.of("submitted, 500 at a time"):
            for first in range(0, self.count, 500):
                new = [
                    e
                    for d in documents[first : first + 500]
                    for e in entries(read_job(d), (), d["name"], d, time.time())
                ]
                self.doors.submit_many(new)
        placed = self._round()
        with self.costs.of("letters taken and sealed"):
            key = SigningKey.load_or_create(Path(tempfile.mkdtemp()) / "key")
            while relay(self.engine, NoBox(), key, time.time()):  # type: ignore[arg-type]
                pass
        for phase, part in (("running", "said to run"), ("exited", "said to have ended")):
            with self.costs.of(f"{part}, 500 at a time"):
                for first in range(0, len(placed), 500):
                    some = placed[first : first + 500]
                    self.doors.record_many(
                        [_report(*at, phase) for at in some], time.time(), news=True
                    )
                    synced(self.engine)
        with self.costs.of("acknowledged"):
            for node in {node for _, node in placed}:
                self.doors.hear(node, 1, 1 << 30, time.time())
        with self.costs.of("what ended is read"):
            self.ledger.snapshot(time.time())

    def _round(self) -> list[tuple[JobId, NodeId]]:
        policy = Policy()
        with self.costs.of("a round in all", nested=True):
            with self.costs.of("  what changed is read"):
                snapshot = self.ledger.snapshot(time.time())
            with self.costs.of("  decided"):
                plan: Plan = decide(snapshot, policy)
            with self.costs.of("  checked"):
                assert not check(snapshot, plan)
            with self.costs.of("  committed"):
                assert not self.ledger.commit(plan, time.time())
        assert len(plan.actions) == self.count, len(plan.actions)
        return [(a.job, a.placement[0].node) for a in plan.actions]

    def _document(self, turn: int, number: int) -> dict[str, object]:
        project = self.projects[number % len(self.projects)] if self.projects else "default"
        name = f"job-{turn}-{number}"
        found = {"name": name, "run": ["true"], "kind": "batch", "project": project}
        return {**found, "devices": "cpu:1", "checkpoint": {"every": "never"}}


def _report(job: JobId, node: NodeId, phase: Phase) -> Report:
    code = 0 if phase == "exited" else None
    return Report(job=job, node=node, incarnation=1, phase=phase, exit_code=code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument(
        "--projects", type=int, default=30, help="with quotas; 0: none are in force"
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    interpreter.prepare()
    with tempfile.TemporaryDirectory() as directory, Postgres(Path(directory)) as postgres:
        engine = create_engine(make_url(postgres.url).set(drivername="postgresql+psycopg"))
        migrate(engine)
        costs = Costs(postgres, args.profile)
        scene = Scene(engine, costs, args.jobs, args.projects)
        for number in range(args.turns):
            scene.turn(number)
        engine.dispose()
    print(
        f"{args.jobs} jobs of {args.projects or 1} projects at once, median of {args.turns} turns; "
    )
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'microseconds a job':<28} {'wall':>8} {'ours':>8} {'postgres':>8}")
    for part in costs.found:
        costs.tell(part, args.jobs)


if __name__ == "__main__":
    main()
