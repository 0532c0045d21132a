"""What is on the disk, and connections that have ended."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from singularity.api.bulk import UNSYNCED, Question, begun
from singularity.api.database import make_engine, synced
from singularity.api.settings import Settings


@pytest.fixture
def pooled(database: str, tmp_path: Path) -> Iterator[Engine]:
    """As the plane makes it."""
    given = {"database_url": database, "broker_url": "redis://127.0.0.1:1", "data": tmp_path}
    made = make_engine(Settings(**given, volume=tmp_path))
    yield made
    made.dispose()


def _ask(engine: Engine, sql: str) -> object:
    with begun(engine, Question(sql)) as (_, [[(found,)]]):
        return found


def test_what_is_synced_is_on_the_disk(engine: Engine) -> None:
    """The server writes its log five times a second by itself, so one that is not synced is found
    not to be on the disk in most of many tries."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.exec_driver_sql(f'ALTER DATABASE "{engine.url.database}" SET synchronous_commit TO on')
    engine.dispose()  # who connects from now on waits for the disk, as in production
    late = 0
    for number in range(20):
        with engine.begin() as db:
            db.exec_driver_sql(UNSYNCED)
            db.exec_driver_sql(f"INSERT INTO region (id) VALUES ('r{number}')")
        written = _ask(engine, "SELECT pg_current_wal_insert_lsn()")
        on_disk = f"SELECT pg_current_wal_flush_lsn() >= '{written}'::pg_lsn"
        late += not _ask(engine, on_disk)
        synced(engine)
        assert _ask(engine, on_disk)
    assert late, "it was on the disk without"


def test_what_is_asked_first_is_part_of_the_transaction(engine: Engine) -> None:
    insert = Question("INSERT INTO region (id) VALUES ('gone')")
    with suppress(KeyError), begun(engine, insert) as (db, _):
        db.exec_driver_sql("INSERT INTO region (id) VALUES ('too')")
        raise KeyError
    assert _ask(engine, "SELECT count(*) FROM region WHERE id IN ('gone', 'too')") == 0
    with begun(engine, insert):
        pass
    assert _ask(engine, "SELECT count(*) FROM region WHERE id = 'gone'") == 1
    with pytest.raises(DBAPIError), begun(engine, insert):
        pass


def test_a_connection_that_the_server_ended_is_not_used_again(
    pooled: Engine, engine: Engine
) -> None:
    mine = "SELECT pg_backend_pid()"
    first = _ask(pooled, mine)
    with pooled.connect() as db:
        raw = db.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
    assert _ask(pooled, mine) == first, "it is kept"
    _ask(engine, f"SELECT pg_terminate_backend({first})")
    assert select.select([raw.fileno()], [], [], 30.0)[0]
    assert _ask(pooled, mine) != first
