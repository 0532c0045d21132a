"""/v1/regions, clusters, nodes, devices, accelerators, and what operators do to single nodes."""

from __future__ import annotations

from fastapi import APIRouter

from singularity.api.auth import Caller
from singularity.api.services import Operator, Paged, Services, Serving, Viewer
from singularity.api.views import Json, areas
from singularity.primitives.errors import Conflict
from singularity.primitives.model import Duty, NodeId, Scope, ScopeKind

router = APIRouter(prefix="/v1", tags=["fleet"])


@router.get("/regions")
def regions(_: Viewer, serving: Serving) -> Json:
    return {"items": areas(serving.store.fleet(), "region"), "next": None}


@router.get("/clusters")
def clusters(_: Viewer, serving: Serving) -> Json:
    return {"items": areas(serving.store.fleet(), "cluster"), "next": None}


@router.get("/devices")
def devices(_: Viewer, serving: Serving) -> Json:
    return {"items": areas(serving.store.fleet(), "device"), "next": None}


@router.get("/accelerators")
def accelerators(who: Viewer, serving: Serving) -> Json:
    """Each device of each node and which ranks share it, as the node said last."""
    return {"items": serving.inventory.items(who.project), "next": None}


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
