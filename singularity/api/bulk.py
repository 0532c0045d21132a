"""Many rows in one statement: each column goes as one array, and the database takes them apart.

A row at a time, every row is a message there and a plan executed; this is several times as many
rows a second, on both sides. What must hold of one row holds of each; all are written or none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Final, NamedTuple

import psycopg
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Table,
    Text,
    any_,
    bindparam,
    literal,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import DBAPIError

from .wire import Answer, Given, Wire, wire_of

Json = dict[str, Any]
Rows = Iterable[Mapping[str, Any]]  # of those that are made as they are taken there is one at least


# Let this transaction commit without waiting for the disk: what it writes may be lost when the
# server of the database crashes, and is then done again.
UNSYNCED: Final = "SET LOCAL synchronous_commit TO off"
_COMMIT: Final = "COMMIT"


class Raw(str):
    """JSON that has been written already."""

    __slots__ = ()


_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
_BETWEEN: Final = "\x1e"  # in hardly any text
_dumped: Final = json.JSONEncoder(separators=(",", ":")).encode  # dumps() makes one for each value


class Writes:
    """Statements that are sent together, and answered together: one way there and back. Rows are
    taken, and written as arrays, only then: while the database carries out one statement, the next
    is being put together."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._todo: list[Callable[[], tuple[str, tuple[str, ...]]]] = []
        self._begun = False

    def insert(self, table: Table, rows: Rows) -> None:
        """Rows that all have the same columns."""
        self._add(table, rows, partial(_insert, table))

    def update(
        self, table: Table, keys: Collection[str], rows: Rows, counter: str | None = None
    ) -> None:
        """Set the other columns of the rows that have these `keys`, each of which comes once. A
        `counter` grows by what is given."""
        self._add(table, rows, partial(_update, table, tuple(keys), counter))

    def run(self, statement: str, table: Table, rows: Rows) -> None:
        """One of its own over `rows`, which it calls `{new}`."""
        self._add(table, rows, partial(_of_its_own, statement, table))

    def notify(self, channel: str) -> None:
        """Heard when the transaction commits."""
        self._todo.append(lambda: (f"NOTIFY {channel}", ()))

    def unsynced(self) -> None:
        """See UNSYNCED."""
        self._todo.append(lambda: (UNSYNCED, ()))

    def commit(self) -> None:
        """The transaction ends with these statements."""
        self._todo.append(lambda: (_COMMIT, ()))

    def send(self) -> None:
        """Raises as any statement does; then nothing of the transaction can be kept."""
        if self._todo or self._begun:
            self._put()
            self.settle()

    def begin(self) -> None:
        """Let the database begin with what there is, without waiting: nobody else may use the
        connection until that is settled. Raises as `send`."""
        if self._todo:
            self._put().push()
            self._begun = True

    def settle(self) -> None:
        """Wait for all that was begun. Raises as `send`."""
        self._begun = False
        with _known(wire_of(self._db)) as wire:
            wire.settle()

    def _put(self) -> Wire:
        todo, self._todo = self._todo, []
        with _known(wire_of(self._db)) as wire:
            for made in todo:
                wire.put(*made())
        return wire

    def _add(self, table: Table, rows: Rows, statement: Callable[[tuple[str, ...]], str]) -> None:
        def made() -> tuple[str, tuple[str, ...]]:
            taken = list(rows)
            names = tuple(taken[0])
            return statement(names), _arrays(table, names, taken)

        if rows:
            self._todo.append(made)


class Question(NamedTuple):
    """A statement that answers with rows, and what is given to it."""

    sql: str
    given: tuple[Given, ...] = ()


def ask(db: Connection, *questions: Question) -> list[Answer]:
    """The rows of each, asked together and answered together: one way there and back. What is asked
    later sees what earlier ones have locked. Raises as any statement does."""
    with _known(wire_of(db)) as wire:
        for each in questions:
            wire.put(each.sql, each.given)
        return wire.settle()


@contextmanager
def begun(
    engine: Engine, *questions: Question, begin: str = "BEGIN"
) -> Iterator[tuple[Connection, list[Answer]]]:
    """A transaction, and the answers to what it asks first: `begin` is sent with that, and needs no
    way there and back of its own, nor does its end if that is sent with what it writes
    (Writes.commit). Who does not is committed as by Engine.begin()."""
    with engine.connect() as db:
        db.execution_options(isolation_level="AUTOCOMMIT")  # so that nobody else begins it
        with db.begin():
            _, *found = ask(db, Question(begin), *questions)
            with _known(wire_of(db)):  # what it began to write must not be in the way of its end
                yield db, found


