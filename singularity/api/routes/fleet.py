"""/v1/regions, clusters, nodes, devices, drains: the planet, and what operators do to it."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from singularity.api.auth import Caller
from singularity.api.services import Operator, Overseer, Paged, Services, Serving, Viewer
from singularity.api.views import Json, areas
from singularity.primitives.errors import Conflict
from singularity.primitives.model import Duty, NodeId, Scope, ScopeKind

router = APIRouter(prefix="/v1", tags=["fleet"])


class DrainRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(min_length=1, max_length=200)


@router.get("/regions")
def regions(_: Viewer, serving: Serving) -> Json:
    return {"items": areas(serving.store.fleet(), "region"), "next": None}


@router.get("/clusters")
def clusters(_: Viewer, serving: Serving) -> Json:
    return {"items": areas(serving.store.fleet(), "cluster"), "next": None}


@router.get("/devices")
def devices(_: Viewer, serving: Serving) -> Json:
    return {"items": areas(serving.store.fleet(), "device"), "next": None}


@router.get("/nodes")
def nodes(who: Viewer, serving: Serving, page: Paged) -> Json:
    return serving.store.nodes(who, page)


@router.get("/nodes/{node}")
def node(node: str, who: Viewer, serving: Serving) -> Json:
    return serving.store.node(who, node)


@router.post("/nodes/{node}/cordon")
def cordon(node: str, who: Operator, serving: Serving) -> Json:
    """Place nothing new there; what runs there stays."""
    _set_duty(who, node, Duty.CORDONED, serving)
    return serving.store.node(who, node)


@router.post("/nodes/{node}/uncordon")
def uncordon(node: str, who: Operator, serving: Serving) -> Json:
    _set_duty(who, node, Duty.READY, serving)
    return serving.store.node(who, node)


def _set_duty(who: Caller, node: str, duty: Duty, serving: Services) -> None:
    """Raises Conflict when the node is being drained: a drain is undone as a whole."""
    if serving.store.node(who, node)["duty"] == "draining":
        raise Conflict(f"{node} is being drained; undo the drain first", node=node)
    serving.ledger.set_duty(Scope(ScopeKind.NODE, NodeId(node)), duty, serving.clock.now_s())
    serving.waker.wake()


@router.post("/drains", status_code=201)
def drain(body: DrainRequest, who: Operator, serving: Serving) -> Json:
    """Move everything away from the target, and send nothing there until it is undone."""
    now_s = serving.clock.now_s()
    scope = serving.store.scope(body.target)
    id_ = serving.store.open_drain(scope, who.token, now_s)
    serving.ledger.set_duty(scope, Duty.DRAINING, now_s)
    serving.waker.wake()
    return serving.store.drain(id_)


@router.get("/drains")
def drains(_: Overseer, serving: Serving) -> Json:
    return serving.store.drains()


@router.get("/drains/{drain_id}")
def one_drain(drain_id: str, _: Overseer, serving: Serving) -> Json:
    return serving.store.drain(drain_id)


@router.delete("/drains/{drain_id}", status_code=204)
def undo(drain_id: str, _: Operator, serving: Serving) -> Response:
    """Let work come back, but for what another drain covers."""
    now_s = serving.clock.now_s()
    scope = serving.store.close_drain(drain_id, now_s)
    others = serving.store.drained_scopes()
    for node in serving.store.fleet():
        if scope.holds(node) and not any(other.holds(node) for other in others):
            serving.ledger.set_duty(Scope(ScopeKind.NODE, node.id), Duty.READY, now_s)
    serving.waker.wake()
    return Response(status_code=204)
