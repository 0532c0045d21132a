"""Devices that are given out in shares, and what is taken of each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0008"
down_revision = "0009"
branch_labels = None
depends_on = None

_NODE = (
    "region, cluster, device, devices, used, duty, lost, epoch, seq, address, known_s, failures,"
    " rack, health"
)
_PARTS = {"part_index": sa.Integer(), "part_milli": sa.Integer(), "part_bytes": sa.BigInteger()}
_CHECKS = {
    "parts": "cardinality(part_index) <= used AND devices > ALL (part_index)",
    "compute_of_parts": "0 < ALL (part_milli) AND 1000 >= ALL (part_milli)",
    "memory_of_parts": "0 < ALL (part_bytes) AND memory_bytes >= ALL (part_bytes)",
}


def upgrade() -> None:
    _add("node", "memory_bytes", sa.BigInteger(), "0")
    _add("node", "preempts", sa.Boolean(), "false")
    _add("node", "whole", sa.Boolean(), "true")
    for name, kind in _PARTS.items():
        _add("node", name, ARRAY(kind), "{}")
    for name, law in _CHECKS.items():
        op.create_check_constraint(op.f(f"ck_node_{name}"), "node", law)
    _add("shard", "shares", ARRAY(sa.Integer()), "{}")
    _trigger(f"{_NODE}, memory_bytes, preempts, whole, {', '.join(_PARTS)}")


def downgrade() -> None:
    _trigger(_NODE)
    op.drop_column("shard", "shares")
    for name in _CHECKS:
        op.drop_constraint(op.f(f"ck_node_{name}"), "node")
    for name in ("memory_bytes", "preempts", "whole", *_PARTS):
        op.drop_column("node", name)


def _add(table: str, column: str, kind: sa.types.TypeEngine[object], default: str) -> None:
    """What is there already has none of it."""
    op.add_column(table, sa.Column(column, kind, nullable=False, server_default=default))
    op.alter_column(table, column, server_default=None)


def _trigger(columns: str) -> None:
    op.execute("DROP TRIGGER note_change ON node")
    op.execute(
        f"CREATE TRIGGER note_change AFTER INSERT OR UPDATE OF {columns} ON node "
        "FOR EACH ROW EXECUTE FUNCTION note_change()"
    )
