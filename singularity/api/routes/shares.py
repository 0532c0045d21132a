"""/v1/sla and /v1/evictions: who got what of what it asked for, and who had to give way for it."""

from __future__ import annotations

from fastapi import APIRouter

from singularity.api.nouns import Attainments, Evictions
from singularity.api.services import Operator, Overseer, Services, Serving, Viewer
from singularity.api.views import Json, share_view
from singularity.primitives.model import Job, JobId
from singularity.primitives.sla import attainment
from singularity.scheduler.plan import recently_evicted

router = APIRouter(prefix="/v1", tags=["fleet"])


@router.get("/sla")
def sla(who: Viewer, serving: Serving) -> Attainments:
    """Of the last hour, by project and tier, of the jobs that have not ended."""
    now_s = serving.clock.now_s()
    jobs = serving.ledger.snapshot(now_s).jobs
    found = attainment((j for j in jobs if who.project in (None, j.spec.project)), now_s)
    items = [
        {
            "project": a.project,
            "tier": a.tier.name.lower(),
            "jobs": a.jobs,
            "short": a.short,
            **share_view(a.share, a.tier),
        }
        for a in found
    ]
    return {"items": items, "next": None}


@router.get("/evictions")
def evictions(_: Overseer, serving: Serving) -> Evictions:
    """Those of the last minute that nobody has acknowledged; there are never more than `most`."""
    return _told(serving)


@router.post("/evictions/acknowledgements", status_code=201)
def acknowledge(who: Operator, serving: Serving) -> Evictions:
    """They are as they should be: as many again may follow at once."""
    serving.ledger.acknowledge(who.token, serving.clock.now_s())
    serving.waker.wake()
    return _told(serving)


def _told(serving: Services) -> Json:
    snapshot = serving.ledger.snapshot(serving.clock.now_s())
    items = [
        {
            **{"job": j.id, "name": j.spec.name},
            **{"at_s": j.taken.evicted_at_s, "reason": j.taken.reason},
            "for": _named(snapshot.by_id.get(JobId(j.taken.whom))),
        }
        for j in recently_evicted(snapshot)
        if j.taken is not None
    ]
    return {
        "items": items,
        "next": None,
        "most": serving.settings.policy().evictions_per_minute_max,
        "acknowledged_at_s": snapshot.acknowledged_s or None,
    }


def _named(job: Job | None) -> Json | None:
    """In full, for whoever asks here sees all projects; None of one that is gone."""
    if job is None:
        return None
    return {"job": job.id, "name": job.spec.name, "project": job.spec.project}
