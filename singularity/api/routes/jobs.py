"""/v1/jobs: submit, look, steer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from singularity.api.auth import Caller
from singularity.api.documents import Document
from singularity.api.intake import Capacity, Entry, Measure, check_key, entries
from singularity.api.nouns import AJob, AWhy, Checkpoints, Jobs, Lives, Outcomes, Submitted
from singularity.api.problems import document
from singularity.api.schemas import JobDocument, read_job, schema
from singularity.api.services import Heavy, Paged, Services, Serving, Submitter, Viewer
from singularity.api.store import Filter
from singularity.api.views import Json, sharing_reasons
from singularity.primitives import cuts, engines
from singularity.primitives.errors import (
    Forbidden,
    IllegalTransition,
    InvalidSpec,
    NotFound,
    SingularityError,
)
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
_SMALL_BYTES: Final = 16 * 1024  # read within half a millisecond


class Move(Document):
    to: str | None = Field(max_length=200)


class Item(Document):
    """A job document, and the Idempotency-Key that it would come with."""

    job: dict[str, Any]
    key: str | None = None


class Batch(Document):
    items: tuple[Item, ...] = Field(min_length=1, max_length=2000)


class Resize(Document):
    devices: int = Field(ge=1, le=100_000)


@router.get("/schema/job")
def job_schema(_: Viewer) -> Json:
    return schema()


@router.post("/jobs", status_code=202, response_model=Submitted)
async def submit(
    request: Request,
    body: Annotated[dict[str, Any], Body()],
    who: Submitter,
    serving: Serving,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Durable when answered. The same key and body again give the same job again."""
    asked = body, idempotency_key, who, serving
    if _small(request, body):
        new = _read(*asked, Measure())
        if not serving.gauge.fits(new.first):
            await run_in_threadpool(serving.gauge.must_fit, new.first)
    else:
        new = await run_in_threadpool(_admit, *asked, Measure())
    jobs, ids = [job for job, _ in new.asked], new.ids(await serving.intake.submitted(new.entries))
    if ids == [job.id for job in jobs] and not new.array:
        views = serving.store.shown(jobs)  # on no node: nothing is read
    else:
        views = await run_in_threadpool(serving.store.views, ids)
    return JSONResponse({"items": views, "next": None} if new.array else views[0], 202)


