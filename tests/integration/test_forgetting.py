"""Jobs that ended long ago go, and nothing that anybody could still need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from singularity.api.applier import SqlLedger
from singularity.api.auth import Role, Tokens
from singularity.api.forgetting import forget, forget_strangers
from singularity.api.intake import Ids, oldest_id
from singularity.api.telemetry import Meter
from singularity.primitives.model import (
    Aside,
    Checkpoint,
    Job,
    JobId,
    JobSpec,
    JobState,
    ShardImage,
)
from singularity.primitives.nodes import NodeId
from singularity.primitives.routing import LoadNote, Loads
from singularity.primitives.serving import ServiceId

OLD_S, BEFORE_S, NOW_S = 1.0e9, 1.1e9, 1.2e9
_TABLES = ("event", "change", "job_state", "job")
_SPEC = JobSpec(name="job", run=("true",))


def job(at_s: float, ended_s: float | None, spec: JobSpec = _SPEC, **more: object) -> Job:
    """Submitted then, and, if it has, ended then."""
    (id_,) = Ids()(1, at_s)  # of a server that has given none yet
    state = JobState.PENDING if ended_s is None else JobState.SUCCEEDED
    made = Job(id=id_, spec=spec, devices=1, state=state, submitted_at_s=at_s)
    return replace(made, since_s=at_s if ended_s is None else ended_s, **more)  # type: ignore[arg-type]


def nothing(_: object) -> None:
    pass


def rows(engine: Engine) -> dict[str, int]:
    with engine.connect() as db:
        return {t: db.execute(text(f"SELECT count(*) FROM {t}")).scalar_one() for t in _TABLES}


@pytest.fixture
def submitted(ledger: SqlLedger, tmp_path: Path) -> list[Job]:
    """Of which the first only is nobody's any more."""
    cut = Checkpoint(1, 1, 5, OLD_S, (ShardImage(NodeId("n"), (0,), "d" * 64, 5),))
    gone, before, verified, kept = (job(OLD_S, OLD_S) for _ in range(4))
    kept = replace(kept, checkpoints=(cut,))
    found = [
        *(gone, before, verified, kept),
        job(OLD_S, None),
        job(OLD_S, NOW_S),
        job(NOW_S, NOW_S),
        job(OLD_S, None, replace(_SPEC, after=(before.id,))),
        job(OLD_S, None, replace(_SPEC, aside=Aside(verified.id, 3))),
    ]
    for each in found:
        ledger.submit(each)
        (tmp_path / "jobs" / each.id / "logs").mkdir(parents=True)
    return found


def test_a_job_that_ended_long_ago_goes_with_all_that_was_of_it(
    engine: Engine, ledger: SqlLedger, submitted: list[Job], tmp_path: Path
) -> None:
    before = rows(engine)
    assert forget(engine, tmp_path, BEFORE_S) == 1
    assert forget(engine, tmp_path, BEFORE_S) == 0
    assert rows(engine) == {name: count - 1 for name, count in before.items()}
    left = {j.id for j in submitted[1:]}
    assert ledger.jobs().keys() == left
    assert {JobId(path.name) for path in (tmp_path / "jobs").iterdir()} == left


def test_a_counter_does_not_go_back(engine: Engine, submitted: list[Job], tmp_path: Path) -> None:
    def lost() -> str:
        told = Meter().scrape(engine).splitlines()
        (line,) = [x for x in told if x.startswith("singularity_work_lost_device_seconds_total")]
        return line

    life = "INSERT INTO incarnation VALUES (:job, 1, 'r', 'c', '[]', 2, 0, 1, 1, 1, 1, '', '', 5,"
    with engine.begin() as db:
        for each in submitted[:2]:
            db.execute(text(f"{life} '{{}}', '[]')"), {"job": each.id})
    before = lost()
    assert before.endswith(" 20")
    assert forget(engine, tmp_path, BEFORE_S) == 1
    assert lost() == before


def test_for_ever_is_for_ever(engine: Engine, submitted: list[Job], tmp_path: Path) -> None:
    assert forget(engine, tmp_path, NOW_S - float("inf")) == 0


def test_what_cannot_be_removed_stays_known(
    engine: Engine, ledger: SqlLedger, submitted: list[Job], tmp_path: Path
) -> None:
    """So that it is tried again; nothing is left behind of which nobody knows."""
    logs = tmp_path / "jobs" / submitted[0].id
    (logs / "logs").rmdir()
    logs.rmdir()
    logs.write_text("in the way")  # no directory: it cannot be removed as one
    with pytest.raises(OSError, match="Not a directory"):
        forget(engine, tmp_path, BEFORE_S)
    assert len(ledger.jobs()) == len(submitted)


def test_nothing_is_forgotten_by_who_does_not_lead(
    engine: Engine, ledger: SqlLedger, submitted: list[Job], tmp_path: Path
) -> None:
    def guard(_: object) -> None:
        raise RuntimeError("another leads")

    with pytest.raises(RuntimeError):
        forget(engine, tmp_path, BEFORE_S, guard)
    assert len(ledger.jobs()) == len(submitted)


def test_ids_are_in_the_order_of_time() -> None:
    (early,), (late,) = Ids()(1, OLD_S), Ids()(1, NOW_S)
    assert early < oldest_id(OLD_S + 1) < oldest_id(NOW_S) <= late


def test_tokens_that_are_worth_nothing_go_and_others_stay(engine: Engine) -> None:
    tokens = Tokens(engine)

    def made(**more: float) -> str:
        return tokens.create(Role.VIEWER, "a", OLD_S, **more)[0]

    good, later, expired, revoked = (
        *(made(), made(expires_at_s=NOW_S)),
        *(made(expires_at_s=OLD_S + 1), made(expires_at_s=NOW_S)),
    )
    tokens.revoke(revoked, OLD_S)
    forget_strangers(engine, NOW_S, NOW_S - BEFORE_S, nothing)
    with engine.connect() as db:
        left = set(db.execute(text("SELECT id FROM token")).scalars())
    assert left == {good, later} and not left & {expired, revoked}


def test_routers_that_are_gone_go_with_what_they_said(engine: Engine, ledger: SqlLedger) -> None:
    note = LoadNote(service=ServiceId("s"), revision=1, span_s=1, arrivals=2, done=2, queued=0)
    with engine.begin() as db:
        db.execute(text("INSERT INTO project VALUES ('p', 0, '', 1, '{}', 0, 0)"))
        db.execute(text("INSERT INTO service VALUES ('s', 'p', 's', '{}', 1)"))
    for name, at_s in (("gone", NOW_S - 90_000), ("here", NOW_S - 10)):
        ledger.hear_router("eu", Loads(router=name, notes=(note,)), at_s)
    forget_strangers(engine, NOW_S, float("inf"), nothing)
    with engine.connect() as db:
        for table in ("router", "service_load", "service_minute"):
            column = "id" if table == "router" else "router"
            found = db.execute(text(f"SELECT {column} FROM {table}")).scalars().all()
            assert found == ["here"], table
