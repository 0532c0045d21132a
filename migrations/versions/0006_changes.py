"""Which transaction last changed a job or a node, so that a reader need not read all again.

Of a node, every column counts but `heard_s`: heartbeats are many, and nobody decides by them. A
column that is added to `node` later must be named in the trigger; a test compares them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import UserDefinedType

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NODE = "region, cluster, device, devices, used, duty, lost, epoch, seq, address, known_s, failures"
_NOTE = """
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO change AS c (what, id, by) VALUES (TG_TABLE_NAME, NEW.id, pg_current_xact_id())
  ON CONFLICT (what, id) DO UPDATE SET by = excluded.by WHERE c.by <> excluded.by;
  RETURN NULL;
END $$
"""


class _TransactionId(UserDefinedType[str]):
    def get_col_spec(self, **_: object) -> str:
        return "XID8"


def upgrade() -> None:
    op.create_table(
        "change",
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("by", _TransactionId(), nullable=False),
        sa.PrimaryKeyConstraint("what", "id", name="pk_change"),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index("ix_change_what_by", "change", ["what", "by"])
    op.execute(_NOTE)
    for table, when in (("job_state", "UPDATE"), ("node", f"UPDATE OF {_NODE}")):
        op.execute(
            f"CREATE TRIGGER note_change AFTER INSERT OR {when} ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION note_change()"
        )


def downgrade() -> None:
    for table in ("job_state", "node"):
        op.execute(f"DROP TRIGGER note_change ON {table}")
    op.execute("DROP FUNCTION note_change()")
    op.drop_table("change")
