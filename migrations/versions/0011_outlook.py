"""When waiting jobs were expected to start, and what devices cost where they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "estimate",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("made_at_s", sa.Double(), nullable=False),
        sa.Column("p50_at_s", sa.Double(), nullable=False),
        sa.Column("p90_at_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("job", "incarnation", name="pk_estimate"),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name="fk_estimate_job"),
    )
    op.create_index("ix_estimate_made_at_s", "estimate", ["made_at_s"])
    op.create_table(
        "tariff",
        sa.Column("scope_kind", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("cost", sa.Double(), nullable=False),
        sa.Column("carbon_g", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("scope_kind", "scope", name="pk_tariff"),
        sa.CheckConstraint(
            "scope_kind IN ('region', 'cluster')", name=op.f("ck_tariff_scope_kind")
        ),
        sa.CheckConstraint("cost >= 0 AND carbon_g >= 0", name=op.f("ck_tariff_amounts")),
    )


def downgrade() -> None:
    op.drop_table("tariff")
    op.drop_table("estimate")
