"""One connection to Postgres, on which statements are sent together and answered together.

The driver's own pipeline sends each statement by itself, and looks for answers in between: the
server is woken for each, and a cursor is made for each. Here they go into one message, and what is
put on the wire can be begun by the server while the next is put together. Only texts and numbers
are sent, and rows come back as from any cursor of the driver.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from sqlalchemy import Connection, Engine, event

Answer = list[tuple[Any, ...]]
Given = str | float | int | None

_KEY: Final = "singularity.wire"
_TYPES: Final = {float: 701, int: 20}  # float8 and int8; whatever else is known by what it is for
_ROWS: Final = frozenset({ExecStatus.TUPLES_OK})
_FAILED: Final = frozenset({ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED})


class Wire:
    """For one thread at a time. Between the first `put` and `settle` nobody else may use the
    connection."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self._raw, self._pgconn = raw, raw.pgconn
        self._rows = Transformer(raw)
        self._names: dict[tuple[str, tuple[type, ...]], bytes] = {}
        self._named = 0
        self._sent: list[bool] = []  # of each that has no answer yet: is that wanted?
        self._open = False

    def put(self, sql: str, given: Sequence[Given] = ()) -> None:
        """To be carried out after all that was put before. `%s` stand for what is `given`.

        Raises DataError for a text that cannot be stored, and then nothing was put.
        """
        texts = [None if value is None else _text(value) for value in given]
        if not self._open:
            self._begin()
        self._pgconn.send_query_prepared(self._prepared(sql, given), texts)
        self._sent.append(True)

    def push(self) -> None:
        """Let the server begin with what was put, and do not wait for it. What is large (64 KiB) is
        on its way before."""
        if self._open:
            self._pgconn.flush()

    def settle(self) -> list[Answer]:
        """The rows of each statement that was put since the last time. Raises as the first of them
        that failed; those behind it were not carried out, and nobody knows any more what was
        prepared."""
        if not self._open:
            return []
        try:
            answers = self._answers()
        except BaseException:
            self._names.clear()
            raise
        finally:
            self._open, self._sent = False, []
        return answers

    def abandon(self) -> None:
        """Settle what was put, whatever the answers: something else has failed already."""
        try:
            self.settle()
        except psycopg.Error:
            self._names.clear()

    def _begin(self) -> None:
        self._pgconn.enter_pipeline_mode()
        self._open = True
        idle = self._pgconn.transaction_status == TransactionStatus.IDLE
        if idle and not self._raw.autocommit:  # else each would be a transaction
            self._pgconn.send_query_params(b"BEGIN", None)
            self._sent.append(False)

    def _prepared(self, sql: str, given: Sequence[Given]) -> bytes:
        """The name of the statement, which is prepared where it was not."""
        kinds = tuple(map(type, given))
        if (name := self._names.get((sql, kinds))) is None:
            self._named += 1
            name = f"wire_{self._named}".encode()
            types = [_TYPES.get(kind, 0) for kind in kinds]
            self._pgconn.send_prepare(name, _numbered(sql, len(kinds)), types)
            self._sent.append(False)
            self._names[sql, kinds] = name
        return name

    def _answers(self) -> list[Answer]:
        pgconn, failed, answers = self._pgconn, None, list[Answer]()
        pgconn.pipeline_sync()
        heard = select.poll()
        heard.register(pgconn.socket, select.POLLIN | select.POLLOUT)
        while pgconn.flush():
            if any(events & ~select.POLLOUT for _, events in heard.poll()):
                pgconn.consume_input()  # the server may wait until somebody hears it
        heard.modify(pgconn.socket, select.POLLIN)
        for wanted in self._sent:
            result = self._next(heard)
            while self._next(heard) is not None:
                pass
            if result is None or result.status in _FAILED:
                failed = failed or self._error(result)
            elif wanted:
                answers.append(self._read(result))
        while self._next(heard) is None:  # the answer to the sync
            if pgconn.status != ConnStatus.OK:
                raise psycopg.OperationalError("the connection to the database was lost")
        pgconn.exit_pipeline_mode()
        if failed is not None:
            raise failed
        return answers

    def _next(self, heard: select.poll) -> PGresult | None:
        while self._pgconn.is_busy():
            heard.poll()
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    def _read(self, result: PGresult) -> Answer:
        if result.status not in _ROWS:
            return []
        self._rows.set_pgresult(result, set_loaders=True)
        return self._rows.load_rows(0, result.ntuples, tuple)

    def _error(self, result: PGresult | None) -> psycopg.Error:
        if result is None:
            return psycopg.OperationalError("the connection to the database was lost")
        return error_from_result(result, encoding=self._raw.info.encoding)


def wire_of(db: Connection) -> Wire:
    """Of the connection to the server that `db` has now."""
    known = db.info
    if (found := known.get(_KEY)) is None:
        raw = db.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        found = known[_KEY] = Wire(raw)
    assert isinstance(found, Wire)
    return found


@event.listens_for(Engine, "connect")
def _prepares_nothing(raw: object, _: object) -> None:
    """The driver itself: with a transaction that is taken back, or a table that is changed, it
    would deallocate all that is prepared, in whatever name."""
    if isinstance(raw, psycopg.Connection):
        raw.prepare_threshold = None


def _numbered(sql: str, count: int) -> bytes:
    """With `$1` and so on, as the server wants them."""
    if not count:
        return sql.encode()
    first, *parts = sql.split("%s")
    assert len(parts) == count, (sql, count)
    return "".join([first, *(f"${n}{part}" for n, part in enumerate(parts, 1))]).encode()


def _text(value: str | float) -> bytes:
    found = value.encode() if isinstance(value, str) else repr(value).encode()
    if b"\0" in found:  # the server would see the end of the text in it
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return found
