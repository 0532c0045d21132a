"""/v1/regions, clusters, nodes, devices, accelerators, and what operators do to single nodes."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import Field

from singularity.api.auth import Caller
from singularity.api.documents import Document, Duration
from singularity.api.nouns import Accelerators, AnArea, ANode, Areas, Nodes
from singularity.api.services import Operator, Paged, Services, Serving, Viewer
from singularity.api.views import Json, areas
from singularity.primitives.errors import Conflict
from singularity.primitives.health import Quarantine
from singularity.primitives.nodes import Duty, NodeId, Scope, ScopeKind
from singularity.primitives.operations import By
from singularity.primitives.tariffs import Tariff

router = APIRouter(prefix="/v1", tags=["fleet"])


class Reasoned(Document):
    reason: str = Field(default="", max_length=1000)


class QuarantineRequest(Reasoned):
    """For how long, until an operator's release if it is not said; `drain`: what runs there leaves
    as well."""

    within: Duration | None = None
    drain: bool = False


class Price(Document):
    """Of one device for an hour: `cost` in money, `carbon_g` in grams of carbon dioxide."""

    cost: float = 0.0
    carbon_g: float = 0.0


@router.get("/regions")
def regions(_: Viewer, serving: Serving) -> Areas:
    return _priced(serving, ScopeKind.REGION)


@router.get("/clusters")
def clusters(_: Viewer, serving: Serving) -> Areas:
    return _priced(serving, ScopeKind.CLUSTER)


@router.put("/regions/{region}/price")
def price_region(region: str, body: Price, _: Operator, serving: Serving) -> AnArea:
    """What is said of the region's clusters themselves stands."""
    return _set_price(serving, f"region/{region}", body)


@router.put("/clusters/{cluster}/price")
def price_cluster(cluster: str, body: Price, _: Operator, serving: Serving) -> AnArea:
    return _set_price(serving, f"cluster/{cluster}", body)


def _set_price(serving: Services, place: str, body: Price) -> Json:
    scope = serving.store.scope(place)
    serving.ledger.set_tariff(Tariff(scope, body.cost, body.carbon_g))
    serving.waker.wake()
    return next(a for a in _priced(serving, scope.kind)["items"] if a["id"] == scope.id)


def _priced(serving: Services, kind: ScopeKind) -> Json:
    said = {t.scope.id: t for t in serving.ledger.tariffs() if t.scope.kind is kind}
    found = areas(serving.store.fleet(), str(kind))
    items = [a | _amounts(said.get(a["id"])) for a in found]
    return {"items": items, "next": None}


def _amounts(tariff: Tariff | None) -> Json:
    return {"cost": tariff.cost, "carbon_g": tariff.carbon_g} if tariff else {}


@router.get("/devices")
def devices(_: Viewer, serving: Serving) -> Areas:
    return {"items": areas(serving.store.fleet(), "device"), "next": None}


@router.get("/accelerators")
def accelerators(who: Viewer, serving: Serving) -> Accelerators:
    """Each device of each node and which ranks share it, as the node said last."""
    return {"items": serving.inventory.items(who.project), "next": None}


@router.get("/nodes")
def nodes(who: Viewer, serving: Serving, page: Paged) -> Nodes:
    return serving.store.nodes(who, page)


@router.get("/nodes/{node}")
def node(node: str, who: Viewer, serving: Serving) -> ANode:
    return serving.store.node(who, node)


@router.post("/nodes/{node}/cordon")
def cordon(
    node: str,
    who: Operator,
    serving: Serving,
    body: Reasoned = Reasoned(),  # noqa: B008 (frozen)
) -> ANode:
    """Place nothing new there; what runs there stays."""
    _set_duty(who, node, Duty.CORDONED, body.reason, serving)
    return serving.store.node(who, node)


@router.post("/nodes/{node}/uncordon")
def uncordon(
    node: str,
    who: Operator,
    serving: Serving,
    body: Reasoned = Reasoned(),  # noqa: B008
) -> ANode:
    _set_duty(who, node, Duty.READY, body.reason, serving)
    return serving.store.node(who, node)


@router.post("/nodes/{node}/quarantine")
def quarantine(node: str, body: QuarantineRequest, who: Operator, serving: Serving) -> ANode:
    """Keep work away from a node that is not to be trusted."""
    now_s = serving.clock.now_s()
    until_s = None if body.within is None else now_s + body.within
    wanted = Quarantine(now_s, until_s, body.reason or "an operator wants it", body.drain)
    serving.ledger.quarantine(NodeId(node), wanted, now_s, By(who.token, body.reason))
    serving.waker.wake()
    return serving.store.node(who, node)


@router.post("/nodes/{node}/release")
def release(
    node: str,
    who: Operator,
    serving: Serving,
    body: Reasoned = Reasoned(),  # noqa: B008
) -> ANode:
    """Trust it again, whatever was."""
    by = By(who.token, body.reason)
    serving.ledger.quarantine(NodeId(node), None, serving.clock.now_s(), by)
    serving.waker.wake()
    return serving.store.node(who, node)


@router.delete("/nodes/{node}", status_code=204)
def remove(node: str, who: Operator, serving: Serving) -> Response:
    """Forget a node that is lost, or drained and switched off."""
    quiet_s = serving.settings.lease_s
    by = By(who.token)
    serving.ledger.remove_node(NodeId(node), serving.clock.now_s(), quiet_s, by)
    serving.waker.wake()
    return Response(status_code=204)


def _set_duty(who: Caller, node: str, duty: Duty, reason: str, serving: Services) -> None:
    """Raises Conflict when the node is being drained: a drain is undone as a whole."""
    if serving.store.node(who, node)["duty"] == "draining":
        raise Conflict(f"{node} is being drained; undo the drain first", node=node)
    scope, by = Scope(ScopeKind.NODE, NodeId(node)), By(who.token, reason)
    serving.ledger.set_duty(scope, duty, serving.clock.now_s(), by)
    serving.waker.wake()
