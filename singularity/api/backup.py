"""All that a planet must have to begin again elsewhere, in one file: tables, keys, settings.

Tables are copied as text by the database itself, of one instant, while everybody goes on. That is
read by any later release of Postgres and of ours, which `pg_dump` would not be: what it writes
names transactions by their numbers (tables.change), and in another cluster those are to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from singularity.primitives.clock import SystemClock
from singularity.primitives.errors import NotFound, PlanetBusy, Unavailable

from .archive import Contents, Dumped, Writer
from .settings import Settings

KEY: Final = "keys/signing.key"
HOME: Final = "home"
TABLES: Final = "tables"
VOLUME: Final = "volume"
STORE: Final = "store"
# What a restore makes void or anew: what changed since a transaction that is no more, and letters
# of epochs that are over.
PASSING: Final = frozenset({"change", "node_log", "outbox"})
_HISTORY: Final = "alembic_version"
_COLUMNS: Final = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
  AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
GROUP BY c.relname ORDER BY c.relname"""
_COUNTERS: Final = """
SELECT c.relname FROM pg_class c
WHERE c.relkind = 'S' AND c.relnamespace = current_schema()::regnamespace ORDER BY c.relname"""


@dataclass(frozen=True, slots=True)
class Saved:
    """What was done: the file, its size, the rows and the files of trees in it."""

    path: Path
    size_bytes: int
    revision: str
    rows: int
    files: int


def backup(
    settings: Settings, target: Path, home: Mapping[str, bytes], *, with_store: bool = False
) -> Saved:
    """Write a backup to the file `target`, or under a name of its own into that directory.

    `home` are files of the planet's home, by name. `with_store` adds what is in the volume and in a
    store that is a directory; then nothing of the control plane may run. Raises NotFound where
    there is nothing to save, NotEmpty where the file is there, PlanetBusy, Unavailable.
    """
    now_s = SystemClock().now_s()
    if target.is_dir():
        stamp = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
        target = target / f"singularity-{stamp}.backup"
    key = _key(settings)
    with _reading(settings) as db, Writer(target) as made:
        revision = _revision(db)
        if with_store:
            _need_rest(db)
        tables = _dump(db, made)
        counters = {name: _counter(db, name) for (name,) in db.execute(_COUNTERS)}
        made.put(KEY, key)
        for name, data in home.items():
            made.put(f"{HOME}/{name}", data)
        trees = _trees(settings) if with_store else {}
        files = sum(made.tree(name, root) for name, root in trees.items())
        contents = Contents(
            version=release(),
            revision=revision,
            made_at_s=now_s,
            tables=tables,
            counters=counters,
            sealing=str(settings.sealing),
            store=settings.store,
            trees=tuple(trees),
        )
        size = made.finish(contents)
    return Saved(target, size, revision, sum(t.rows for t in tables.values()), files)


def release() -> str:
    """Ours, as it is installed."""
    try:
        return version("singularity")
    except PackageNotFoundError:
        return "0"


def columns(db: psycopg.Connection) -> dict[str, tuple[str, ...]]:
    """The tables of the database and their columns, without the one that says which schema."""
    return {name: tuple(found) for name, found in db.execute(_COLUMNS) if name != _HISTORY}


def directory_of(store: str) -> Path | None:
    """Where a store is that is a directory; None for buckets, and for "", which is the volume."""
    scheme, mark, rest = store.partition("://")
    if not store or (mark and scheme != "file"):
        return None
    return Path("/" + rest.lstrip("/")) if mark else Path(store)


def _reading(settings: Settings) -> psycopg.Connection:
    """Everything that is asked in it is of one instant."""
    try:
        db = psycopg.connect(settings.database_url, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise Unavailable(f"the database does not answer: {str(error).strip()}") from error
    db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    db.read_only = True
    return db


def _revision(db: psycopg.Connection) -> str:
    found = db.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
    if found == (True,) and (row := db.execute("SELECT version_num FROM alembic_version")):
        for (revision,) in row:
            return str(revision)
    raise NotFound("this database holds no planet: is SINGULARITY_DATABASE_URL the right one?")


def _key(settings: Settings) -> bytes:
    path = settings.data / "signing.key"
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFound(
            f"{path} cannot be read ({error.strerror}): without this key no checkpoint can be"
            " either; name the directory where the control plane keeps it"
        ) from error


def _need_rest(db: psycopg.Connection) -> None:
    """A copy of the store is whole only while nobody frees anything in it."""
    held = "SELECT name, holder FROM lease WHERE expires_at_s > extract(epoch FROM now())"
    for name, holder in db.execute(held):
        raise PlanetBusy(
            f"the control plane runs ({name} is done by {holder}): stop it first, for what is"
            " stored changes under a copy; without the store it may run",
            holder=holder,
        )


def _dump(db: psycopg.Connection, made: Writer) -> dict[str, Dumped]:
    tables = {}
    for name, of_it in columns(db).items():
        if name in PASSING:
            continue
        listed = sql.SQL(", ").join(map(sql.Identifier, of_it))
        query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(listed, sql.Identifier(name))
        with made.part(f"{TABLES}/{name}") as file, db.cursor() as cursor:
            with cursor.copy(query) as copied:
                for piece in copied:
                    file.write(piece)
            tables[name] = Dumped(columns=of_it, rows=cursor.rowcount)
    return tables


def _counter(db: psycopg.Connection, name: str) -> tuple[int, bool]:
    query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(name))
    last, called = db.execute(query).fetchone() or (1, False)
    return int(last), bool(called)


def _trees(settings: Settings) -> dict[str, Path]:
    """Where the volume is, and the store, if that is another directory."""
    found = {VOLUME: settings.volume}
    if (store := directory_of(settings.store)) is not None and store != settings.volume:
        found[STORE] = store
    return found
