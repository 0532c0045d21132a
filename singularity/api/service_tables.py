"""The tables of services, of what routers say of them, and of what they borrowed. As tables.py."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

from .tables import int_, metadata, text_, time_

service = Table(
    "service",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", ForeignKey("project.id"), nullable=False),
    text_("name"),
    Column("body", JSONB, nullable=False),
    int_("version"),
    time_("ended_at_s", null=True),
    text_("idempotency_key", null=True),
    text_("body_digest", null=True),
    UniqueConstraint("project", "idempotency_key"),
    Index(None, "project", "name", unique=True, postgresql_where="ended_at_s IS NULL"),
    postgresql_with={"fillfactor": 60},
)

service_event = Table(
    "service_event",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("service", ForeignKey("service.id"), nullable=False),
    time_("at_s"),
    text_("event"),
    text_("reason"),
    Index(None, "service", "id"),
)

router = Table(
    "router",
    metadata,
    Column("id", Text, primary_key=True),
    text_("region"),
    time_("heard_s"),
    Column("leaving", JSONB, nullable=False),
    postgresql_with={"fillfactor": 50},
)

# What routers said within the last minutes, a row a span; and counted by the minute, for longer.
service_load = Table(
    "service_load",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("service", ForeignKey("service.id"), nullable=False),
    int_("revision"),
    text_("router"),
    time_("at_s"),
    time_("span_s"),
    int_("arrivals"),
    int_("done"),
    time_("busy_s"),
    int_("queued"),
    time_("jumps"),
    Index(None, "service", "at_s"),
    Index(None, "router", "at_s"),
)

service_minute = Table(
    "service_minute",
    metadata,
    Column("service", ForeignKey("service.id"), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("minute", BigInteger, primary_key=True),
    Column("router", Text, primary_key=True),
    int_("arrivals"),
    int_("done"),
    int_("failed"),
    int_("shed"),
    Column("waits", JSONB, nullable=False),
    Column("latencies", JSONB, nullable=False),
    Index(None, "router", "minute"),
    postgresql_with={"fillfactor": 50},
)

# The number of the table that routers have been given, and what was in it.
routing = Table(
    "routing",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    text_("digest"),
)

# Loans that are over, or parts of such; what is lent now is with the job that lent it.
# Jobs that lend devices now; what they lend is in their rows.
lender = Table("lender", metadata, Column("job", ForeignKey("job.id"), primary_key=True))

loan = Table(
    "loan",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job", ForeignKey("job.id"), nullable=False),
    Column("service", ForeignKey("service.id"), nullable=False),
    int_("devices"),
    time_("since_s"),
    time_("until_s"),
    time_("price"),
    Index(None, "job"),
    Index(None, "service"),
    CheckConstraint("devices > 0", "devices"),
)
