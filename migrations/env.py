"""Runs the migrations against the engine that the caller hands over in the configuration."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from singularity.api.tables import metadata


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()


migrate(context.config.attributes["connection"])