def insert_rows(db: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows that all have the same columns."""
    writes = Writes(db)
    writes.insert(table, rows)
    writes.send()


def update_rows(
    db: Connection, table: Table, keys: Collection[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """See Writes.update."""
    writes = Writes(db)
    writes.update(table, keys, rows)
    writes.send()


@contextmanager
def _known(wire: Wire) -> Iterator[Wire]:
    """Errors as everybody else knows them; nothing that was put stays on the wire then."""
    try:
        yield wire
    except psycopg.Error as error:
        wire.abandon()
        known = DBAPIError.instance("many rows", None, error, psycopg.Error, dialect=_DIALECT)
        raise known from error
    except BaseException:
        wire.abandon()
        raise


def among(column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Is it one of `values`? They go as one array, however many there are."""
    return column == any_(bindparam(None, sorted(values), ARRAY(column.type)))


def literally(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    """Is it this `value`, said in the statement itself: only then is a partial index used whatever
    plan is kept."""
    return column == literal(value, literal_execute=True)


@cache
def _insert(table: Table, names: tuple[str, ...]) -> str:
    columns, values = ", ".join(map(_quoted, names)), ", ".join(_read(table.c[n]) for n in names)
    return f"INSERT INTO {table.name} ({columns}) SELECT {values} FROM {_unnested(table, names)}"


@cache
def _update(
    table: Table, keys: tuple[str, ...], counter: str | None, names: tuple[str, ...]
) -> str:
    def value(name: str) -> str:
        more = f"old.{_quoted(name)} + " if name == counter else ""
        return f"{_quoted(name)} = {more}{_read(table.c[name])}"

    sets = ", ".join(value(n) for n in names if n not in keys)
    same = " AND ".join(f"old.{_quoted(k)} = new.{_quoted(k)}" for k in keys)
    return f"UPDATE {table.name} AS old SET {sets} FROM {_unnested(table, names)} WHERE {same}"


def _of_its_own(statement: str, table: Table, names: tuple[str, ...]) -> str:
    return statement.format(new=_unnested(table, names))


def _unnested(table: Table, names: Sequence[str]) -> str:
    arrays = ", ".join(f"%s::{_element(table.c[n])}[]" for n in names)
    return f"unnest({arrays}) AS new ({', '.join(map(_quoted, names))})"


def _quoted(name: str) -> str:
    return f'"{name}"'


def _element(column: Column[Any]) -> str:
    """Arrays in an array would be taken apart altogether; they and JSON go as text."""
    return "text" if isinstance(column.type, ARRAY | JSONB) else _type(column)


def _read(column: Column[Any]) -> str:
    name = f"new.{_quoted(column.name)}"
    return name if _element(column) == _type(column).lower() else f"{name}::{_type(column)}"


def _type(column: Column[Any]) -> str:
    return str(column.type.compile(dialect=_DIALECT))


def _arrays(
    table: Table, names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    """As Postgres writes arrays. The driver's own way is ten times as long."""
    return tuple([_array_of(table.c[name], [row[name] for row in rows]) for name in names])


def _array_of(column: Column[Any], values: Sequence[Any]) -> str:
    if isinstance(column.type, JSONB):
        return _quoted_all([v if v is None or isinstance(v, Raw) else _dumped(v) for v in values])
    if isinstance(column.type, ARRAY):
        return _quoted_all([None if v is None else _array(v) for v in values])
    if isinstance(column.type, Text):
        return _quoted_all(values)
    return "{" + ",".join(["NULL" if v is None else str(v) for v in values]) + "}"


def _quoted_all(texts: Sequence[str | None]) -> str:
    """At once, where nothing is in the way: a call for each is three times as long."""
    known = [text for text in texts if text is not None]
    whole = _BETWEEN.join(known)
    if len(known) < len(texts) or whole.count(_BETWEEN) != len(texts) - 1:
        return "{" + ",".join(["NULL" if t is None else _text(t) for t in texts]) + "}"
    return "{" + _text(whole).replace(_BETWEEN, '","') + "}"


def array_of(ids: Collection[str]) -> str:
    """As Postgres writes it, in order: what rows are locked by."""
    return "{" + ",".join(map(_text, sorted(ids))) + "}"


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _array(numbers: Sequence[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"
