"""Where replicas and verifications are among all jobs: few, and looked for again and again."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX ix_job_kind_id ON job (kind, id) WHERE kind IN ('serve', 'verify')")


def downgrade() -> None:
    op.drop_index("ix_job_kind_id", "job")
