"""Services, what routers say of them, and devices that were lent to them; a role for routers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0012"
branch_labels = None
depends_on = None

_ROLES = "'viewer', 'submitter', 'operator', 'admin', 'agent'"


def upgrade() -> None:
    _roles(f"{_ROLES}, 'router'")
    op.create_table(
        "service",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("body", JSONB(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("ended_at_s", sa.Double(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("body_digest", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_service"),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name="fk_service_project"),
        sa.UniqueConstraint(
            "project", "idempotency_key", name="uq_service_project_idempotency_key"
        ),
        postgresql_with={"fillfactor": 60},
    )
    lives = sa.text("ended_at_s IS NULL")
    columns = ["project", "name"]
    op.create_index(
        "ix_service_project_name", "service", columns, unique=True, postgresql_where=lives
    )
    op.create_table(
        "service_event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _service(),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_service_event"),
        sa.ForeignKeyConstraint(["service"], ["service.id"], name="fk_service_event_service"),
    )
    op.create_index("ix_service_event_service_id", "service_event", ["service", "id"])
    _what_routers_say()
    op.create_table(
        "loan",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        _service(),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("since_s", sa.Double(), nullable=False),
        sa.Column("until_s", sa.Double(), nullable=False),
        sa.Column("price", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_loan"),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name="fk_loan_job"),
        sa.ForeignKeyConstraint(["service"], ["service.id"], name="fk_loan_service"),
        sa.CheckConstraint("devices > 0", name=op.f("ck_loan_devices")),
    )
    for column in ("job", "service"):
        op.create_index(f"ix_loan_{column}", "loan", [column])


def _what_routers_say() -> None:
    op.create_table(
        "router",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("heard_s", sa.Double(), nullable=False),
        sa.Column("leaving", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_router"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "service_load",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _service(),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("router", sa.Text(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("span_s", sa.Double(), nullable=False),
        sa.Column("arrivals", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("busy_s", sa.Double(), nullable=False),
        sa.Column("queued", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_service_load"),
        sa.ForeignKeyConstraint(["service"], ["service.id"], name="fk_service_load_service"),
    )
    for column in ("service", "router"):
        op.create_index(f"ix_service_load_{column}_at_s", "service_load", [column, "at_s"])
    counts = ("arrivals", "done", "failed", "shed")
    op.create_table(
        "service_minute",
        _service(),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("router", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in counts),
        sa.Column("waits", JSONB(), nullable=False),
        sa.Column("latencies", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint(
            "service", "revision", "minute", "router", name="pk_service_minute"
        ),
        sa.ForeignKeyConstraint(["service"], ["service.id"], name="fk_service_minute_service"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index("ix_service_minute_router_minute", "service_minute", ["router", "minute"])
    op.create_table(
        "routing",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_routing"),
    )


def downgrade() -> None:
    for table in (
        *("loan", "routing", "service_minute", "service_load", "router", "service_event"),
        "service",
    ):
        op.drop_table(table)
    op.execute("DELETE FROM token WHERE role = 'router'")
    _roles(_ROLES)


def _service() -> sa.Column[str]:
    return sa.Column("service", sa.Text(), nullable=False)


def _roles(names: str) -> None:
    op.drop_constraint(op.f("ck_token_role"), "token")
    op.create_check_constraint(op.f("ck_token_role"), "token", f"role IN ({names})")
