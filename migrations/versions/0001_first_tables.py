"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "drain",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("scope_kind", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("ended_at_s", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "scope_kind IN ('region', 'cluster', 'node')", name=op.f("ck_drain_scope_kind")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drain")),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "outbox",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("due_at_s", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("node", "epoch", "seq", name=op.f("pk_outbox")),
    )
    op.create_index(op.f("ix_outbox_due_at_s"), "outbox", ["due_at_s"], unique=False)
    op.create_table(
        "project",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_project")),
    )
    op.create_table(
        "region",
        sa.Column("id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_region")),
    )
    op.create_table(
        "token",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=True),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.Column("expires_at_s", sa.Double(), nullable=True),
        sa.Column("revoked_at_s", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "(role = 'agent') = (node IS NOT NULL)", name=op.f("ck_token_node_of_agent")
        ),
        sa.CheckConstraint(
            "role IN ('viewer', 'submitter', 'operator', 'admin', 'agent')",
            name=op.f("ck_token_role"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
    )
    op.create_table(
        "cluster",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["region"], ["region.id"], name=op.f("fk_cluster_region")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cluster")),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("tier", sa.Integer(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("submitted_at_s", sa.Double(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("body_digest", sa.Text(), nullable=True),
        sa.CheckConstraint("tier BETWEEN 0 AND 2", name=op.f("ck_job_tier")),
        sa.ForeignKeyConstraint(["project"], ["project.id"], name=op.f("fk_job_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint(
            "project", "idempotency_key", name=op.f("uq_job_project_idempotency_key")
        ),
    )
    op.create_index(op.f("ix_job_project_id"), "job", ["project", "id"], unique=False)
    op.create_index(op.f("ix_job_project_name"), "job", ["project", "name"], unique=False)
    op.create_table(
        "checkpoint",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("cut", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("shards", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("raw_bytes", sa.BigInteger(), nullable=False),
        sa.Column("new_bytes", sa.BigInteger(), nullable=False),
        sa.Column("counts", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("fk_checkpoint_job")),
        sa.PrimaryKeyConstraint("job", "incarnation", "cut", name=op.f("pk_checkpoint")),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("fk_event_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
        sa.UniqueConstraint("job", "seq", name=op.f("uq_event_job_seq")),
    )
    op.create_table(
        "incarnation",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("nodes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("step_from", sa.Integer(), nullable=False),
        sa.Column("step_to", sa.Integer(), nullable=True),
        sa.Column("placed_at_s", sa.Double(), nullable=False),
        sa.Column("running_at_s", sa.Double(), nullable=True),
        sa.Column("ended_at_s", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("end", sa.Text(), nullable=True),
        sa.Column("lost_s", sa.Double(), nullable=True),
        sa.Column("seconds", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("resizes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("fk_incarnation_job")),
        sa.PrimaryKeyConstraint("job", "incarnation", name=op.f("pk_incarnation")),
    )
    op.create_table(
        "job_state",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint("version >= 0 AND incarnation >= 0", name=op.f("ck_job_state_counters")),
        sa.ForeignKeyConstraint(["id"], ["job.id"], name=op.f("fk_job_state_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_state")),
        postgresql_with={"fillfactor": 60},
    )
    op.create_index(
        op.f("ix_job_state_state"),
        "job_state",
        ["state"],
        unique=False,
        postgresql_where="state NOT IN ('succeeded', 'failed', 'cancelled')",
    )
    op.create_table(
        "node",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("duty", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Boolean(), nullable=False),
        sa.Column("heard_s", sa.Double(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.CheckConstraint("devices > 0", name=op.f("ck_node_devices")),
        sa.CheckConstraint("used BETWEEN 0 AND devices", name=op.f("ck_node_used_within_devices")),
        sa.ForeignKeyConstraint(["cluster"], ["cluster.id"], name=op.f("fk_node_cluster")),
        sa.ForeignKeyConstraint(["region"], ["region.id"], name=op.f("fk_node_region")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_node")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "device",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.CheckConstraint('"index" >= 0', name=op.f("ck_device_index")),
        sa.ForeignKeyConstraint(["node"], ["node.id"], name=op.f("fk_device_node")),
        sa.PrimaryKeyConstraint("node", "index", name=op.f("pk_device")),
    )
    op.create_table(
        "node_log",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["node.id"], name=op.f("fk_node_log_node")),
        sa.PrimaryKeyConstraint("node", "epoch", "seq", name=op.f("pk_node_log")),
    )
    op.create_table(
        "shard",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.CheckConstraint("devices > 0", name=op.f("ck_shard_devices")),
        sa.ForeignKeyConstraint(["job"], ["job.id"], name=op.f("fk_shard_job")),
        sa.ForeignKeyConstraint(["node"], ["node.id"], name=op.f("fk_shard_node")),
        sa.PrimaryKeyConstraint("job", "node", name=op.f("pk_shard")),
    )
    op.create_index(op.f("ix_shard_node"), "shard", ["node"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_shard_node"), table_name="shard")
    op.drop_table("shard")
    op.drop_table("node_log")
    op.drop_table("device")
    op.drop_table("node")
    op.drop_index(
        op.f("ix_job_state_state"),
        table_name="job_state",
        postgresql_where="state NOT IN ('succeeded', 'failed', 'cancelled')",
    )
    op.drop_table("job_state")
    op.drop_table("incarnation")
    op.drop_table("event")
    op.drop_table("checkpoint")
    op.drop_index(op.f("ix_job_project_name"), table_name="job")
    op.drop_index(op.f("ix_job_project_id"), table_name="job")
    op.drop_table("job")
    op.drop_table("cluster")
    op.drop_table("token")
    op.drop_table("region")
    op.drop_table("project")
    op.drop_index(op.f("ix_outbox_due_at_s"), table_name="outbox")
    op.drop_table("outbox")
    op.drop_table("lease")
    op.drop_table("drain")
