"""/v1/evictions: who had to leave devices for others just now, and an operator's word on it."""

from __future__ import annotations

from fastapi import APIRouter

from singularity.api.services import Operator, Overseer, Services, Serving
from singularity.api.views import Json
from singularity.scheduler.plan import recently_evicted

router = APIRouter(prefix="/v1", tags=["fleet"])


@router.get("/evictions")
def evictions(_: Overseer, serving: Serving) -> Json:
    """Those of the last minute that nobody has acknowledged; there are never more than `most`."""
    return _told(serving)


@router.post("/evictions/acknowledgements", status_code=201)
def acknowledge(who: Operator, serving: Serving) -> Json:
    """They are as they should be: as many again may follow at once."""
    serving.ledger.acknowledge(who.token, serving.clock.now_s())
    serving.waker.wake()
    return _told(serving)


def _told(serving: Services) -> Json:
    snapshot = serving.ledger.snapshot(serving.clock.now_s())
    items = [
        {"job": j.id, "name": j.spec.name, "at_s": j.taken.evicted_at_s, "reason": j.taken.reason}
        for j in recently_evicted(snapshot)
        if j.taken is not None
    ]
    return {
        "items": items,
        "next": None,
        "most": serving.settings.policy().evictions_per_minute_max,
        "acknowledged_at_s": snapshot.acknowledged_s or None,
    }
