"""/v1/services and /v1/loans: programs that answer requests, and what they borrow for it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Response

from singularity.api.auth import Caller
from singularity.api.intake import check_key, digest, new_ids
from singularity.api.nouns import AService, AWhy, Loans, TheServices
from singularity.api.rows import Submission
from singularity.api.service_document import (
    Rescaling,
    ServiceDocument,
    Update,
    read_service,
    service_schema,
)
from singularity.api.service_views import loan_view, repaid_view, service_view, why_view
from singularity.api.services import Heavy, Paged, Services, Serving, Submitter, Viewer
from singularity.api.store import listing
from singularity.api.views import Json
from singularity.primitives import replicas
from singularity.primitives.errors import Forbidden, InvalidSpec, Outdated
from singularity.primitives.model import Intent
from singularity.primitives.serving import ServiceId
from singularity.scheduler.decide import decide
from singularity.scheduler.explain import explain
from singularity.scheduler.services import (
    Amended,
    Service,
    ended,
    opened,
    rescaled,
    updated,
)

router = APIRouter(prefix="/v1", tags=["services"])
Seen = Annotated[str | None, Header(max_length=100)]  # If-Match: what it must still be


@router.get("/schema/service")
def schema(_: Viewer) -> Json:
    return service_schema()


@router.post("/services", status_code=201)
def make(
    body: Annotated[dict[str, Any], Body()],
    who: Submitter,
    serving: Serving,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> AService:
    """Durable when answered. The same key and body again give the same service again."""
    key = check_key(idempotency_key)
    document = _read(body, who)
    now_s = serving.clock.now_s()
    (id_,) = new_ids(1, now_s)
    wanted = document.service(ServiceId(id_))
    _must_fit(serving, wanted)
    service, jobs = opened(wanted, lambda count: new_ids(count, now_s), now_s)
    known = Submission(key, digest(body) if key is not None else None)
    return _changed(serving, serving.ledger.open_service(service, jobs, known))


@router.get("/services")
def services(who: Viewer, serving: Serving) -> TheServices:
    """Those that have not ended."""
    now_s = serving.clock.now_s()
    found = serving.offered.standings(serving.offered.services(who), now_s)
    return {"items": [service_view(each, now_s) for each in found], "next": None}


@router.get("/services/{service}")
def one_service(service: str, who: Viewer, serving: Serving, response: Response) -> AService:
    found = serving.offered.find(who, service)
    response.headers["ETag"] = _tag(found)
    return _view(serving, found)


@router.patch("/services/{service}")
def rescale(
    service: str, body: Rescaling, who: Submitter, serving: Serving, if_match: Seen = None
) -> AService:
    """Other bounds, or another target; what is left out stays."""
    now_s = serving.clock.now_s()

    def change(now: Service) -> Amended:
        _need_seen(now, if_match)
        least = body.replicas.min if body.replicas else now.least
        most = body.replicas.max if body.replicas else now.most
        target = body.target.target() if body.target else now.target
        return rescaled(now, least, most, target, lambda n: new_ids(n, now_s), now_s)

    found = serving.offered.find(who, service)
    if body.replicas is not None:
        serving.gauge.must_hold(found.spec, body.replicas.min)
    return _changed(serving, serving.ledger.change_service(found.id, "rescaled", change, now_s))


@router.post("/services/{service}/updates", status_code=202)
def update(
    service: str, body: Update, who: Submitter, serving: Serving, if_match: Seen = None
) -> AService:
    """As a new document says. What replicas run is a new revision: with `canary` on trial first,
    else in force as soon as its replicas answer."""
    now_s, found = serving.clock.now_s(), serving.offered.find(who, service)
    wanted = _read(body.service, who).service(found.id)
    _must_fit(serving, wanted)
    canary = body.canary.canary() if body.canary else None

    def change(now: Service) -> Amended:
        _need_seen(now, if_match)
        return updated(now, wanted, canary, lambda n: new_ids(n, now_s), now_s)

    return _changed(serving, serving.ledger.change_service(found.id, "updated", change, now_s))


@router.delete("/services/{service}", status_code=202)
def end(service: str, who: Submitter, serving: Serving, if_match: Seen = None) -> AService:
    """Its replicas take no new requests, finish those they have, and stop."""
    found, now_s = serving.offered.find(who, service), serving.clock.now_s()

    def change(now: Service) -> Amended:
        _need_seen(now, if_match)
        return ended(now)

    return _changed(serving, serving.ledger.change_service(found.id, "ending", change, now_s))


@router.get("/services/{service}/why")
def why(service: str, who: Viewer, serving: Serving, _: Heavy) -> AWhy:
    """Decides on the present state, carries out nothing, and tells of each replica that shall
    answer and does not yet what keeps it."""
    service_, now_s = serving.offered.find(who, service), serving.clock.now_s()
    (found,) = serving.offered.standings([service_], now_s)
    snapshot, policy = serving.ledger.snapshot(now_s), serving.settings.policy()
    plan, told = decide(snapshot, policy), {}
    for job in found.replicas:
        if job.intent is Intent.RUN and not replicas.ready(job) and job.id in snapshot.by_id:
            reasons = explain(snapshot, plan, snapshot.by_id[job.id], policy).reasons
            told[job.id] = [{"kind": r.kind, "detail": r.detail} for r in reasons]
    return why_view(found, told)


@router.get("/services/{service}/events")
def events(service: str, who: Viewer, serving: Serving, page: Paged) -> Json:
    return serving.offered.events(serving.offered.find(who, service), page)


@router.get("/loans")
def loans(
    who: Viewer,
    serving: Serving,
    page: Paged,
    service: Annotated[str | None, Query(max_length=200)] = None,
    job: Annotated[str | None, Query(max_length=200)] = None,
) -> Loans:
    """Devices that services have of other jobs: on the first page those of now, then those that
    are over, the newest first. One must be said by who sees a project only."""
    if who.project is not None and service is None and job is None:
        raise InvalidSpec("say whose: service=NAME or job=NAME")
    wanted: dict[str, str] = {}
    if service is not None:
        wanted["service"] = serving.offered.find(who, service).id
    if job is not None:
        wanted["job"] = serving.store.find(who, job).id
    now_s, items = serving.clock.now_s(), list[Json]()
    for lender in serving.offered.lenders() if page.cursor is None else ():
        if wanted.get("job", lender.id) == lender.id:
            items += [
                loan_view(lender, loan, now_s, named=who.sees(lender.spec.project))
                for loan in lender.loans
                if wanted.get("service", loan.service) == loan.service
            ]
    over = [{"seq": seq, **repaid_view(j, r)} for seq, j, r in serving.offered.repaid(wanted, page)]
    found = listing(over, page, "seq")
    return {**found, "items": [*items, *found["items"]]}


def _read(body: dict[str, Any], who: Caller) -> ServiceDocument:
    if who.project is not None:
        body = {"project": who.project, **body}
    document = read_service(body)
    if not who.sees(document.project):
        raise Forbidden(f"the token is for project {who.project}, not {document.project}")
    return document


def _tag(service: Service) -> str:
    return f'"{service.version}"'


def _need_seen(now: Service, if_match: str | None) -> None:
    """With the row locked: between this and the change nobody changes it. Raises Outdated."""
    if if_match is not None and if_match.strip() not in ("*", _tag(now)):
        raise Outdated(
            f"{now.name} has version {now.version} now; look at it again", version=now.version
        )


def _must_fit(serving: Services, service: Service) -> None:
    """Raises Unplaceable where the fleet, even empty, could not hold the replicas that it always
    has."""
    serving.gauge.must_hold(service.spec, service.least)


def _view(serving: Services, service: Service) -> Json:
    now_s = serving.clock.now_s()
    (found,) = serving.offered.standings([service], now_s)
    return service_view(found, now_s)


def _changed(serving: Services, service: Service) -> Json:
    serving.waker.wake()
    return _view(serving, service)
