"""A planet out of its backup: into an empty database, in one transaction, brought up to date.

The tables are made as they were when the backup was made, filled, and then migrated like any other
database of that age. So a backup can be restored by every later release.
"""

from __future__ import annotations

import graphlib
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from singularity.primitives.clock import SystemClock
from singularity.primitives.errors import BackupDamaged, NotEmpty, Unavailable

from .archive import Contents, Reader
from .auth import Tokens
from .backup import HOME, KEY, PASSING, STORE, TABLES, VOLUME, columns, directory_of
from .database import make_engine
from .fencing import fence
from .schema import head, migrate_on, need_known, revision_of
from .settings import Settings

_FILLED: Final = frozenset({"forgotten"})  # by the migrations themselves
_REFERENCES: Final = """
SELECT f.relname, t.relname FROM pg_constraint c
JOIN pg_class f ON f.oid = c.conrelid JOIN pg_class t ON t.oid = c.confrelid
WHERE c.contype = 'f' AND c.connamespace = current_schema()::regnamespace"""


@dataclass(frozen=True, slots=True)
class Restored:
    """What there is now. `jobs` have not ended; `elsewhere` says where checkpoints must be that did
    not come along, "" when they did; `warnings` are for whoever does this."""

    made_at_s: float
    version: str
    revision: str
    rows: int
    jobs: int
    files: int
    elsewhere: str
    warnings: tuple[str, ...]


def restore(settings: Settings, source: Path, home: Path | None = None) -> Restored:
    """Put the backup `source` into the database, the data directory and, if they came along, the
    volume and the store. Files of a planet's home go to `home`.

    All of the database is there or nothing. Returns no sooner than every node has stopped what the
    former control plane, which must not run any more, let it run. Raises NotEmpty, SchemaNewer,
    BackupDamaged, Unavailable.
    """
    began_s, now_s = time.monotonic(), SystemClock().now_s()
    with Reader(source) as saved:
        contents = saved.contents
        need_known(contents.revision, f"the backup (made by {contents.version})")
        _need_no_other_key(settings, saved.get(KEY) or b"")
        trees = _places(settings, contents)
        for place in trees.values():
            _need_empty(place)
        engine = make_engine(settings)
        try:
            with _all_or_nothing(engine, trees.values()) as db:
                jobs = _restore_tables(db, saved, now_s)
                files = sum(saved.unfold(name, place) for name, place in trees.items())
                _write(settings.data / "signing.key", saved.get(KEY) or b"")
                kept = saved.get(f"{HOME}/planet.json") if home is not None else None
                if home is not None and kept is not None:
                    _write(home / "planet.json", kept)
            if settings.admin_token and kept is None:  # else its own is there
                Tokens(engine).admit(settings.admin_token, now_s)
        finally:
            engine.dispose()
    threading.Event().wait(max(0.0, settings.lease_s - (time.monotonic() - began_s)))
    return Restored(
        made_at_s=contents.made_at_s,
        version=contents.version,
        revision=head(),
        rows=sum(table.rows for table in contents.tables.values()),
        jobs=jobs,
        files=files,
        elsewhere="" if trees else contents.store or "the volume of the planet that was saved",
        warnings=_warnings(settings, contents),
    )


def _need_no_other_key(settings: Settings, key: bytes) -> None:
    """Raises NotEmpty where there is another planet's key, BackupDamaged where none came."""
    if not key:
        raise BackupDamaged("the backup holds no signing key")
    path = settings.data / "signing.key"
    if path.exists() and path.read_bytes() != key:
        raise NotEmpty(f"{path} is the key of another planet: name an empty directory")


def _places(settings: Settings, contents: Contents) -> dict[str, Path]:
    """Where trees that came along go."""
    found = {}
    if VOLUME in contents.trees:
        found[VOLUME] = settings.volume
    if STORE in contents.trees:
        found[STORE] = directory_of(settings.store) or settings.volume
    return found


def _need_empty(place: Path) -> None:
    """Directories without a file in them are nothing: whoever starts makes those."""
    for directory, _, files in os.walk(place):
        if files:
            raise NotEmpty(f"{directory} is not empty: the backup brings what belongs there")


