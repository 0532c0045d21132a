"""What a round reads from Postgres: all rows, and those that changed. An embedded server of its own
with jobs that wait and nodes that are idle; wall time, for much of it is the server's."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import Engine, create_engine, insert, make_url

from singularity.api import tables as t
from singularity.api.applier import SqlLedger
from singularity.api.following import Follower
from singularity.api.rows import Submission, node_row
from singularity.api.schema import migrate
from singularity.cli.servers import Postgres
from singularity.primitives.model import Job, JobId, JobSpec
from singularity.primitives.nodes import ClusterId, Node, NodeId, RegionId

ROUNDS, BATCH, DEVICES = 20, 1000, 8


def populate(engine: Engine, nodes: int, jobs: int) -> SqlLedger:
    ledger = SqlLedger(engine)
    where = {"region": RegionId("r"), "cluster": ClusterId("c"), "device": "h200"}
    rows = [
        node_row(Node(id=NodeId(f"n{n:06}"), devices=DEVICES, epoch=1, **where))  # type: ignore[arg-type]
        for n in range(nodes)
    ]
    with engine.begin() as db:
        db.execute(insert(t.region), [{"id": "r"}])
        db.execute(insert(t.cluster), [{"id": "c", "region": "r"}])
        db.execute(insert(t.node), rows)
    spec = JobSpec("job", ("train",), device="h200", devices=DEVICES, ranks=DEVICES)
    for first in range(0, jobs, BATCH):
        batch = [Job(JobId(f"j{first + n:07}"), spec, DEVICES) for n in range(BATCH)]
        ledger.submit_many([(job, Submission()) for job in batch])
    return ledger


def read_ms(follower: Follower) -> float:
    began_s = time.perf_counter()
    follower.snapshot(2.0)
    return (time.perf_counter() - began_s) * 1e3


def told(ms: list[float]) -> str:
    return f"{statistics.median(ms):.1f} ({min(ms):.1f} to {max(ms):.1f}) ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=2_000)
    parser.add_argument("--jobs", type=int, default=20_000, help="a multiple of 1,000")
    parser.add_argument("--changed", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, Postgres(Path(directory), durable=False) as pg:
        engine = create_engine(make_url(pg.url).set(drivername="postgresql+psycopg"))
        migrate(engine)
        ledger = populate(engine, args.nodes, args.jobs)
        print(f"{args.nodes} nodes, {args.jobs} jobs")
        print("all rows         ", told([read_ms(Follower(engine)) for _ in range(3)]))
        follower = Follower(engine)
        follower.snapshot(2.0)
        print("nothing changed  ", told([read_ms(follower) for _ in range(ROUNDS)]))
        some = []
        for turn in range(ROUNDS):
            for number in range(args.changed):
                ledger.resize(JobId(f"j{number:07}"), DEVICES - turn % 2, 2.0)
            some.append(read_ms(follower))
        print(f"{args.changed} jobs changed ", told(some))
        engine.dispose()


if __name__ == "__main__":
    main()
