"""What only the applier writes, with the job and the node locked that it names, is no longer looked
up again row by row."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_KEYS = (
    *(("event", "job"), ("incarnation", "job"), ("shard", "job")),
    *(("shard", "node"), ("node_log", "node")),
)


def upgrade() -> None:
    for table, of in _KEYS:
        op.drop_constraint(f"fk_{table}_{of}", table, type_="foreignkey")


def downgrade() -> None:
    for table, of in _KEYS:
        op.create_foreign_key(f"fk_{table}_{of}", table, of, [of], ["id"])
