"""The way to Postgres: an engine, and a bell that rings in all processes when something changed."""

from __future__ import annotations

import logging
import threading
from typing import Final

import psycopg
from sqlalchemy import Connection, Engine, create_engine

from .bulk import UNSYNCED
from .settings import Settings

log = logging.getLogger(__name__)

WAKE: Final = "singularity_wake"  # NOTIFY channel: something changed that a plan depends on
LETTERS: Final = "singularity_letters"  # the same: there are letters to send
_RETRY_S: Final = 0.5


def make_engine(settings: Settings) -> Engine:
    return create_engine(
        settings.sqlalchemy_url, pool_pre_ping=True, pool_size=16, max_overflow=24, pool_recycle=600
    )


def unsynced(db: Connection) -> None:
    """Let this transaction commit without waiting for the disk: what it writes may be lost when the
    server of the database crashes, and is then done again."""
    db.exec_driver_sql(UNSYNCED)


def synced(engine: Engine) -> None:
    """Returns when all that has been committed is on the disk, in whatever transaction."""
    with engine.begin() as db:  # its own commit has a number, so it is written, after all others
        db.exec_driver_sql("SELECT pg_current_xact_id()")


def wake(engine: Engine) -> None:
    """Tell the loops that there may be something to do."""
    with engine.begin() as db:
        unsynced(db)
        db.exec_driver_sql(f"NOTIFY {WAKE}")


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
