"""The way to Postgres: an engine, and a bell that rings in all processes when something changed."""

from __future__ import annotations

import logging
import select
import threading
from typing import Any, Final

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import InvalidatePoolError

from .settings import Settings

log = logging.getLogger(__name__)

WAKE: Final = "singularity_wake"  # NOTIFY channel: something changed that a plan depends on
LETTERS: Final = "singularity_letters"  # the same: there are letters to send
_RETRY_S: Final = 0.5


def make_engine(settings: Settings) -> Engine:
    # Whichever connection was used last is used next: it has the statements prepared, and its
    # server process the tables at hand.
    engine = create_engine(
        settings.sqlalchemy_url,
        pool_size=16,
        max_overflow=24,
        pool_recycle=600,
        pool_use_lifo=True,
    )
    event.listen(engine, "connect", _planning)
    event.listen(engine, "checkout", _still_there)
    return engine


def _planning(raw: Any, _: object) -> None:
    """Prepared statements are parsed once but planned each time: a plan that was kept from when a
    table was small reads all of it."""
    raw.execute("SET plan_cache_mode TO force_custom_plan")
    raw.commit()


def _still_there(raw: Any, _: object, __: object) -> None:
    """In place of SQLAlchemy's pool_pre_ping, which asks the server before each transaction: one
    that ended a connection has said so, or its kernel has, and that waits to be read. Raises
    InvalidatePoolError, and then a new one is made."""
    assert isinstance(raw, psycopg.Connection)
    heard = select.poll()
    if not raw.closed:
        heard.register(raw.fileno(), select.POLLIN)
    if raw.closed or heard.poll(0):
        raise InvalidatePoolError("the connection to the database has ended")


def synced(engine: Engine) -> None:
    """Returns when all that has been committed is on the disk, in whatever transaction. One that
    has written nothing to the log does not wait for it, even if it has a number."""
    _alone(engine, "SELECT pg_logical_emit_message(true, 'synced', '')")


def wake(engine: Engine) -> None:
    """Tell the loops that there may be something to do. Nothing is written, so that nothing waits
    for the disk."""
    _alone(engine, f"NOTIFY {WAKE}")


def _alone(engine: Engine, statement: str) -> None:
    """A transaction of one statement, in one way there and back."""
    with engine.connect() as db:
        db.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(statement)


class Bell:
    """Rings when something changed: one connection that listens, in a thread of its own."""

    def __init__(self, settings: Settings, stop: threading.Event, channel: str = WAKE) -> None:
        self._url, self._stop, self._channel = settings.database_url, stop, channel
        self._rung = threading.Event()
        threading.Thread(target=self._listen, name="bell", daemon=True).start()

    def wait(self, most_s: float) -> None:
        self._rung.wait(most_s)
        self._rung.clear()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True) as db:
                    db.execute(f"LISTEN {self._channel}")
                    self._rung.set()  # something may have been missed
                    while not self._stop.is_set():
                        for _ in db.notifies(timeout=1.0, stop_after=1):
                            self._rung.set()
            except psycopg.Error as error:
                log.warning("bell away", extra={"reason": str(error).strip()})
                self._stop.wait(_RETRY_S)
