"""/v1/join-tokens and credentials of nodes: who may join, who gets others, who must leave."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field, StringConstraints

from singularity.api.documents import Document, Duration
from singularity.api.nouns import ANode, ATicket, Tickets
from singularity.api.services import Operator, Serving
from singularity.primitives.nodes import NodeId
from singularity.primitives.operations import By

router = APIRouter(prefix="/v1", tags=["nodes"])
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


class JoinRequest(Document):
    """For a node of that name, or for any; good for so long."""

    node: Annotated[str, StringConstraints(pattern=_NAME)] | None = None
    within: Annotated[Duration, Field(gt=0, le=30 * 86400.0)] = 3600.0


class Why(Document):
    reason: Annotated[str, StringConstraints(max_length=500)] = ""


@router.post("/join-tokens", status_code=201)
def issue(body: JoinRequest, who: Operator, serving: Serving) -> ATicket:
    """A token by which one node joins, once. The answer is the only time that it is shown."""
    now_s, node = serving.clock.now_s(), NodeId(body.node) if body.node else None
    id_, text, until_s = serving.enrolment.issue(node, body.within, who.token, now_s)
    return {"id": id_, "token": text, "node": node, "expires_at_s": until_s}


@router.get("/join-tokens")
def good(_: Operator, serving: Serving) -> Tickets:
    """Those that can still be used."""
    return {"items": serving.enrolment.tickets(serving.clock.now_s()), "next": None}


@router.delete("/join-tokens/{token_id}", status_code=204)
def withdraw(token_id: str, _: Operator, serving: Serving) -> Response:
    serving.enrolment.withdraw(token_id)
    return Response(status_code=204)


@router.post("/nodes/{node}/rotate", status_code=202)
def rotate(node: str, who: Operator, serving: Serving, body: Why = Why()) -> ANode:  # noqa: B008
    """It is given other credentials with its next heartbeat; its jobs do not notice."""
    by = By(who.token, body.reason)
    serving.enrolment.rotate(NodeId(node), by, serving.clock.now_s())
    return serving.store.node(who, node)


@router.post("/nodes/{node}/revoke", status_code=202)
def revoke(node: str, who: Operator, serving: Serving, body: Why = Why()) -> ANode:  # noqa: B008
    """Its credentials are worth nothing from now on, and only a token of its own lets it in again.
    It freezes what it runs when its lease is over; its jobs go on elsewhere."""
    by = By(who.token, body.reason)
    serving.enrolment.revoke(NodeId(node), by, serving.clock.now_s())
    serving.waker.wake()
    return serving.store.node(who, node)
