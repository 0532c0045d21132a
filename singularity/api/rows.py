"""Rows and nouns: how jobs and nodes are kept. Pure.

What has the value that it has unless something else is said is left out of a job's JSON: most has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pydantic import TypeAdapter

from singularity.primitives.health import WELL, Health
from singularity.primitives.holdings import holdings, spots
from singularity.primitives.messages import Envelope
from singularity.primitives.model import Checkpoint, Job, JobId, JobSpec
from singularity.primitives.nodes import Duty, Node
from singularity.primitives.sharing import Part

from .bulk import Json, Raw

_JOB, _SPEC = TypeAdapter(Job), TypeAdapter(JobSpec)
_SHARDS, _HEALTH = TypeAdapter(Checkpoint), TypeAdapter(Health)
_PART = tuple(f.name for f in fields(Part))
_OF_NODE = tuple(f.name for f in fields(Node) if f.name != "parts")
_PARTS = ("part_index", "part_milli", "part_bytes")  # a column for each field of a Part


@dataclass(frozen=True, slots=True)
class Submission:
    """What came with a submit: retried requests are told from new ones by `key` and `digest`."""

    key: str | None = None
    digest: str | None = None


def job_of(body: str, spec: str) -> Job:
    """Both are JSON, and parsed as one: taken apart first, it would be twice as long."""
    return _JOB.validate_json(f'{{"spec":{spec},{body.lstrip()[1:]}')


def node_of(row: Mapping[Any, Any]) -> Node:
    health = _HEALTH.validate_python(row["health"]) if row["health"] else WELL
    found = {**row, "duty": Duty(row["duty"]), "health": health}
    parts = tuple(map(Part, *(found.pop(column) for column in _PARTS)))
    return Node(**found, parts=parts)


def spec_to_json(spec: JobSpec) -> Json:
    """All of it, as clients see it."""
    found: Json = _SPEC.dump_python(spec, mode="json")
    return found


def node_row(node: Node) -> Json:
    row = {name: getattr(node, name) for name in _OF_NODE}
    row["duty"] = int(node.duty)
    row["health"] = _HEALTH.dump_python(node.health, mode="json", exclude_defaults=True)
    for column, name in zip(_PARTS, _PART, strict=True):
        row[column] = [getattr(part, name) for part in node.parts]
    return row


def held_rows(job: Job) -> list[Json]:
    """Rows of `shard`: devices as a whole, and those of which it has a share."""
    whole, shared = holdings(job), spots(job)
    return [
        {
            "job": job.id,
            "node": node,
            "devices": whole[node] or len(shared[node]),
            "shares": sorted(shared.get(node, ())),
        }
        for node in sorted(whole.keys() | shared.keys())
    ]


def state_row(job: Job, events: int) -> Json:
    body = _JOB.dump_json(job, exclude={"spec"}, exclude_defaults=True)
    return {
        "id": job.id,
        "state": str(job.state),
        "version": job.version,
        "incarnation": job.incarnation,
        "events": events,
        "body": Raw(body, "utf-8"),
    }


def job_row(job: Job, submission: Submission) -> Json:
    return {
        "id": job.id,
        "project": job.spec.project,
        "name": job.spec.name,
        "kind": str(job.spec.kind),
        "tier": int(job.spec.tier),
        "spec": Raw(_SPEC.dump_json(job.spec, exclude_defaults=True), "utf-8"),
        "submitted_at_s": job.submitted_at_s,
        "idempotency_key": submission.key,
        "body_digest": submission.digest,
    }


def place_of(letter: Envelope) -> Json:
    return {"node": letter.node, "epoch": letter.epoch, "seq": letter.seq}


def letter_row(letter: Envelope) -> Json:
    return {**place_of(letter), "body": Raw(letter.model_dump_json(exclude_none=True))}


def checkpoint_row(job: JobId, made: Checkpoint) -> Json:
    return {
        "job": job,
        "incarnation": made.incarnation,
        "cut": made.cut,
        "step": made.step,
        "at_s": made.at_s,
        "shards": _SHARDS.dump_python(made, mode="json")["shards"],
        "raw_bytes": sum(i.raw_bytes for i in made.shards),
        "new_bytes": sum(i.new_bytes for i in made.shards),
        "counts": True,
    }
