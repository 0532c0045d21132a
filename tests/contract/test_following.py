"""What is read by its changes is what is there, whatever is under way while it is read."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from sqlalchemy import Engine, select, update

from singularity.api import following
from singularity.api import tables as t
from singularity.api.applier import SqlLedger
from singularity.api.books import these_jobs
from singularity.api.bulk import Question
from singularity.api.following import Follower
from singularity.primitives.messages import Register
from singularity.primitives.model import Intent, Job, JobId, JobSpec
from singularity.primitives.nodes import Duty, NodeId, Scope, ScopeKind
from singularity.scheduler.decide import decide
from singularity.scheduler.policy import Policy

HERE = Scope(ScopeKind.NODE, "n0")


@pytest.fixture
def planet(ledger: SqlLedger) -> SqlLedger:
    for name in ("n0", "n1"):
        ledger.register(
            Register(
                node=NodeId(name), region="r", cluster="c", device="cpu", devices=4, address=""
            ),
            1.0,
        )
    for number in range(3):
        spec = JobSpec(f"job{number}", ("x",), devices=2, devices_min=2, devices_max=2, ranks=2)
        ledger.submit(Job(JobId(f"job{number}"), spec, 2, submitted_at_s=float(number)))
    return ledger


def test_what_was_open_while_it_was_read_is_seen_when_it_is_done(
    engine: Engine, planet: SqlLedger
) -> None:
    follower = Follower(engine)
    with engine.connect() as db:
        db.execute(update(t.node).where(t.node.c.id == "n1").values(duty=int(Duty.CORDONED)))
        assert follower.snapshot(2.0).ready.tolist() == [True, True]
        planet.set_duty(HERE, Duty.CORDONED, 2.0)  # a later transaction ends before
        assert follower.snapshot(2.0).ready.tolist() == [False, True]
        assert follower.snapshot(2.0).ready.tolist() == [False, True]
        db.commit()
    assert follower.snapshot(2.0).ready.tolist() == [False, False]


def test_what_was_read_is_not_read_again_while_something_older_is_open(
    engine: Engine, planet: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, read = Follower(engine), list[list[str]]()
    follower.snapshot(2.0)

    def note(ids: Collection[str]) -> Question:
        read.append(sorted(ids))
        return these_jobs([JobId(i) for i in ids])

    monkeypatch.setattr(following, "these_jobs", note)
    with engine.connect() as db:
        db.execute(update(t.node).where(t.node.c.id == "n1").values(duty=int(Duty.CORDONED)))
        planet.intend(JobId("job0"), Intent.HOLD, 2.0)
        held = follower.snapshot(2.0)
        assert read == [["job0"]] and held.by_id[JobId("job0")].intent is Intent.HOLD
        assert follower.snapshot(2.0).by_id == held.by_id and read == [["job0"]]
        planet.intend(JobId("job0"), Intent.RUN, 2.0)
        assert follower.snapshot(2.0).by_id[JobId("job0")].intent is Intent.RUN
        db.commit()
    assert follower.snapshot(2.0).ready.tolist() == [True, False]
    assert read == [["job0"], ["job0"], []]


def test_what_was_undone_is_not_seen(engine: Engine, planet: SqlLedger) -> None:
    follower = Follower(engine)
    follower.snapshot(2.0)
    with engine.connect() as db:
        db.execute(update(t.node).values(duty=int(Duty.CORDONED)))
        db.rollback()
    assert follower.snapshot(2.0).ready.all()


def test_only_what_changed_is_read(engine: Engine, planet: SqlLedger) -> None:
    follower = Follower(engine)
    first = follower.snapshot(2.0)
    planet.hear(NodeId("n0"), 1, 0, 3.0)
    idle = follower.snapshot(3.0)
    assert idle.jobs is first.jobs and idle.nodes is first.nodes, "a heartbeat is no change"
    planet.commit(decide(idle, Policy()), 4.0)
    busy = follower.snapshot(4.0)
    assert busy.free.sum() == 2 and len(busy.jobs) == 3
    again = SqlLedger(engine).snapshot(4.0)
    assert again.jobs == busy.jobs and again.free.tolist() == busy.free.tolist()


def test_a_read_that_fails_half_way_is_begun_anew(
    engine: Engine, planet: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(engine)
    follower.snapshot(2.0)
    planet.set_duty(HERE, Duty.CORDONED, 2.0)

    def fail(*rows: object) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(following, "projects_from", fail)
        with pytest.raises(ConnectionError):
            follower.snapshot(3.0)
    assert follower.snapshot(3.0).ready.tolist() == [False, True]


def test_every_column_of_a_node_but_its_heartbeat_is_a_change(engine: Engine) -> None:
    query = """
    SELECT attname FROM pg_trigger JOIN pg_attribute
      ON attrelid = tgrelid AND attnum = ANY (tgattr::int2[])
    WHERE tgname = 'note_change' AND tgrelid = 'node'::regclass
    """
    with engine.connect() as db:
        named = {name for (name,) in db.exec_driver_sql(query)}
        assert {c.name for c in t.node.c} - named == {"id", "heard_s"}
        assert db.execute(select(t.change)).all() == []
