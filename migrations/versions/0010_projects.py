"""What projects are guaranteed, may borrow and lend, what they are part of, and what they used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Projects known before have no limit and a weight of one. What their jobs hold is counted from
    the moment of this migration on."""
    new: tuple[sa.Column[object], ...] = (
        sa.Column("parent", sa.Text(), nullable=False, server_default=""),
        sa.Column("weight", sa.Double(), nullable=False, server_default="1"),
        sa.Column("held", JSONB(), nullable=False, server_default="{}"),
        sa.Column("device_s", sa.Double(), nullable=False, server_default="0"),
        sa.Column("at_s", sa.Double(), nullable=False, server_default="0"),
    )
    for column in new:
        op.add_column("project", column)
        op.alter_column("project", column.name, server_default=None)
    op.execute(
        "UPDATE project SET at_s = extract(epoch FROM now()), held = coalesce("
        "(SELECT jsonb_object_agg(kind, devices) FROM"
        " (SELECT spec->>'device' AS kind, sum(shard.devices) AS devices"
        "  FROM shard JOIN job ON job.id = shard.job"
        "  WHERE job.project = project.id AND job.kind <> 'verify' GROUP BY 1) AS counted), '{}')"
    )
    op.create_check_constraint(op.f("ck_project_weight"), "project", "weight > 0")
    op.create_table(
        "allotment",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("guaranteed", sa.Integer(), nullable=False),
        sa.Column("borrow", sa.Integer(), nullable=True),
        sa.Column("lend", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("project", "kind", name="pk_allotment"),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_allotment_project"),
        sa.CheckConstraint(
            "guaranteed >= 0 AND borrow >= 0 AND lend BETWEEN 0 AND guaranteed",
            name=op.f("ck_allotment_counts"),
        ),
    )


def downgrade() -> None:
    op.drop_table("allotment")
    op.drop_constraint("ck_project_weight", "project")
    for name in ("at_s", "device_s", "held", "weight", "parent"):
        op.drop_column("project", name)
