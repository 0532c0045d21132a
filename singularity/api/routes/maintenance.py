"""/v1/maintenance: windows that come again and again, and the drains that make room for them."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy.exc import IntegrityError

from singularity.api.documents import Document, Duration
from singularity.api.nouns import AMaintenance, Maintenances
from singularity.api.schemas import Bandwidth, Name
from singularity.api.services import Operator, Overseer, Services, Serving
from singularity.api.views import Json, scope_text
from singularity.primitives.drains import Leaving
from singularity.primitives.errors import Conflict, NotFound
from singularity.primitives.maintenance import Maintenance, drain_for, need_gaps, window
from singularity.primitives.operations import By
from singularity.scheduler import upkeep
from singularity.scheduler.snapshot import Snapshot

router = APIRouter(prefix="/v1/maintenance", tags=["maintenance"])


class MaintenanceRequest(Document):
    """`every`: 'sunday 02:00 UTC', 'monday,friday 22:30 Europe/Berlin' or 'daily 03:00'."""

    name: Name
    target: str = Field(min_length=1, max_length=200)
    every: str = Field(min_length=1, max_length=200)
    length: Duration = Field(alias="for", le=6 * 86400.0)
    policy: Leaving = Leaving.MIGRATE
    moves: int | None = Field(default=None, ge=1, le=10_000)
    bandwidth: Bandwidth | None = None
    reason: str = Field(default="", max_length=1000)


@router.post("", status_code=201)
def add(body: MaintenanceRequest, who: Operator, serving: Serving) -> AMaintenance:
    found = Maintenance(
        id=body.name,
        scope=serving.store.scope(body.target),
        every=body.every,
        length_s=body.length,
        leaving=body.policy,
        moves_most=body.moves,
        bytes_per_s=body.bandwidth,
    )
    need_gaps(found)
    try:
        serving.ledger.plan_maintenance(found, serving.clock.now_s(), By(who.token, body.reason))
    except IntegrityError:
        raise Conflict(
            f"there is, or was, a maintenance {body.name}; choose another name", name=body.name
        ) from None
    serving.waker.wake()
    return _one(body.name, serving)


@router.get("")
def planned(_: Overseer, serving: Serving) -> Maintenances:
    """Each with its next window, when the drain for it begins, and what it waits for."""
    snapshot = serving.ledger.snapshot(serving.clock.now_s())
    items = [_view(snapshot, found, serving) for found in snapshot.maintenance]
    return {"items": items, "next": None}


@router.delete("/{name}", status_code=204)
def drop(name: str, who: Operator, serving: Serving) -> Response:
    """No further window. A drain that is in force for one goes on until its end, or is undone."""
    serving.ledger.drop_maintenance(name, serving.clock.now_s(), By(who.token))
    return Response(status_code=204)


@router.post("/{name}/skip")
def skip(name: str, who: Operator, serving: Serving) -> AMaintenance:
    """Not this time: the next window passes; what is drained for it already takes work again."""
    now_s, by = serving.clock.now_s(), By(who.token)
    snapshot = serving.ledger.snapshot(now_s)
    found = _named(snapshot, name)
    if (drain := upkeep.in_force(snapshot, found)) is not None:
        serving.ledger.close_drain(drain.id, now_s, by)
    else:
        serving.ledger.skip_maintenance(name, window(found, now_s).opens_s, now_s, by)
    serving.waker.wake()
    return _one(name, serving)


def _one(name: str, serving: Services) -> Json:
    snapshot = serving.ledger.snapshot(serving.clock.now_s())
    return _view(snapshot, _named(snapshot, name), serving)


def _named(snapshot: Snapshot, name: str) -> Maintenance:
    for found in snapshot.maintenance:
        if found.id == name:
            return found
    near = [m.id for m in snapshot.maintenance]
    raise NotFound(f"there is no maintenance {name!r}", near=near)


def _view(snapshot: Snapshot, found: Maintenance, serving: Services) -> Json:
    there = window(found, snapshot.now_s)
    order = drain_for(found, there, snapshot.now_s)
    begins_s = upkeep.begins_s(snapshot, order, there, serving.settings.policy())
    return {
        "id": found.id,
        "target": scope_text(found.scope),
        "every": found.every,
        "length_s": found.length_s,
        "policy": str(found.leaving),
        "moves": found.moves_most,
        "bytes_per_s": found.bytes_per_s,
        "opens_s": there.opens_s,
        "closes_s": there.closes_s,
        "begins_s": begins_s,
        "condition": _condition(snapshot, found, begins_s),
    }


def _condition(snapshot: Snapshot, found: Maintenance, begins_s: float) -> str:
    there = window(found, snapshot.now_s)
    if (drain := upkeep.in_force(snapshot, found)) is not None:
        return f"{'open' if snapshot.now_s >= there.opens_s else 'draining'} by {drain.id}"
    other = upkeep.in_the_way(snapshot, drain_for(found, there, snapshot.now_s))
    if other is not None and snapshot.now_s >= begins_s:
        return f"waits for {other.id} of {scope_text(other.scope)}: undo that, or let it be"
    return "planned"
