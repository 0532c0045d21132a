"""/v1/jobs: submit, look, steer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query
from pydantic import BaseModel, ConfigDict, Field

from singularity.api.auth import Caller
from singularity.api.intake import Capacity, check_key, entries
from singularity.api.schemas import JobDocument, read_job, schema
from singularity.api.services import Paged, Services, Serving, Submitter, Viewer
from singularity.api.store import Filter
from singularity.api.views import Json, sharing_reasons
from singularity.primitives import engines
from singularity.primitives.errors import Forbidden, IllegalTransition, InvalidSpec, NotFound
from singularity.primitives.model import (
    ACTIVE,
    TERMINAL,
    WAITING,
    Engine,
    Intent,
    Job,
    JobId,
    JobState,
)
from singularity.scheduler.advice import advise
from singularity.scheduler.decide import decide
from singularity.scheduler.explain import explain

router = APIRouter(prefix="/v1", tags=["jobs"])


class Move(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    to: str | None = Field(max_length=200)


class Resize(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    devices: int = Field(ge=1, le=100_000)


@router.get("/schema/job")
def job_schema(_: Viewer) -> Json:
    return schema()


@router.post("/jobs", status_code=202)
def submit(
    body: Annotated[dict[str, Any], Body()],
    who: Submitter,
    serving: Serving,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Json:
    """Durable when answered. The same key and body again give the same job again."""
    key = check_key(idempotency_key)
    if who.project is not None:
        body = {"project": who.project, **body}
    document = read_job(body)
    if not who.sees(document.project):
        raise Forbidden(f"the token is for project {who.project}, not {document.project}")
    after = _predecessors(document, who, serving)
    new = entries(document, after, key, body, serving.clock.now_s())
    serving.gauge.must_fit(new[0][0])
    count = document.array or 1  # what verifies them comes after them
    jobs, ids = [job for job, _ in new[:count]], serving.intake.submit(new)[:count]
    fresh = ids == [job.id for job in jobs]
    views = serving.store.shown(jobs) if fresh else serving.store.views(ids)
    return views[0] if document.array is None else {"items": views, "next": None}


def _predecessors(document: JobDocument, who: Caller, serving: Services) -> list[JobId]:
    """The jobs that must have succeeded first. Raises NotFound, InvalidSpec."""
    found = []
    for name in document.after:
        job = serving.store.find(who, name)
        if job.spec.project != document.project:
            raise NotFound(f"after: there is no job {name!r} in project {document.project}")
        if job.state in (JobState.FAILED, JobState.CANCELLED):
            raise InvalidSpec(f"after: {name} has {job.state}; this job could never start")
        found.append(job.id)
    return found


@router.get("/jobs")
def jobs(
    who: Viewer,
    serving: Serving,
    page: Paged,
    state: Annotated[str | None, Query(max_length=200)] = None,
    project: Annotated[str | None, Query(max_length=64)] = None,
    tier: Annotated[str | None, Query(max_length=64)] = None,
) -> Json:
    return serving.store.jobs(who, Filter(state, project, tier), page)


@router.get("/jobs/{job}")
def one_job(job: str, who: Viewer, serving: Serving) -> Json:
    found = serving.store.find(who, job)
    view = serving.store.view(found)
    if found.spec.share is not None:
        view["sharing"] = serving.inventory.sharing(found)
    return view


@router.get("/jobs/{job}/why")
def why(job: str, who: Viewer, serving: Serving) -> Json:
    """Decides on the present state, carries out nothing, and tells what it found."""
    found = serving.store.find(who, job)
    snapshot, policy = serving.ledger.snapshot(serving.clock.now_s()), serving.settings.policy()
    found = snapshot.by_id.get(found.id, found)
    plan, eta = decide(snapshot, policy), None
    if found.state in WAITING:
        eta = serving.estimates.of(snapshot, found.id, policy)
    reasons = explain(snapshot, plan, found, policy).reasons
    return {
        "state": str(found.state),
        "placed": found.state in ACTIVE,
        "reasons": [
            *({"kind": r.kind, "detail": r.detail} for r in reasons),
            *sharing_reasons(serving.inventory.sharing(found)),
        ],
        "changes": [asdict(c) for c in advise(snapshot, plan, found, policy, eta)],
        "eta": asdict(eta) if eta else None,
        "calibration": asdict(serving.estimates.calibration(snapshot.now_s)) if eta else None,
    }


@router.get("/jobs/{job}/incarnations")
def incarnations(job: str, who: Viewer, serving: Serving, page: Paged) -> Json:
    return serving.store.incarnations(serving.store.find(who, job), page)


@router.get("/jobs/{job}/checkpoints")
def checkpoints(job: str, who: Viewer, serving: Serving, page: Paged) -> Json:
    return serving.store.checkpoints(serving.store.find(who, job), page.limit)


@router.post("/jobs/{job}/checkpoints", status_code=202)
def take_checkpoint(job: str, who: Submitter, serving: Serving) -> Json:
    """Take one now; the job goes on running."""
    found = _own_master(serving.store.find(who, job))
    if found.state is not JobState.RUNNING:
        raise IllegalTransition(
            f"{found.spec.name} is {found.state}; only a running job can be checkpointed",
            job=found.id,
            state=found.state,
        )
    if engines.next_up(found) is Engine.RESTART:
        raise IllegalTransition(
            f"nothing of {found.spec.name} can be kept: its engine is {engines.label(found)}",
            job=found.id,
            engine=Engine.RESTART,
        )
    return _changed(serving, serving.ledger.request_checkpoint(found.id, serving.clock.now_s()))


@router.post("/jobs/{job}/suspend", status_code=202)
def suspend(job: str, who: Submitter, serving: Serving) -> Json:
    """Checkpoint, give the devices back, and wait for resume."""
    return _intend(serving, _own_master(serving.store.find(who, job)), Intent.HOLD)


@router.post("/jobs/{job}/resume", status_code=202)
def resume(job: str, who: Submitter, serving: Serving) -> Json:
    return _intend(serving, _no_replica(serving.store.find(who, job)), Intent.RUN)


@router.post("/jobs/{job}/cancel", status_code=202)
def cancel(job: str, who: Submitter, serving: Serving) -> Json:
    found = _no_replica(serving.store.find(who, job))
    if found.state is JobState.CANCELLED or found.intent is Intent.CANCEL:
        return serving.store.view(found)
    return _intend(serving, found, Intent.CANCEL)


@router.post("/jobs/{job}/move", status_code=202)
def move(job: str, body: Move, who: Submitter, serving: Serving) -> Json:
    """Confine the job to a place, which moves it there; null lets it go anywhere again."""
    found = _own_master(_living(serving.store.find(who, job)))
    scope = None if body.to is None else serving.store.scope(body.to)
    if scope is not None:
        there = [n for n in serving.store.fleet() if scope.holds(n)]
        Capacity.of(there).must_fit(found)
    return _changed(serving, serving.ledger.confine(found.id, scope, serving.clock.now_s()))


@router.post("/jobs/{job}/resize", status_code=202)
def resize(job: str, body: Resize, who: Submitter, serving: Serving) -> Json:
    found = _own_master(_living(serving.store.find(who, job)))
    spec, devices = found.spec, body.devices
    if not spec.devices_min <= devices <= spec.devices_max:
        raise InvalidSpec(
            f"{spec.name} may hold {spec.devices_min} to {spec.devices_max} devices; "
            "elastic in its spec says how many",
            min=spec.devices_min,
            max=spec.devices_max,
        )
    if devices > spec.ranks and devices % spec.ranks:
        raise InvalidSpec(f"{devices} devices cannot be divided among {spec.ranks} ranks")
    return _changed(serving, serving.ledger.resize(found.id, devices, serving.clock.now_s()))


def _intend(serving: Services, job: Job, intent: Intent) -> Json:
    job = _living(job)
    return _changed(serving, serving.ledger.intend(job.id, intent, serving.clock.now_s()))


def _living(job: Job) -> Job:
    """Raises IllegalTransition when the job has ended, or is being cancelled: that is for good."""
    if job.state in TERMINAL or job.intent is Intent.CANCEL:
        state = job.state if job.state in TERMINAL else "being cancelled"
        raise IllegalTransition(
            f"{job.spec.name} is {state}; submit it again to run it once more",
            job=job.id,
            state=job.state,
        )
    return job


def _own_master(job: Job) -> Job:
    """Raises IllegalTransition for a job that verifies another: all it can be told is to end."""
    if job.spec.aside is not None:
        detail = f"{job.spec.name} verifies another job: it can be cancelled, and nothing else"
        raise IllegalTransition(detail, job=job.id, of=job.spec.aside.of)
    return _no_replica(job)


def _no_replica(job: Job) -> Job:
    """Raises IllegalTransition for a replica: what becomes of it is said by its service."""
    if job.spec.serving is None:
        return job
    service = job.spec.serving.service
    raise IllegalTransition(
        f"{job.spec.name} is a replica of a service; scale, update or stop that: "
        f"singularity service {service}",
        job=job.id,
        service=service,
    )


def _changed(serving: Services, job: Job) -> Json:
    serving.waker.wake()
    return serving.store.view(job)
