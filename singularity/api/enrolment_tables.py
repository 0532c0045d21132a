"""The tables of who may join, and of who has. As tables.py."""

from __future__ import annotations

from sqlalchemy import Column, Table, Text

from .tables import int_, metadata, text_, time_

# By which one node joins, once.
ticket = Table(
    "ticket",
    metadata,
    Column("id", Text, primary_key=True),
    text_("hash"),
    text_("node", null=True),
    text_("actor"),
    time_("created_at_s"),
    time_("expires_at_s"),
    time_("used_at_s", null=True),
    text_("used_by", null=True),
)

# `generation` counts the credentials that a node was given; barred, only a ticket lets it in.
enrolment = Table(
    "enrolment",
    metadata,
    Column("node", Text, primary_key=True),
    int_("generation"),
    time_("barred_at_s", null=True),
)