@contextmanager
def _all_or_nothing(engine: Engine, places: Iterable[Path]) -> Iterator[Connection]:
    """A transaction; where it fails, `places` are empty again too. Raises Unavailable."""
    try:
        with engine.begin() as db:
            yield db
    except BaseException as error:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, (OperationalError, psycopg.OperationalError)):
            raise Unavailable(f"the database does not answer: {error}") from error
        if isinstance(error, OSError):
            raise Unavailable(f"the files cannot be written: {error}") from error
        raise


def _restore_tables(db: Connection, saved: Reader, now_s: float) -> int:
    """How many jobs there are that have not ended."""
    _prepare(db, saved.contents.revision)
    _fill(_raw(db), saved)
    migrate_on(db)
    at = datetime.fromtimestamp(saved.contents.made_at_s, UTC)
    return fence(db, now_s, f"the planet was restored from a backup of {at:%Y-%m-%d %H:%M} UTC")


def _raw(db: Connection) -> psycopg.Connection:
    found = db.connection.driver_connection
    assert isinstance(found, psycopg.Connection)
    return found


def _prepare(db: Connection, revision: str) -> None:
    """The tables of that schema, without a row. Raises NotEmpty."""
    another = "make an empty database, and name that in SINGULARITY_DATABASE_URL"
    found = revision_of(db)
    there = columns(_raw(db))
    if there and not found:
        raise NotEmpty(f"the database has tables that are not ours: {another}")
    for name in sorted(there.keys() - _FILLED):
        query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(name))
        if _raw(db).execute(query).fetchone() == (True,):
            raise NotEmpty(f"the database is not empty, {name} has rows: {another}", table=name)
    if found > revision:
        raise NotEmpty(f"the database was made by a later release than the backup: {another}")
    migrate_on(db, revision)


def _fill(db: psycopg.Connection, saved: Reader) -> None:
    there, contents = columns(db), saved.contents
    if there.keys() - PASSING != contents.tables.keys():
        odd = sorted((there.keys() - PASSING) ^ contents.tables.keys())
        raise BackupDamaged(f"the tables are not those of schema {contents.revision}: {odd}")
    names = sql.SQL(", ").join(map(sql.Identifier, sorted(there)))
    db.execute(sql.SQL("TRUNCATE {}").format(names))
    for name in _in_order(contents.tables, db.execute(_REFERENCES).fetchall()):
        dumped = contents.tables[name]
        if set(dumped.columns) != set(there[name]):
            raise BackupDamaged(f"{name} has not the columns of schema {contents.revision}")
        listed = sql.SQL(", ").join(map(sql.Identifier, dumped.columns))
        query = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(name), listed)
        try:
            with db.cursor() as cursor:
                with cursor.copy(query) as copied:
                    for piece in saved.pieces(f"{TABLES}/{name}"):
                        copied.write(piece)
                count = cursor.rowcount
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise BackupDamaged(f"the rows of {name} are refused: {error}") from error
        if count != dumped.rows:
            raise BackupDamaged(f"{name} has {count} rows, {dumped.rows} were saved")
    for name, (last, called) in contents.counters.items():
        db.execute("SELECT setval(%s::regclass, %s, %s)", (name, last, called))


def _in_order(tables: Iterable[str], references: Iterable[tuple[str, str]]) -> list[str]:
    """Each after those that its rows name."""
    graph: dict[str, set[str]] = {name: set() for name in sorted(tables)}
    for name, of in references:
        if name != of and name in graph and of in graph:
            graph[name].add(of)
    return list(graphlib.TopologicalSorter(graph).static_order())


def _write(path: Path, data: bytes) -> None:
    """For its owner only, from its first byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    draft.replace(path)


def _warnings(settings: Settings, contents: Contents) -> tuple[str, ...]:
    found = []
    if str(settings.sealing) != contents.sealing:
        found.append(
            f"checkpoints were made with SINGULARITY_SEALING={contents.sealing}, and cannot be read"
            f" with {settings.sealing}"
        )
    if settings.store != contents.store:
        place = contents.store or "in the volume"
        found.append(f"checkpoints were kept {place}, SINGULARITY_STORE says something else")
    return tuple(found)
