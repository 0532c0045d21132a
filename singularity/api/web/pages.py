"""Pages about the planet as a whole: world, queue, services, fairness."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from singularity.api.routes import projects, queue, services, shares
from singularity.api.services import Heavy, Serving
from singularity.api.store import Page
from singularity.primitives.model import JobState

from . import world
from .showing import Visitor, page

router = APIRouter(include_in_schema=False)

_LOANS: Final = 50


@router.get("/")
def planet(request: Request, who: Visitor, serving: Serving) -> Response:
    """Who has which devices where, and what is on its way between regions."""
    now_s = serving.clock.now_s()
    snapshot = serving.ledger.snapshot(now_s)
    nodes = {node.id: node for node in snapshot.nodes}
    mine = [j for j in snapshot.jobs if who.sees(j.spec.project)]
    moves = list(world.moves(mine, nodes))
    found = world.areas(snapshot.nodes, snapshot.jobs, lambda j: who.sees(j.spec.project))
    return page(
        request,
        "world",
        who,
        now_s,
        areas=found,
        uses=world.USES,
        moves=moves,
        arcs=world.arcs([a.id for a in found[: world.ARCS_MOST]], moves),
        drawn=found[: world.ARCS_MOST],
        running=sum(j.state is JobState.RUNNING for j in mine),
        living=len(mine),
    )


@router.get("/queue")
def waiting(
    request: Request,
    who: Visitor,
    serving: Serving,
    heavy: Heavy,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    found = queue.queue(who, serving, heavy, limit)
    return page(request, "queue", who, serving.clock.now_s(), found=found)


@router.get("/fairness")
def fairness(request: Request, who: Visitor, serving: Serving) -> Response:
    """What was given of what was asked for and promised, and whose devices they are."""
    return page(
        request,
        "fairness",
        who,
        serving.clock.now_s(),
        sla=shares.sla(who, serving)["items"],
        usage=projects.usage(who, serving)["items"],
        projects=projects.projects(who, serving)["items"],
    )


@router.get("/services")
def offered(request: Request, who: Visitor, serving: Serving) -> Response:
    found = services.services(who, serving)["items"]
    return page(request, "services", who, serving.clock.now_s(), services=found)


@router.get("/services/{service}")
def one_service(service: str, request: Request, who: Visitor, serving: Serving) -> Response:
    found = services.one_service(service, who, serving, Response())
    lent = services.loans(who, serving, Page(_LOANS), service=found["id"])["items"]
    told = services.events(found["id"], who, serving, Page(1000))["items"]
    return page(
        request,
        "service",
        who,
        serving.clock.now_s(),
        service=found,
        loans=lent,
        events=list(reversed(told[-_LOANS:])),
    )


@router.get("/services/{service}/why")
def why_service(
    service: str, request: Request, who: Visitor, serving: Serving, heavy: Heavy
) -> Response:
    found = services.why(service, who, serving, heavy)
    here = f"/ui/services/{service}/why"
    return page(request, "why", who, serving.clock.now_s(), found=found, source=here)