def _small(request: Request, body: Json) -> bool:
    """Can it be read in the event loop? What takes long, or asks the database, goes to a thread:
    for all others that would cost more than reading them."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > _SMALL_BYTES:
        return False
    return not any(body.get(key) for key in ("after", "array", "checkpoint"))


@router.post("/jobs:batch")
def submit_batch(body: Batch, who: Submitter, serving: Serving) -> Outcomes:
    """Each as by itself, in their order, and many in one transaction: of each what became of it, a
    problem or the ids. One that is wrong harms no other, and all that are right are durable when
    answered."""
    asked: list[tuple[New, Callable[[], list[JobId]]] | SingularityError] = []
    measure = Measure()
    for item in body.items:
        if item.job.get("after"):
            _settle(asked)  # it may name one that comes before it here
        try:
            new = _admit(item.job, item.key, who, serving, measure)
            asked.append((new, serving.intake.ask(new.entries)))
        except SingularityError as error:
            asked.append(error)
    return {"items": [_outcome(each) for each in asked]}


def _settle(asked: Iterable[object]) -> None:
    for each in asked:
        if isinstance(each, tuple):
            with suppress(Exception):  # told as its outcome
                each[1]()


def _outcome(asked: tuple[New, Callable[[], list[JobId]]] | SingularityError) -> Json:
    if isinstance(asked, SingularityError):
        return {"error": document(asked)}
    new, wait = asked
    try:
        ids = new.ids(wait())
    except SingularityError as error:
        return {"error": document(error)}
    found = [{"id": i, "name": job.spec.name} for i, (job, _) in zip(ids, new.asked, strict=True)]
    return {"items": found} if new.array else found[0]


@dataclass(frozen=True, slots=True)
class New:
    """What one document asks for: one job or its array, and then those that verify them."""

    entries: list[Entry]
    count: int
    array: bool

    @property
    def asked(self) -> list[Entry]:
        return self.entries[: self.count]

    @property
    def first(self) -> Job:
        return self.entries[0][0]

    def ids(self, written: list[JobId]) -> list[JobId]:
        return written[: self.count]


def _admit(body: Json, key: str | None, who: Caller, serving: Services, measure: Measure) -> New:
    """Raises InvalidSpec, Forbidden, NotFound, TooLarge, Unplaceable."""
    new = _read(body, key, who, serving, measure)
    serving.gauge.must_fit(new.first)
    return new


def _read(body: Json, key: str | None, who: Caller, serving: Services, measure: Measure) -> New:
    """Whether it fits is still to be asked. Raises InvalidSpec, Forbidden, NotFound, TooLarge."""
    key = check_key(key)
    if who.project is not None:
        body = {"project": who.project, **body}
    job = read_job(body)
    if not who.sees(job.project):
        raise Forbidden(f"the token is for project {who.project}, not {job.project}")
    measure.add(job.array or 1, body)
    after = _predecessors(job, who, serving)
    new = entries(job, after, key, body, serving.clock.now_s())
    return New(new, job.array or 1, job.array is not None)


def _predecessors(document: JobDocument, who: Caller, serving: Services) -> list[JobId]:
    """The jobs that must have succeeded first. Raises NotFound, InvalidSpec."""
    found = []
    for name in document.after:
        id_, project, state = serving.store.standing(who, name)
        if project != document.project:
            raise NotFound(f"after: there is no job {name!r} in project {document.project}")
        if state in (JobState.FAILED, JobState.CANCELLED):
            raise InvalidSpec(f"after: {name} has {state}; this job could never start")
        found.append(id_)
    return found


@router.get("/jobs")
def jobs(
    who: Viewer,
    serving: Serving,
    page: Paged,
    state: Annotated[str | None, Query(max_length=200)] = None,
    project: Annotated[str | None, Query(max_length=64)] = None,
    tier: Annotated[str | None, Query(max_length=64)] = None,
) -> Jobs:
    return serving.store.jobs(who, Filter(state, project, tier), page)


@router.get("/jobs/{job}")
def one_job(job: str, who: Viewer, serving: Serving) -> AJob:
    found = serving.store.find(who, job)
    view = serving.store.view(found)
    if found.spec.share is not None:
        view["sharing"] = serving.inventory.sharing(found)
    return view


@router.get("/jobs/{job}/why")
def why(job: str, who: Viewer, serving: Serving, _: Heavy) -> AWhy:
    """Decides on the present state, carries out nothing, and tells what it found."""
    found = serving.store.find(who, job)
    snapshot, policy = serving.ledger.snapshot(serving.clock.now_s()), serving.settings.policy()
    found = snapshot.by_id.get(found.id, found)
    plan, eta = decide(snapshot, policy), None
    if found.state in WAITING:
        eta = serving.estimates.of(snapshot, found.id, policy)
    if eta is not None and eta.after is not None:
        other = snapshot.by_id[eta.after]
        eta = eta if who.sees(other.spec.project) else replace(eta, after=None)
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
def incarnations(job: str, who: Viewer, serving: Serving, page: Paged) -> Lives:
    return serving.store.incarnations(serving.store.find(who, job), page)


@router.get("/jobs/{job}/checkpoints")
def checkpoints(job: str, who: Viewer, serving: Serving, page: Paged) -> Checkpoints:
    return serving.store.checkpoints(serving.store.find(who, job), page.limit)


@router.post("/jobs/{job}/checkpoints", status_code=202)
def take_checkpoint(job: str, who: Submitter, serving: Serving) -> AJob:
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


@router.post("/jobs/{job}/checkpoints/{checkpoint}/restore", status_code=202)
def restore(job: str, checkpoint: str, who: Submitter, serving: Serving) -> AJob:
    """Go back to that checkpoint: what came after it is given up."""
    found = _own_master(_living(serving.store.find(who, job)))
    to = cuts.named(found, checkpoint)
    at = to.incarnation, to.cut
    return _changed(serving, serving.ledger.go_back(found.id, at, serving.clock.now_s()))


@router.post("/jobs/{job}/suspend", status_code=202)
def suspend(job: str, who: Submitter, serving: Serving) -> AJob:
    """Checkpoint, give the devices back, and wait for resume."""
    return _intend(serving, _own_master(serving.store.find(who, job)), Intent.HOLD)


@router.post("/jobs/{job}/resume", status_code=202)
def resume(job: str, who: Submitter, serving: Serving) -> AJob:
    return _intend(serving, _no_replica(serving.store.find(who, job)), Intent.RUN)


@router.post("/jobs/{job}/cancel", status_code=202)
def cancel(job: str, who: Submitter, serving: Serving) -> AJob:
    found = _no_replica(serving.store.find(who, job))
    if found.state is JobState.CANCELLED or found.intent is Intent.CANCEL:
        return serving.store.view(found)
    return _intend(serving, found, Intent.CANCEL)


@router.post("/jobs/{job}/move", status_code=202)
def move(job: str, body: Move, who: Submitter, serving: Serving) -> AJob:
    """Confine the job to a place, which moves it there; null lets it go anywhere again."""
    found = _own_master(_living(serving.store.find(who, job)))
    scope = None if body.to is None else serving.store.scope(body.to)
    if scope is not None:
        there = [n for n in serving.store.fleet() if scope.holds(n)]
        Capacity.of(there).must_fit(found)
    return _changed(serving, serving.ledger.confine(found.id, scope, serving.clock.now_s()))


@router.post("/jobs/{job}/resize", status_code=202)
def resize(job: str, body: Resize, who: Submitter, serving: Serving) -> AJob:
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
