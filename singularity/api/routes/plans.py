"""/v1/plans: what would be if jobs came, places went, quotas or devices grew. Nothing is done."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field, StringConstraints

from singularity.api.auth import Caller
from singularity.api.documents import Document
from singularity.api.intake import Measure, entries
from singularity.api.nouns import Foreseen
from singularity.api.schemas import read_job
from singularity.api.services import Heavy, Serving, Viewer
from singularity.api.views import Json
from singularity.primitives.errors import Forbidden, InvalidSpec
from singularity.primitives.model import Job
from singularity.scheduler.whatif import Changes, Effect, Outcome, Scorecard, compare

router = APIRouter(prefix="/v1", tags=["plans"])
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class PlanRequest(Document):
    """`jobs` are job documents; `without` places as in region/eu; `quotas` say how many devices a
    project is guaranteed more, as +4 or +4:h200; `devices` are new ones, as +8:h200@us-1."""

    jobs: tuple[dict[str, Any], ...] = Field(default=(), max_length=100)
    without: tuple[Text, ...] = Field(default=(), max_length=100)
    quotas: dict[Text, Text] = Field(default_factory=dict, max_length=100)
    devices: tuple[Text, ...] = Field(default=(), max_length=100)


@router.post("/plans")
def plan(body: PlanRequest, who: Viewer, serving: Serving, _: Heavy) -> Foreseen:
    """Decides on a copy of the live state, with the changes and without, until nothing moves any
    more, and tells what differs."""
    if not (body.jobs or body.without or body.quotas or body.devices):
        raise InvalidSpec("say what changes: jobs, without, quotas or devices")
    now_s, measure = serving.clock.now_s(), Measure()
    changes = Changes(
        jobs=tuple(job for document in body.jobs for job in _jobs(document, who, now_s, measure)),
        without=tuple(serving.store.scope(text) for text in body.without),
        quotas=tuple(sorted(body.quotas.items())),
        devices=body.devices,
    )
    found = compare(serving.ledger.snapshot(now_s), changes, serving.settings.policy())
    return _view(found, who)


def _jobs(body: dict[str, Any], who: Caller, now_s: float, measure: Measure) -> list[Job]:
    """As they would be submitted; whatever they wait for has ended well."""
    if who.project is not None:
        body = {"project": who.project, **body}
    document = read_job({**body, "after": ()})
    if not who.sees(document.project):
        raise Forbidden(f"the token is for project {who.project}, not {document.project}")
    measure.add(document.array or 1, body)
    new = [job for job, _ in entries(document, (), None, body, now_s)]
    return [job for job in new if job.spec.aside is None]


def _view(found: Outcome, who: Caller) -> Json:
    """Of jobs that the caller may not see only how many there are."""
    seen = [e for e in found.effects if who.sees(e.job.spec.project)]
    return {
        "changed": found.changed,
        "effects": [_effect(e) for e in seen],
        "others": len(found.effects) - len(seen),
        "before": _score(found.before),
        "after": _score(found.after),
        "paid_device_s": found.paid,
    }


def _effect(found: Effect) -> Json:
    return {
        "job": found.job.id,
        "name": found.job.spec.name,
        "project": found.job.spec.project,
        "tier": found.job.tier.name.lower(),
        "what": found.what,
        "before": found.before,
        "after": found.after,
        "reason": found.reason,
    }


def _score(found: Scorecard) -> Json:
    return {
        "devices": found.devices,
        "used": found.used,
        "utilisation": found.utilisation,
        "running": found.running,
        "waiting": found.waiting,
        "waiting_devices": found.wanted,
        "short": dict(found.short),
    }
