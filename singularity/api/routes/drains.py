"""/v1/drains: what an operator wants emptied, what that would do, and how far it is."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field

from singularity.api import drains as kept
from singularity.api import nouns, streams
from singularity.api.documents import Document, Duration
from singularity.api.drains import Record
from singularity.api.nouns import ADrain, Drains
from singularity.api.schemas import Bandwidth
from singularity.api.services import Operator, Overseer, Services, Serving
from singularity.api.views import Json
from singularity.primitives.drains import Drain, Leaving, standing
from singularity.primitives.errors import InvalidSpec
from singularity.primitives.model import JobState
from singularity.primitives.operations import By
from singularity.scheduler.decide import decide
from singularity.scheduler.evacuate import CANNOT
from singularity.scheduler.exodus import Departure, destination, foresee
from singularity.scheduler.snapshot import Snapshot

router = APIRouter(prefix="/v1", tags=["drains"])
_FORESEEN: Final = nouns.json_of({"type": "object"}, why="What it would do.")


class DrainRequest(Document):
    """`within` is how long it may take, or `deadline_s` until when (seconds since 1970). With
    `plan` nothing is done: the answer is what would be."""

    target: str = Field(min_length=1, max_length=200)
    within: Duration | None = None
    deadline_s: float | None = Field(default=None, gt=0)
    policy: Leaving = Leaving.MIGRATE
    moves: int | None = Field(default=None, ge=1, le=10_000)
    bandwidth: Bandwidth | None = None
    reason: str = Field(default="", max_length=1000)
    plan: bool = False


@router.post("/drains", status_code=201, responses=_FORESEEN | nouns.json_of(nouns.DRAIN, 201))
def drain(body: DrainRequest, who: Operator, serving: Serving) -> Response:
    """Let everything leave the target, and send nothing there until it is undone."""
    now_s = serving.clock.now_s()
    order = Drain(
        id=f"drain-{secrets.token_hex(4)}",
        scope=serving.store.scope(body.target),
        at_s=now_s,
        leaving=body.policy,
        deadline_s=_deadline_s(body, now_s),
        moves_most=body.moves,
        bytes_per_s=body.bandwidth,
    )
    if body.plan:
        return JSONResponse(_plan(serving, order, now_s))
    order = serving.ledger.open_drain(order, By(who.token, body.reason))
    serving.waker.wake()
    return JSONResponse(drain_view(serving, order.id), 201)


def _deadline_s(body: DrainRequest, now_s: float) -> float | None:
    """Raises InvalidSpec for one that has passed, or that is said twice."""
    if body.within is not None:
        if body.deadline_s is not None:
            raise InvalidSpec("say either within or deadline_s", field="deadline_s")
        return now_s + body.within
    if body.deadline_s is not None and body.deadline_s <= now_s:
        late_s = now_s - body.deadline_s
        raise InvalidSpec(f"that deadline was {late_s:.0f} s ago", field="deadline_s")
    return body.deadline_s


@router.get("/drains")
def drains(_: Overseer, serving: Serving) -> Drains:
    """Those in force."""
    with serving.engine.connect() as db:
        found = kept.records(db)
    waiting = _waiting(serving) if found else {}
    return {"items": [_told(r, waiting) for r in found], "next": None}


@router.get("/drains/{drain_id}", responses=streams.told(nouns.json_of(nouns.DRAIN)))
def one_drain(
    drain_id: str, _: Overseer, serving: Serving, follow: Annotated[bool, Query()] = False
) -> Response:
    """How far it is; with `follow`, as server-sent events whenever that changes, until it is done
    or undone."""
    first = drain_view(serving, drain_id)
    if not follow:
        return JSONResponse(first)

    async def told() -> AsyncIterator[str]:
        number = 0
        async for view in streams.follow_state(lambda: drain_view(serving, drain_id), serving.stop):
            number += 1
            yield streams.sse(str(number), "progress", json.dumps(view))
            if view["ended_at_s"] is not None or view["done"]:
                return

    return StreamingResponse(told(), media_type=streams.EVENTS)


@router.get("/drains/{drain_id}/burndown")
def burndown(drain_id: str, _: Overseer, serving: Serving) -> Json:
    """How many of its jobs were still there, from its beginning to its end, or to now: a point for
    each change."""
    now_s = serving.clock.now_s()
    with serving.engine.connect() as db:
        found = kept.record(db, drain_id)
    order, there = found.drain, set(found.remaining)
    end_s = now_s if found.ended_at_s is None else found.ended_at_s
    gone = [job for job in found.jobs if job not in there]
    left = serving.store.departures(order.scope, gone, order.at_s)
    if found.ended_at_s is None:  # a place that was only reserved there had no life that could end
        left = {job: left.get(job, order.at_s) for job in gone}
    times = sorted(at_s for at_s in left.values() if at_s <= end_s)
    points = [(order.at_s, len(found.jobs))]
    points += [(at_s, len(found.jobs) - n) for n, at_s in enumerate(times, 1)]
    points.append((end_s, len(found.jobs) - len(times)))
    return {"points": [{"at_s": at_s, "remaining": n} for at_s, n in points]}


@router.post("/drains/{drain_id}/pause")
def pause(drain_id: str, who: Operator, serving: Serving) -> ADrain:
    """Begin no further move. Those under way go on."""
    now_s = serving.clock.now_s()
    serving.ledger.pause_drain(drain_id, paused=True, now_s=now_s, by=By(who.token))
    return drain_view(serving, drain_id)


@router.post("/drains/{drain_id}/resume")
def resume(drain_id: str, who: Operator, serving: Serving) -> ADrain:
    now_s = serving.clock.now_s()
    serving.ledger.pause_drain(drain_id, paused=False, now_s=now_s, by=By(who.token))
    serving.waker.wake()
    return drain_view(serving, drain_id)


@router.delete("/drains/{drain_id}", status_code=204)
def undo(drain_id: str, who: Operator, serving: Serving) -> Response:
    """Let work come back. Moves under way come to their end, or back where they began."""
    serving.ledger.close_drain(drain_id, serving.clock.now_s(), By(who.token))
    serving.waker.wake()
    return Response(status_code=204)


# -- what is told ---------------------------------------------------------------------------------


def drain_view(serving: Services, drain_id: str) -> Json:
    with serving.engine.connect() as db:
        found = kept.record(db, drain_id)
    return _told(found, _waiting(serving) if found.remaining else {})


def _waiting(serving: Services) -> dict[str, tuple[str, str]]:
    """Of every job that runs or is on its way, its state and why it does not leave, if asked to."""
    snapshot = serving.ledger.snapshot(serving.clock.now_s())
    pending = decide(snapshot, serving.settings.policy()).pending
    why = {job: r.detail for job, reasons in pending.items() for r in reasons if r.kind == "drain"}
    return {j.id: (str(j.state), why.get(j.id, "")) for j in snapshot.jobs}


def _told(found: Record, known: dict[str, tuple[str, str]]) -> Json:
    order, there = found.drain, set(found.remaining)
    moving, waiting = [], []
    for job in found.remaining:
        state, why = known.get(job, ("", ""))
        if state and state != JobState.RUNNING:
            moving.append(job)
        else:
            told = why or "its turn comes with the next round"
            waiting.append({"job": job, "why": told, "cannot": why.startswith(CANNOT)})
    return {
        "id": order.id,
        "target": f"{order.scope.kind}/{order.scope.id}",
        "at_s": order.at_s,
        "actor": found.actor,
        "reason": found.reason,
        "policy": str(order.leaving),
        "deadline_s": order.deadline_s,
        "moves": order.moves_most,
        "bytes_per_s": order.bytes_per_s,
        "upkeep": order.upkeep or None,
        "until_s": order.until_s,
        "paused": order.paused,
        "ended_at_s": found.ended_at_s,
        "jobs": len(found.jobs),
        "moved": sum(job not in there for job in found.jobs),
        "moving": moving,
        "waiting": waiting,
        "remaining_jobs": list(found.remaining),
        "done": not found.remaining,
    }


def _plan(serving: Services, order: Drain, now_s: float) -> Json:
    """Raises Conflict where the order itself would be refused."""
    snapshot = serving.ledger.snapshot(now_s)
    standing(order, snapshot.drains, snapshot.nodes)
    policy = serving.settings.policy()
    found = foresee(snapshot, order, policy)
    unbound = foresee(snapshot, replace(order, bytes_per_s=None), policy)
    leaving = [d for d in found.departures if d.begins_s is not None]
    return {
        "target": f"{order.scope.kind}/{order.scope.id}",
        "policy": str(order.leaving),
        "deadline_s": order.deadline_s,
        "departures": [_departure(snapshot, d) for d in found.departures],
        "ends_s": found.ends_s,
        "bytes_per_s": order.bytes_per_s,
        "unbound_s": unbound.ends_s,
        "bytes": sum(d.bytes or 0 for d in leaving),
        "debt_device_s": sum(d.debt_s for d in leaving),
        "stay": len(found.departures) - len(leaving),
    }


def _departure(snapshot: Snapshot, found: Departure) -> dict[str, Any]:
    return {
        "job": found.job,
        "name": found.name,
        "tier": found.tier.name.lower(),
        "devices": found.held,
        "how": str(found.fate.how),
        "to": list(destination(snapshot, found.fate.target)),
        "nodes": [s.node for s in found.fate.target],
        "bytes": found.bytes,
        "begins_s": found.begins_s,
        "pause_s": found.pause_s,
        "debt_device_s": found.debt_s,
        "why": found.fate.reason,
    }
