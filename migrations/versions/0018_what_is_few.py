"""Who lends devices to services, and how many jobs ended how: looked for without a look at all
jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_LOANS = "jsonb_array_length(coalesce(body -> 'loans', '[]'))"


def upgrade() -> None:
    job = sa.Column("job", sa.Text(), sa.ForeignKey("job.id"), primary_key=True)
    op.create_table("lender", job)
    op.execute(f"INSERT INTO lender SELECT id FROM job_state WHERE {_LOANS} > 0")
    op.execute(
        "CREATE INDEX ix_job_state_ended ON job_state (state)"
        " WHERE state IN ('succeeded', 'failed', 'cancelled')"
    )


def downgrade() -> None:
    op.drop_index("ix_job_state_ended", "job_state")
    op.drop_table("lender")
