"""Statements that are sent together: what they answer, what fails, and what is kept then."""

from __future__ import annotations

from contextlib import suppress

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, ProgrammingError

from singularity.api import tables as t
from singularity.api.bulk import Question, Writes, ask, begun

INTO = "INSERT INTO region (id) VALUES (%s)"
ALL = Question("SELECT id FROM region ORDER BY id")


def _begin(db: Connection, name: str) -> Writes:
    writes = Writes(db)
    writes.insert(t.region, [{"id": name}])
    writes.begin()
    return writes


def _regions(engine: Engine) -> list[str]:
    with begun(engine, ALL) as (_, [rows]):
        return [name for (name,) in rows]


def test_rows_are_those_of_the_driver(engine: Engine) -> None:
    sql = (
        """SELECT 'a "b" ü'::text, 1, 2::bigint, 0.5::float8, true, NULL, 12.5::numeric,"""
        """ '{"x": [1, null]}'::jsonb, '{x,NULL}'::text[] FROM generate_series(1, 3)"""
    )
    with engine.connect() as db:
        drivers = [tuple(row) for row in db.exec_driver_sql(sql)]
        for _ in range(2):  # also when it is prepared already
            assert ask(db, Question(sql), Question("SELECT 1 WHERE false")) == [drivers, []]


@pytest.mark.parametrize("given", ["", 'a, "b"', "ü" * 70_000, 7, -(2**40), 0.1, 1e300, None])
def test_what_is_given_comes_back(engine: Engine, given: str | float | None) -> None:
    kinds = {str: "text", int: "bigint", float: "float8", type(None): "text"}
    with engine.connect() as db:
        sql = f"SELECT 0, %s::{kinds[type(given)]}, %s"
        assert ask(db, Question(sql, (given, "x"))) == [[(0, given, "x")]]


def test_much_goes_both_ways_at_once(engine: Engine) -> None:
    """More than the kernel keeps of what nobody has read."""
    large = "x" * 1_000_000
    with engine.connect() as db:
        found = ask(db, *[Question("SELECT %s::text", (large,))] * 20)
    assert found == [[(large,)]] * 20


def test_the_first_that_fails_is_told_and_nothing_is_kept(engine: Engine) -> None:
    twice = Question(INTO, ("r1",)), Question(INTO, ("r2",)), Question(INTO, ("r1",))
    for _ in range(2):  # what was prepared is prepared again
        with pytest.raises(IntegrityError), engine.begin() as db:
            ask(db, *twice, Question("SELECT nothing"))
        with pytest.raises(ProgrammingError), engine.begin() as db:
            ask(db, Question("SELECT nothing"), *twice)
        assert _regions(engine) == []
    with engine.begin() as db:
        ask(db, *twice[:2])
    assert _regions(engine) == ["r1", "r2"]


def test_it_is_part_of_the_transaction_that_somebody_else_begins(engine: Engine) -> None:
    insert = Question(INTO, ("gone",)), Question(INTO, ("too",))
    with suppress(KeyError), engine.begin() as db:
        ask(db, insert[0])
        ask(db, insert[1])
        raise KeyError
    assert _regions(engine) == []


def test_what_the_driver_has_forgotten_is_prepared_anew(engine: Engine) -> None:
    """It deallocates everything when it takes a transaction back, if it has prepared something."""
    with engine.connect() as db:
        for _ in range(3):
            for _ in range(8):
                db.execute(text("SELECT count(*) FROM region"))
            ask(db, ALL, Question("SELECT %s::bigint", (1,)))
            db.rollback()


def test_a_text_that_cannot_be_stored_harms_no_other(engine: Engine) -> None:
    with engine.begin() as db:
        with pytest.raises(DataError, match="NUL"):
            ask(db, ALL, Question(INTO, ("a\0b",)))
        ask(db, Question(INTO, ("r1",)))
    assert _regions(engine) == ["r1"]


def test_what_was_begun_is_in_the_transaction_or_is_not(engine: Engine) -> None:
    with suppress(KeyError), begun(engine, ALL) as (db, _):
        _begin(db, "r1")
        raise KeyError
    assert _regions(engine) == []
    with begun(engine, ALL) as (db, _):
        _begin(db, "r1")
        _begin(db, "r2").send()
    assert _regions(engine) == ["r1", "r2"]
    with suppress(IntegrityError), begun(engine, ALL) as (db, _):
        _begin(db, "r3")
        _begin(db, "r1").settle()
        raise AssertionError
    assert _regions(engine) == ["r1", "r2"]


def test_a_connection_that_ends_in_between_is_an_error_and_the_next_is_another(
    engine: Engine,
) -> None:
    mine = Question("SELECT pg_backend_pid()")
    with suppress(OperationalError), begun(engine, mine) as (db, [[(pid,)]]):
        with engine.connect() as other:
            ask(other, Question("SELECT pg_terminate_backend(%s::int, 30000)", (pid,)))
        _begin(db, "r1").send()
        raise AssertionError
    assert _regions(engine) == []
