"""Brings a database to the schema that this version expects."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

_LOCK: Final = 0x53474C  # advisory: two servers that start at once migrate one after the other


def migrations() -> Path:
    """In a checkout beside the package; in an installation inside it."""
    package = Path(__file__).resolve().parents[1]
    beside = package.parent / "migrations"
    return beside if beside.is_dir() else package / "migrations"


def migrate(engine: Engine, revision: str = "head") -> None:
    """Apply every migration that is missing, up to `revision`. Safe to call at every start."""
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
