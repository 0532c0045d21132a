"""Every table, in one place. Only store, applier, outbox, loops' lease and auth may import this.

Hot and cold are apart: `job` never changes after submit, `job_state` changes at every step and is
narrow. Times are seconds since the epoch, in columns that end in `_s`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import UserDefinedType

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class TransactionId(UserDefinedType[str]):
    """xid8: the number of a transaction, never reused. As text outside of the database."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "XID8"


def _text(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def _int(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def _time(name: str, *, null: bool = False) -> Column[float]:
    return Column(name, Double, nullable=null)


region = Table("region", metadata, Column("id", Text, primary_key=True))

cluster = Table(
    "cluster",
    metadata,
    Column("id", Text, primary_key=True),
    Column("region", ForeignKey("region.id"), nullable=False),
)

node = Table(
    "node",
    metadata,
    Column("id", Text, primary_key=True),
    Column("region", ForeignKey("region.id"), nullable=False),
    Column("cluster", ForeignKey("cluster.id"), nullable=False),
    _text("device"),
    _int("devices"),
    _int("used"),
    _int("duty"),
    Column("lost", Boolean, nullable=False),
    _time("heard_s"),
    _int("epoch"),
    _int("seq"),
    _text("address"),
    _time("known_s"),
    _int("failures"),
    _text("rack"),
    CheckConstraint("devices > 0", "devices"),
    CheckConstraint("used BETWEEN 0 AND devices", "used_within_devices"),
    postgresql_with={"fillfactor": 70},
)

device = Table(
    "device",
    metadata,
    Column("node", ForeignKey("node.id"), primary_key=True),
    Column("index", Integer, primary_key=True),
    _text("kind"),
    CheckConstraint('"index" >= 0', "index"),
)

# `held` are its jobs' devices by kind since `at_s`, `device_s` what was used until then (Usage).
project = Table(
    "project",
    metadata,
    Column("id", Text, primary_key=True),
    _time("created_at_s"),
    _text("parent"),
    Column("weight", Double, nullable=False),
    Column("held", JSONB, nullable=False),
    _time("device_s"),
    _time("at_s"),
    CheckConstraint("weight > 0", "weight"),
)

allotment = Table(
    "allotment",
    metadata,
    Column("project", ForeignKey("project.id"), primary_key=True),
    Column("kind", Text, primary_key=True),
    _int("guaranteed"),
    Column("borrow", Integer, nullable=True),
    Column("lend", Integer, nullable=True),
    CheckConstraint("guaranteed >= 0 AND borrow >= 0 AND lend BETWEEN 0 AND guaranteed", "counts"),
)

token = Table(
    "token",
    metadata,
    Column("id", Text, primary_key=True),
    _text("hash"),
    _text("role"),
    _text("name"),
    _text("project", null=True),
    _text("node", null=True),
    _time("created_at_s"),
    _time("expires_at_s", null=True),
    _time("revoked_at_s", null=True),
    CheckConstraint("role IN ('viewer', 'submitter', 'operator', 'admin', 'agent')", "role"),
    CheckConstraint("(role = 'agent') = (node IS NOT NULL)", "node_of_agent"),
)

job = Table(
    "job",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", ForeignKey("project.id"), nullable=False),
    _text("name"),
    _text("kind"),
    _int("tier"),
    Column("spec", JSONB, nullable=False),
    _time("submitted_at_s"),
    _text("idempotency_key", null=True),
    _text("body_digest", null=True),
    UniqueConstraint("project", "idempotency_key"),
    Index(None, "project", "id"),
    Index(None, "project", "name"),
    CheckConstraint("tier BETWEEN 0 AND 2", "tier"),
)

job_state = Table(
    "job_state",
    metadata,
    Column("id", ForeignKey("job.id"), primary_key=True),
    _text("state"),
    _int("version"),
    _int("incarnation"),
    _int("events"),
    Column("body", JSONB, nullable=False),
    Index(None, "state", postgresql_where="state NOT IN ('succeeded', 'failed', 'cancelled')"),
    CheckConstraint("version >= 0 AND incarnation >= 0", "counters"),
    postgresql_with={"fillfactor": 60},
)

shard = Table(
    "shard",
    metadata,
    Column("job", ForeignKey("job.id"), primary_key=True),
    Column("node", ForeignKey("node.id"), primary_key=True),
    _int("devices"),
    Index(None, "node"),
    CheckConstraint("devices > 0", "devices"),
)

incarnation = Table(
    "incarnation",
    metadata,
    Column("job", ForeignKey("job.id"), primary_key=True),
    Column("incarnation", Integer, primary_key=True),
    _text("region"),
    _text("cluster"),
    Column("nodes", JSONB, nullable=False),
    _int("devices"),
    _int("step_from"),
    Column("step_to", Integer),
    _time("placed_at_s"),
    _time("running_at_s", null=True),
    _time("ended_at_s", null=True),
    _text("reason"),
    _text("end", null=True),
    _time("lost_s", null=True),
    Column("seconds", JSONB, nullable=False),
    Column("resizes", JSONB, nullable=False),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("job", ForeignKey("job.id"), primary_key=True),
    Column("incarnation", Integer, primary_key=True),
    Column("cut", Integer, primary_key=True),
    _int("step"),
    _time("at_s"),
    Column("shards", JSONB, nullable=False),
    Column("raw_bytes", BigInteger, nullable=False),
    Column("new_bytes", BigInteger, nullable=False),
    Column("counts", Boolean, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job", ForeignKey("job.id"), nullable=False),
    _int("seq"),
    _time("at_s"),
    _text("event"),
    _text("before"),
    _text("after"),
    _text("reason"),
    _int("incarnation"),
    _text("node", null=True),
    Column("facts", JSONB, nullable=False),
    UniqueConstraint("job", "seq"),
)

node_log = Table(
    "node_log",
    metadata,
    Column("node", ForeignKey("node.id"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("body", JSONB, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("node", Text, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("seq", Integer, primary_key=True),
    _time("due_at_s"),
    _int("attempts"),
    Index(None, "due_at_s"),
)

drain = Table(
    "drain",
    metadata,
    Column("id", Text, primary_key=True),
    _text("scope_kind"),
    _text("scope"),
    _text("actor"),
    _time("at_s"),
    _time("ended_at_s", null=True),
    _text("leaving"),
    _time("deadline_s", null=True),
    Column("moves_most", Integer, nullable=True),
    Column("paused", Boolean, nullable=False),
    _text("reason"),
    Column("jobs", JSONB, nullable=False),
    CheckConstraint("scope_kind IN ('region', 'cluster', 'node')", "scope_kind"),
)

acknowledgement = Table(
    "acknowledgement",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _text("actor"),
    _time("at_s"),
)

# When a life of a job was expected to begin.
estimate = Table(
    "estimate",
    metadata,
    Column("job", ForeignKey("job.id"), primary_key=True),
    Column("incarnation", Integer, primary_key=True),
    _time("made_at_s"),
    _time("p50_at_s"),
    _time("p90_at_s"),
    Index(None, "made_at_s"),
)

# Of one device for an hour: money, and grams of carbon dioxide.
tariff = Table(
    "tariff",
    metadata,
    Column("scope_kind", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("cost", Double, nullable=False),
    Column("carbon_g", Double, nullable=False),
    CheckConstraint("scope_kind IN ('region', 'cluster')", "scope_kind"),
    CheckConstraint("cost >= 0 AND carbon_g >= 0", "amounts"),
)

lease = Table(
    "lease",
    metadata,
    Column("name", Text, primary_key=True),
    _text("holder"),
    Column("epoch", BigInteger, nullable=False),
    _time("expires_at_s"),
)

inventory = Table(
    "inventory",
    metadata,
    Column("node", ForeignKey("node.id"), primary_key=True),
    Column("devices", JSONB, nullable=False),
    _time("seen_s"),
)

# By a trigger: the transaction that last wrote a row of job_state, or of node what is more than a
# heartbeat. Whoever has seen all before some transaction reads what is not older (following.py).
change = Table(
    "change",
    metadata,
    Column("what", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("by", TransactionId, nullable=False),
    Index(None, "what", "by"),
    postgresql_with={"fillfactor": 70},
)
