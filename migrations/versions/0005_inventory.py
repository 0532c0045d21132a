"""What accelerators nodes have, as their heartbeats say."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inventory",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("devices", postgresql.JSONB(), nullable=False),
        sa.Column("seen_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("node", name="pk_inventory"),
        sa.ForeignKeyConstraint(["node"], ["node.id"], name="fk_inventory_node"),
    )


def downgrade() -> None:
    op.drop_table("inventory")
