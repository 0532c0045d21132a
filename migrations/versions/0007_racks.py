"""Which rack of its cluster a node is in; nodes known before are all in one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NODE = "region, cluster, device, devices, used, duty, lost, epoch, seq, address, known_s, failures"


def upgrade() -> None:
    op.add_column("node", sa.Column("rack", sa.Text(), nullable=False, server_default=""))
    op.alter_column("node", "rack", server_default=None)
    _trigger(f"{_NODE}, rack")


def downgrade() -> None:
    _trigger(_NODE)
    op.drop_column("node", "rack")


def _trigger(columns: str) -> None:
    op.execute("DROP TRIGGER note_change ON node")
    op.execute(
        f"CREATE TRIGGER note_change AFTER INSERT OR UPDATE OF {columns} ON node "
        "FOR EACH ROW EXECUTE FUNCTION note_change()"
    )
