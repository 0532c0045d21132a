"""How a drain is to go, who wants it and why, and the jobs that it found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NEW = (
    ("leaving", sa.Text(), "migrate"),
    ("paused", sa.Boolean(), "false"),
    ("reason", sa.Text(), ""),
    ("jobs", JSONB(), "[]"),
)


def upgrade() -> None:
    """Drains in force go on as they were meant: everything moves, with no deadline."""
    for name, kind, default in _NEW:
        op.add_column("drain", sa.Column(name, kind, nullable=False, server_default=default))
        op.alter_column("drain", name, server_default=None)
    op.add_column("drain", sa.Column("deadline_s", sa.Double(), nullable=True))
    op.add_column("drain", sa.Column("moves_most", sa.Integer(), nullable=True))


def downgrade() -> None:
    for name in ("moves_most", "deadline_s", *(name for name, _, _ in reversed(_NEW))):
        op.drop_column("drain", name)
