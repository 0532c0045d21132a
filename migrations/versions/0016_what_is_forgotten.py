"""What is summed over all lives there ever were, found without a look at all of them, and kept of
those that are forgotten."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("forgotten", sa.Column("lost_device_s", sa.Double(), nullable=False))
    op.execute("INSERT INTO forgotten VALUES (0)")
    op.execute("CREATE INDEX ix_incarnation_lost ON incarnation (job) WHERE lost_s > 0")
    op.execute("CREATE INDEX ix_incarnation_open ON incarnation (job) WHERE ended_at_s IS NULL")


def downgrade() -> None:
    op.drop_index("ix_incarnation_open", "incarnation")
    op.drop_index("ix_incarnation_lost", "incarnation")
    op.drop_table("forgotten")
