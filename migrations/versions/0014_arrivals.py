"""How unevenly requests come, beside how many."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("service_load", sa.Column("jumps", sa.Double(), nullable=True))
    op.execute("UPDATE service_load SET jumps = arrivals")
    op.alter_column("service_load", "jumps", nullable=False)


def downgrade() -> None:
    op.drop_column("service_load", "jumps")
