"""How often a node failed, and since when it is watched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A node known before is watched from now on."""
    now_s = sa.text("extract(epoch FROM now())")
    op.add_column("node", sa.Column("known_s", sa.Double(), nullable=False, server_default=now_s))
    op.add_column("node", sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
    op.alter_column("node", "known_s", server_default=None)
    op.alter_column("node", "failures", server_default=None)


def downgrade() -> None:
    op.drop_column("node", "failures")
    op.drop_column("node", "known_s")
