"""/v1/queue: who waits for devices, in the order of their turns, and what binds each of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Final

from fastapi import APIRouter, Query

from singularity.api.auth import Caller
from singularity.api.services import Heavy, Services, Serving, Viewer
from singularity.api.views import Json
from singularity.primitives import replicas
from singularity.primitives.model import WAITING, Job, JobId
from singularity.scheduler.advice import Change
from singularity.scheduler.decide import decide
from singularity.scheduler.eta import Eta
from singularity.scheduler.explain import explain
from singularity.scheduler.plan import Plan
from singularity.scheduler.policy import Policy
from singularity.scheduler.queueing import queue as in_order
from singularity.scheduler.snapshot import Snapshot

router = APIRouter(prefix="/v1", tags=["jobs"])

ADVISED_MOST: Final = 10


@dataclass(frozen=True, slots=True)
class _Scene:
    """One decision, and what is expected to follow from it."""

    snapshot: Snapshot
    policy: Policy
    plan: Plan
    etas: dict[JobId, Eta]

    @classmethod
    def of(cls, serving: Services) -> _Scene:
        snapshot, policy = serving.ledger.snapshot(serving.clock.now_s()), serving.settings.policy()
        plan = decide(snapshot, policy)
        etas = serving.prospects.etas(snapshot, policy) if plan.pending else {}
        return cls(snapshot, policy, plan, etas)


@router.get("/queue")
def queue(
    who: Viewer,
    serving: Serving,
    _: Heavy,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Json:
    """Of the first `limit` that the caller may see, all by one decision that nothing follows from:
    the reasons that bind each, the first one most; when it will start; and, of the first ten, the
    least change that lets it start, as soon as it was found (`why` tells that of any at once).
    `waiting` counts them all."""
    scene = _Scene.of(serving)
    mine = [j for j in in_order(scene.snapshot, scene.policy) if who.sees(j.spec.project)]
    known = {j.id for j in mine}
    # Those that their owners hold do not queue, nor those that verify others.
    mine += [
        j
        for j in scene.snapshot.jobs
        if j.state in WAITING
        and j.id not in known
        and who.sees(j.spec.project)
        and not replicas.resting(j)
    ]
    first, plan = mine[:ADVISED_MOST], scene.plan
    changes = serving.prospects.changes(scene.snapshot, plan, first, scene.policy)
    items = [_item(scene, job, who, changes.get(job.id)) for job in mine[:limit]]
    return {"items": items, "next": None, "waiting": len(mine)}


def _item(scene: _Scene, job: Job, who: Caller, change: Change | None) -> Json:
    snapshot, plan, eta = scene.snapshot, scene.plan, scene.etas.get(job.id)
    if eta is not None and eta.after is not None:
        other = snapshot.by_id[eta.after]
        eta = eta if who.sees(other.spec.project) else replace(eta, after=None)
    reasons = plan.pending.get(job.id) or explain(snapshot, plan, job, scene.policy).reasons
    return {
        "job": job.id,
        "name": job.spec.name,
        "project": job.spec.project,
        "tier": job.tier.name.lower(),
        "kind": str(job.spec.kind),
        "state": str(job.state),
        "devices": job.devices,
        "device": job.spec.device,
        "since_s": job.since_s,
        "reasons": [{"kind": r.kind, "detail": r.detail} for r in reasons],
        "change": asdict(change) if change else None,
        "eta": asdict(eta) if eta else None,
    }
