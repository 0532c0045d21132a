"""Brings a database to the schema that this version expects, and says how far it is from it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from singularity.primitives.errors import SchemaNewer

_LOCK: Final = 0x53474C  # advisory: two servers that start at once migrate one after the other
_VERSIONS: Final = "SELECT to_regclass('alembic_version') IS NOT NULL"


def migrations() -> Path:
    """In a checkout beside the package; in an installation inside it."""
    package = Path(__file__).resolve().parents[1]
    beside = package.parent / "migrations"
    return beside if beside.is_dir() else package / "migrations"


def migrate(engine: Engine, revision: str = "head") -> None:
    """Apply every migration that is missing, up to `revision`. Safe to call at every start.

    Raises SchemaNewer, and changes nothing, where the database is of a later release.
    """
    with engine.begin() as connection:
        migrate_on(connection, revision)


def migrate_on(connection: Connection, revision: str = "head") -> None:
    """As `migrate`, as a part of the transaction of `connection`."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    need_known(revision_of(connection), "the database")
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def revision_of(connection: Connection) -> str:
    """The last migration that was applied; "" where there was none yet."""
    if not connection.scalar(text(_VERSIONS)):
        return ""
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")) or "")


def missing(revision: str) -> list[tuple[str, str]]:
    """The migrations after `revision`, oldest first: number and what for. Raises SchemaNewer."""
    need_known(revision, "the database")
    found = _scripts().iterate_revisions("head", revision or "base")
    return [(each.revision, " ".join((each.doc or "").split())) for each in found][::-1]


def head() -> str:
    """The schema of this version."""
    return str(_scripts().get_current_head())


def need_known(revision: str, whose: str) -> None:
    """Raises SchemaNewer unless this version knows how to go on from there."""
    if revision and revision not in {each.revision for each in _scripts().walk_revisions()}:
        raise SchemaNewer(
            f"{whose} has the schema {revision}, this version knows those up to {head()}: "
            "install the release that it is of, or a later one",
            schema=revision,
            known=head(),
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
