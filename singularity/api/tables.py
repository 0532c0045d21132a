"""Every table, in one place. pyproject.toml says who may import this.

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
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import UserDefinedType

_ENDED = "('succeeded', 'failed', 'cancelled')"
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


def text_(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def int_(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def time_(name: str, *, null: bool = False) -> Column[float]:
    return Column(name, Double, nullable=null)


def number_() -> Column[int]:
    return Column("id", BigInteger, Identity(always=True), primary_key=True)


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
    text_("device"),
    int_("devices"),
    int_("used"),
    int_("duty"),
    Column("lost", Boolean, nullable=False),
    time_("heard_s"),
    int_("epoch"),
    int_("seq"),
    text_("address"),
    time_("known_s"),
    int_("failures"),
    text_("rack"),
    Column("health", JSONB, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("preempts", Boolean, nullable=False),
    Column("whole", Boolean, nullable=False),
    # Of each device given out in shares: its number, and what is taken of it.
    Column("part_index", ARRAY(Integer), nullable=False),
    Column("part_milli", ARRAY(Integer), nullable=False),
    Column("part_bytes", ARRAY(BigInteger), nullable=False),
    CheckConstraint("devices > 0", "devices"),
    CheckConstraint("used BETWEEN 0 AND devices", "used_within_devices"),
    CheckConstraint("cardinality(part_index) <= used AND devices > ALL (part_index)", "parts"),
    CheckConstraint("0 < ALL (part_milli) AND 1000 >= ALL (part_milli)", "compute_of_parts"),
    CheckConstraint("0 < ALL (part_bytes) AND memory_bytes >= ALL (part_bytes)", "memory_of_parts"),
    postgresql_with={"fillfactor": 70},
)

device = Table(
    "device",
    metadata,
    Column("node", ForeignKey("node.id"), primary_key=True),
    Column("index", Integer, primary_key=True),
    text_("kind"),
    CheckConstraint('"index" >= 0', "index"),
)

# `held` are its jobs' devices by kind since `at_s`, `device_s` what was used until then (Usage).
project = Table(
    "project",
    metadata,
    Column("id", Text, primary_key=True),
    time_("created_at_s"),
    text_("parent"),
    Column("weight", Double, nullable=False),
    Column("held", JSONB, nullable=False),
    time_("device_s"),
    time_("at_s"),
    CheckConstraint("weight > 0", "weight"),
)

allotment = Table(
    "allotment",
    metadata,
    Column("project", ForeignKey("project.id"), primary_key=True),
    Column("kind", Text, primary_key=True),
    int_("guaranteed"),
    Column("borrow", Integer, nullable=True),
    Column("lend", Integer, nullable=True),
    CheckConstraint("guaranteed >= 0 AND borrow >= 0 AND lend BETWEEN 0 AND guaranteed", "counts"),
)

token = Table(
    "token",
    metadata,
    Column("id", Text, primary_key=True),
    text_("hash"),
    text_("role"),
    text_("name"),
    text_("project", null=True),
    text_("node", null=True),
    time_("created_at_s"),
    time_("expires_at_s", null=True),
    time_("revoked_at_s", null=True),
    CheckConstraint(
        "role IN ('viewer', 'submitter', 'operator', 'admin', 'agent', 'router')", "role"
    ),
    CheckConstraint("(role = 'agent') = (node IS NOT NULL)", "node_of_agent"),
)

job = Table(
    "job",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", ForeignKey("project.id"), nullable=False),
    text_("name"),
    text_("kind"),
    int_("tier"),
    Column("spec", JSONB, nullable=False),
    time_("submitted_at_s"),
    text_("idempotency_key", null=True),
    text_("body_digest", null=True),
    UniqueConstraint("project", "idempotency_key"),
    Index(None, "project", "id"),
    Index(None, "project", "name"),
    Index(None, "kind", "id", postgresql_where="kind IN ('serve', 'verify')"),
    CheckConstraint("tier BETWEEN 0 AND 2", "tier"),
)

job_state = Table(
    "job_state",
    metadata,
    Column("id", ForeignKey("job.id"), primary_key=True),
    text_("state"),
    int_("version"),
    int_("incarnation"),
    int_("events"),
    Column("body", JSONB, nullable=False),
    Index(None, "state", postgresql_where=f"state NOT IN {_ENDED}"),
    Index("ix_job_state_ended", "state", postgresql_where=f"state IN {_ENDED}"),
    CheckConstraint("version >= 0 AND incarnation >= 0", "counters"),
    postgresql_with={"fillfactor": 60},
)

shard = Table(
    "shard",
    metadata,
    Column("job", Text, primary_key=True),
    Column("node", Text, primary_key=True),
    int_("devices"),
    Column("shares", ARRAY(Integer), nullable=False),  # which devices, where it shares them
    Index(None, "node"),
    CheckConstraint("devices > 0", "devices"),
)

incarnation = Table(
    "incarnation",
    metadata,
    Column("job", Text, primary_key=True),
    Column("incarnation", Integer, primary_key=True),
    text_("region"),
    text_("cluster"),
    Column("nodes", JSONB, nullable=False),
    int_("devices"),
    int_("step_from"),
    Column("step_to", Integer),
    time_("placed_at_s"),
    time_("running_at_s", null=True),
    time_("ended_at_s", null=True),
    text_("reason"),
    text_("end", null=True),
    time_("lost_s", null=True),
    Column("seconds", JSONB, nullable=False),
    Column("resizes", JSONB, nullable=False),
    Index("ix_incarnation_lost", "job", postgresql_where="lost_s > 0"),
    Index("ix_incarnation_open", "job", postgresql_where="ended_at_s IS NULL"),
)

forgotten = Table("forgotten", metadata, time_("lost_device_s"))  # one row: no counter goes back

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("job", ForeignKey("job.id"), primary_key=True),
    Column("incarnation", Integer, primary_key=True),
    Column("cut", Integer, primary_key=True),
    int_("step"),
    time_("at_s"),
    Column("shards", JSONB, nullable=False),
    Column("raw_bytes", BigInteger, nullable=False),
    Column("new_bytes", BigInteger, nullable=False),
    Column("counts", Boolean, nullable=False),
)

event = Table(
    "event",
    metadata,
    number_(),
    text_("job"),
    int_("seq"),
    time_("at_s"),
    text_("event"),
    text_("before"),
    text_("after"),
    text_("reason"),
    int_("incarnation"),
    text_("node", null=True),
    Column("facts", JSONB, nullable=False),
    UniqueConstraint("job", "seq"),
)

node_log = Table(
    "node_log",
    metadata,
    Column("node", Text, primary_key=True),
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
    time_("due_at_s"),
    int_("attempts"),
    Index(None, "due_at_s"),
)

drain = Table(
    "drain",
    metadata,
    Column("id", Text, primary_key=True),
    text_("scope_kind"),
    text_("scope"),
    text_("actor"),
    time_("at_s"),
    time_("ended_at_s", null=True),
    text_("leaving"),
    time_("deadline_s", null=True),
    Column("moves_most", Integer, nullable=True),
    Column("paused", Boolean, nullable=False),
    text_("reason"),
    Column("jobs", JSONB, nullable=False),
    Column("bytes_per_s", Double, nullable=True),
    time_("next_move_s"),
    time_("until_s", null=True),
    text_("upkeep"),
    Column("cordoned", JSONB, nullable=False),
    CheckConstraint("scope_kind IN ('region', 'cluster', 'node')", "scope_kind"),
)

maintenance = Table(
    "maintenance",
    metadata,
    Column("id", Text, primary_key=True),
    text_("scope_kind"),
    text_("scope"),
    text_("every"),
    time_("length_s"),
    text_("leaving"),
    Column("moves_most", Integer, nullable=True),
    Column("bytes_per_s", Double, nullable=True),
    time_("done_s"),
    time_("dropped_at_s", null=True),
    CheckConstraint("scope_kind IN ('region', 'cluster', 'node')", "scope_kind"),
    CheckConstraint("length_s > 0", "length"),
)

rebalancing = Table(
    "rebalancing",
    metadata,
    Column("id", Text, primary_key=True),
    time_("at_s"),
    time_("until_s"),
    text_("scope_kind", null=True),
    text_("scope", null=True),
    time_("ended_at_s", null=True),
)

# What operators, and the plane in their place, did: to what, why, how it was and what it is since.
operation = Table(
    "operation",
    metadata,
    number_(),
    time_("at_s"),
    text_("actor"),
    text_("verb"),
    text_("target"),
    text_("reason"),
    Column("before", JSONB, nullable=False),
    Column("after", JSONB, nullable=False),
    Column("undoes", ForeignKey("operation.id"), nullable=True, unique=True),
    Index(None, "target", "id"),
)

acknowledgement = Table("acknowledgement", metadata, number_(), text_("actor"), time_("at_s"))

# When a life of a job was expected to begin.
estimate = Table(
    "estimate",
    metadata,
    Column("job", ForeignKey("job.id"), primary_key=True),
    Column("incarnation", Integer, primary_key=True),
    time_("made_at_s"),
    time_("p50_at_s"),
    time_("p90_at_s"),
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
    text_("holder"),
    Column("epoch", BigInteger, nullable=False),
    time_("expires_at_s"),
)

inventory = Table(
    "inventory",
    metadata,
    Column("node", ForeignKey("node.id"), primary_key=True),
    Column("devices", JSONB, nullable=False),
    time_("seen_s"),
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
