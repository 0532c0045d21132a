"""Pages about what jobs run on: nodes, drains, the control plane itself."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from singularity.api.routes import drains, fleet, maintenance, operations, plane, shares
from singularity.api.services import Heavy, Serving
from singularity.api.store import Page
from singularity.api.views import Json

from .showing import PlanetVisitor, Visitor, page

router = APIRouter(include_in_schema=False)

_OPERATIONS: Final = 30
Cursor = Annotated[str, Query(max_length=200)]


@router.get("/fleet")
def nodes(request: Request, who: Visitor, serving: Serving, cursor: Cursor = "") -> Response:
    return page(
        request,
        "fleet",
        who,
        serving.clock.now_s(),
        nodes=fleet.nodes(who, serving, Page(200, cursor or None)),
        regions=fleet.regions(who, serving)["items"],
        kinds=fleet.devices(who, serving)["items"],
        cursor=cursor,
    )


@router.get("/fleet/{node}")
def one_node(node: str, request: Request, who: Visitor, serving: Serving) -> Response:
    found = fleet.node(node, who, serving)
    known = fleet.accelerators(who, serving)["items"]
    deeds: list[Json] = []
    if who.project is None:
        mine = operations.operations(who, serving, Page(_OPERATIONS), f"node/{found['id']}")
        deeds = mine["items"]
    return page(
        request,
        "node",
        who,
        serving.clock.now_s(),
        node=found,
        devices=[d for d in known if d["node"] == found["id"]],
        operations=deeds,
    )


@router.get("/drains")
def orders(request: Request, who: PlanetVisitor, serving: Serving, _: Heavy) -> Response:
    return page(
        request,
        "drains",
        who,
        serving.clock.now_s(),
        drains=drains.drains(who, serving)["items"],
        windows=maintenance.planned(who, serving)["items"],
        operations=operations.operations(who, serving, Page(_OPERATIONS))["items"],
    )


@router.get("/drains/{drain}")
def one_drain(
    drain: str, request: Request, who: PlanetVisitor, serving: Serving, _: Heavy
) -> Response:
    """How far it is, and how it came there."""
    found, now_s = drains.drain_view(serving, drain), serving.clock.now_s()
    left = drains.burndown(drain, who, serving)["points"]
    burndown = {"x": [p["at_s"] for p in left], "remaining": [p["remaining"] for p in left]}
    return page(request, "drain", who, now_s, drain=found, burndown=burndown)


@router.get("/plane")
def control(request: Request, who: PlanetVisitor, serving: Serving) -> Response:
    return page(
        request,
        "plane",
        who,
        serving.clock.now_s(),
        plane=plane.plane(who, serving),
        evictions=shares.evictions(who, serving),
        operations=operations.operations(who, serving, Page(_OPERATIONS))["items"],
    )
