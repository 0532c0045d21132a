"""/v1/rebalance: which nodes could come free as a whole, at what price, and the order to do it."""

from __future__ import annotations

import secrets
from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from singularity.api import nouns
from singularity.api.documents import Document, Duration
from singularity.api.nouns import Rebalancings
from singularity.api.services import Operator, Overseer, Serving
from singularity.api.views import Json, scope_text
from singularity.primitives.errors import NotFound
from singularity.primitives.nodes import Scope
from singularity.primitives.operations import By
from singularity.primitives.rebalancing import Rebalancing
from singularity.scheduler.draft import Draft
from singularity.scheduler.policy import Policy
from singularity.scheduler.rebalance import Clearance, clearances
from singularity.scheduler.snapshot import Snapshot

router = APIRouter(prefix="/v1/rebalance", tags=["rebalance"])
_FORESEEN: Final = nouns.json_of({"type": "object"}, why="What it would do.")


class RebalanceRequest(Document):
    """Of the whole planet, or of one `target`. With `plan` nothing is done: the answer is what
    would be."""

    target: str | None = Field(default=None, min_length=1, max_length=200)
    within: Duration = 3600.0
    reason: str = Field(default="", max_length=1000)
    plan: bool = False


@router.post("", status_code=201, responses=_FORESEEN | nouns.json_of(nouns.REBALANCING, 201))
def rebalance(body: RebalanceRequest, who: Operator, serving: Serving) -> Response:
    """Move jobs together where that frees whole nodes at a gain, until there is none."""
    now_s, policy = serving.clock.now_s(), serving.settings.policy()
    scope = serving.store.scope(body.target) if body.target else None
    if body.plan:
        return JSONResponse(_plan(serving.ledger.snapshot(now_s), scope, policy))
    name = f"rebalance-{secrets.token_hex(4)}"
    found = Rebalancing(name, now_s, now_s + body.within, scope)
    serving.ledger.order_rebalancing(found, By(who.token, body.reason))
    serving.waker.wake()
    return JSONResponse(_view(found), 201)


@router.get("")
def in_force(_: Overseer, serving: Serving) -> Rebalancings:
    found = serving.ledger.snapshot(serving.clock.now_s()).rebalancing
    return {"items": [_view(found)] if found else [], "next": None}


@router.delete("", status_code=204)
def stop(who: Operator, serving: Serving) -> Response:
    """Begin no further move. Those under way come to their end."""
    now_s = serving.clock.now_s()
    found = serving.ledger.snapshot(now_s).rebalancing
    if found is None:
        raise NotFound("nothing is being rebalanced")
    serving.ledger.settle_rebalancing(found.id, now_s, By(who.token))
    return Response(status_code=204)


def _plan(snapshot: Snapshot, scope: Scope | None, policy: Policy) -> Json:
    found = clearances(Draft(snapshot), scope, policy)
    whole = int((snapshot.ready & (snapshot.free == snapshot.total)).sum())
    return {
        "clearances": [_clearance(each) for each in found],
        "moves": sum(len(each.moves) for each in found),
        "cost_device_s": sum(each.cost_s for each in found),
        "worth_device_s": sum(each.worth_s for each in found),
        "whole_nodes": whole,
        "whole_nodes_then": whole + len(found),
        "at_a_time": policy.migrations_per_tick_max,
    }


def _clearance(found: Clearance) -> Json:
    moves = [
        {
            "job": move.job.id,
            "name": move.job.spec.name,
            "devices": move.job.held,
            "to": [s.node for s in move.target],
            "price": move.price.text,
        }
        for move in found.moves
    ]
    return {
        "node": found.node.id,
        "cluster": found.node.cluster,
        "devices": found.node.devices,
        "moves": moves,
        "cost_device_s": found.cost_s,
        "worth_device_s": found.worth_s,
    }


def _view(found: Rebalancing) -> Json:
    return {
        "id": found.id,
        "target": scope_text(found.scope) if found.scope else None,
        "at_s": found.at_s,
        "until_s": found.until_s,
    }
