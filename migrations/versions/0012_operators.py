"""How nodes have been; operations, maintenance, what drains may carry; rows of nodes may go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0007"
branch_labels = None
depends_on = None

_PLACES = "scope_kind IN ('region', 'cluster', 'node')"
_NOTE = """
CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO change AS c (what, id, by)
  VALUES (TG_TABLE_NAME, {which}, pg_current_xact_id())
  ON CONFLICT (what, id) DO UPDATE SET by = excluded.by WHERE c.by <> excluded.by;
  RETURN NULL;
END $$
"""
_OF_DRAINS = (
    ("next_move_s", sa.Double(), "0"),
    ("upkeep", sa.Text(), ""),
    ("cordoned", JSONB(), "[]"),
)
_NODE = (
    "region, cluster, device, devices, used, duty, lost, epoch, seq, address, known_s, failures,"
    " rack"
)


def upgrade() -> None:
    op.add_column("node", sa.Column("health", JSONB(), nullable=False, server_default="{}"))
    op.alter_column("node", "health", server_default=None)
    _trigger(f"{_NODE}, health")
    op.create_table(
        "operation",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        *(sa.Column(n, sa.Text(), nullable=False) for n in ("actor", "verb", "target", "reason")),
        sa.Column("before", JSONB(), nullable=False),
        sa.Column("after", JSONB(), nullable=False),
        sa.Column("undoes", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_operation"),
        sa.ForeignKeyConstraint(["undoes"], ["operation.id"], name="fk_operation_undoes"),
        sa.UniqueConstraint("undoes", name="uq_operation_undoes"),
    )
    op.create_index("ix_operation_target_id", "operation", ["target", "id"])
    op.execute(_NOTE.format(which="COALESCE(NEW.id, OLD.id)"))
    op.execute(
        "CREATE TRIGGER note_end AFTER DELETE ON node FOR EACH ROW EXECUTE FUNCTION note_change()"
    )
    op.add_column("drain", sa.Column("bytes_per_s", sa.Double(), nullable=True))
    op.add_column("drain", sa.Column("until_s", sa.Double(), nullable=True))
    for name, kind, default in _OF_DRAINS:
        op.add_column("drain", sa.Column(name, kind, nullable=False, server_default=default))
        op.alter_column("drain", name, server_default=None)
    op.create_table(
        "maintenance",
        *(sa.Column(n, sa.Text(), nullable=False) for n in ("id", "scope_kind", "scope", "every")),
        sa.Column("length_s", sa.Double(), nullable=False),
        sa.Column("leaving", sa.Text(), nullable=False),
        sa.Column("moves_most", sa.Integer(), nullable=True),
        sa.Column("bytes_per_s", sa.Double(), nullable=True),
        sa.Column("done_s", sa.Double(), nullable=False),
        sa.Column("dropped_at_s", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_maintenance"),
        sa.CheckConstraint(_PLACES, name=op.f("ck_maintenance_scope_kind")),
        sa.CheckConstraint("length_s > 0", name=op.f("ck_maintenance_length")),
    )
    op.create_table(
        "rebalancing",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("until_s", sa.Double(), nullable=False),
        sa.Column("scope_kind", sa.Text(), nullable=True),
        sa.Column("scope", sa.Text(), nullable=True),
        sa.Column("ended_at_s", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_rebalancing"),
    )


def downgrade() -> None:
    op.drop_table("rebalancing")
    op.drop_table("maintenance")
    for name in ("cordoned", "upkeep", "next_move_s", "until_s", "bytes_per_s"):
        op.drop_column("drain", name)
    op.execute("DROP TRIGGER note_end ON node")
    op.execute(_NOTE.format(which="NEW.id"))
    op.drop_table("operation")
    _trigger(_NODE)
    op.drop_column("node", "health")


def _trigger(columns: str) -> None:
    op.execute("DROP TRIGGER note_change ON node")
    op.execute(
        f"CREATE TRIGGER note_change AFTER INSERT OR UPDATE OF {columns} ON node "
        "FOR EACH ROW EXECUTE FUNCTION note_change()"
    )
