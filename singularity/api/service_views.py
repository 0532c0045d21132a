"""What clients see of services and of what they borrow. Pure: nouns in, plain JSON out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from singularity.primitives import replicas
from singularity.primitives.lending import Repaid
from singularity.primitives.model import Intent, Job, JobId
from singularity.primitives.routing import quantile_s
from singularity.primitives.service import Loan
from singularity.primitives.sla import KEPT, SLICE_S, share
from singularity.scheduler.services import Served, Service
from singularity.scheduler.traffic import Load

from .service_store import Standing
from .views import Json, share_view


def service_view(found: Standing, now_s: float) -> Json:
    service = found.service
    awake = [j for j in found.replicas if j.intent is Intent.RUN or j.placement]
    wanted, tried = (0, 0) if service.ending else service.wanted()
    serving = service.spec.serving
    assert serving is not None
    return {
        "id": service.id,
        "name": service.name,
        "project": service.project,
        "tier": service.tier.name.lower(),
        "condition": condition(service, found.replicas, wanted + tried),
        "message": service.message,
        "revision": service.revision,
        "replicas": {
            "min": service.least,
            "max": service.most,
            "wanted": wanted + tried,
            "ready": sum(map(replicas.ready, found.replicas)),
            "items": [replica_view(job) for job in awake],
        },
        "run": list(service.spec.run),
        "device": service.spec.device,
        "devices": service.spec.devices,
        "share_of_each": str(service.spec.share) if service.spec.share else None,
        "target": {str(service.target.measure): service.target.value},
        "concurrency": serving.concurrency,
        "queue": {"most": service.queue_most, "timeout_s": service.timeout_s},
        "scale_to_zero_s": service.idle_after_s,
        "load": load_view(found.load) if found.load else None,
        "slo": _slo_view(service, found.hour),
        "hour": served_view(found.hour),
        "canary": _canary_view(service, found.tried),
        "borrowed": {
            "devices": sum(found.lent.values()),
            "from": [{"job": job, "devices": n} for job, n in sorted(found.lent.items())],
        },
        "created_at_s": service.created_at_s,
        "ended_at_s": service.ended_at_s,
        "age_s": max(0.0, (service.ended_at_s or now_s) - service.created_at_s),
        "version": service.version,
    }


def why_view(found: Standing, told: Mapping[JobId, Sequence[Json]]) -> Json:
    """Why it has the replicas that it has, as `why` tells it of a job; `told` are the reasons of
    each replica that shall answer and does not yet."""
    service = found.service
    wanted = 0 if service.ending else sum(service.wanted())
    ready = sum(map(replicas.ready, found.replicas))
    resting = sum(replicas.resting(job) for job in found.replicas)
    counts = f"{ready} of {wanted} wanted replicas answer"
    if resting:
        warm = sum(job.warm is not None for job in found.replicas)
        counts += f"; {resting} more rest until there is load for them, {warm} of them in memory"
    bounds = f"; it may have {service.least} to {service.most}"
    reasons = [{"kind": "replicas", "detail": counts + bounds}]
    if found.load is not None:
        target = service.target
        rate = f"{found.load.rps:.1f} requests a second, {found.load.busy:.1f} at a time"
        aim = f"each replica shall have {target.value:g} ({target.measure})"
        reasons.append({"kind": "load", "detail": f"{rate}, {found.load.queued} wait; {aim}"})
    if (slo := service.slo) is not None:
        attained = found.hour.attained(slo)
        kept = "none was asked" if attained is None else f"{attained:.2%} within the last hour"
        reasons.append({"kind": "promise", "detail": f"{slo.share:.2%} are promised; {kept}"})
    if service.message:
        reasons.append({"kind": "service", "detail": service.message})
    if found.lent:
        lent = ", ".join(f"{n} of {job}" for job, n in sorted(found.lent.items()))
        reasons.append({"kind": "borrowed", "detail": f"devices that training gave: {lent}"})
    for job in found.replicas:
        for reason in told.get(job.id, ()):
            detail = f"{job.spec.name}: {reason['detail']}"
            reasons.append({"kind": reason["kind"], "detail": detail})
    word = condition(service, found.replicas, wanted)
    return {"state": word, "placed": ready > 0, "reasons": reasons, "changes": [], "eta": None}


def condition(service: Service, jobs: tuple[Job, ...], wanted: int) -> str:
    """In one word."""
    if service.ending:
        return "ended" if service.ended_at_s is not None else "ending"
    ready = sum(map(replicas.ready, jobs))
    if service.trial is not None:
        return "trying"
    if ready >= wanted:
        return "serving" if wanted else "at-rest"
    return "short" if ready else "starting"


def replica_view(job: Job) -> Json:
    serving = job.spec.serving
    assert serving is not None
    return {
        "job": job.id,
        "name": job.spec.name,
        "revision": serving.revision,
        "state": str(job.state),
        "ready": replicas.ready(job),
        "leaving": job.leaving_at_s is not None,
        "node": job.placement[0].node if job.placement else None,
        "endpoint": job.endpoint or None,
        "failures": job.user_failures + job.infra_failures,
        "message": job.message,
    }


def load_view(load: Load) -> Json:
    """Over a minute, and over six seconds."""
    return {
        "rps": load.rps,
        "rps_panic": load.rps_panic,
        "concurrency": load.busy,
        "concurrency_panic": load.busy_panic,
        "queued": load.queued,
        "spread": load.spread,
    }


def served_view(found: Served) -> Json:
    counts = {"arrivals": found.arrivals, "done": found.done}
    quantiles = {
        f"{what}_p{round(100 * q)}_s": quantile_s(times, q)
        for what, times in (("wait", found.waits), ("latency", found.latencies))
        for q in (0.5, 0.99)
    }
    return {**counts, "failed": found.failed, "shed": found.shed, **quantiles}


def loan_view(job: Job, loan: Loan, now_s: float, *, named: bool) -> Json:
    """One that is not over. `of_asked` is what it comes to of what the job asked for within the
    hour: by so much less of it was given. Unless `named` nothing else is said of the job, which is
    of a project that the caller does not see."""
    found = {**_loan(job.id, loan, now_s), "until_s": None}
    if not named:
        return found
    given = share(job, now_s)
    lent_s = loan.devices * min(now_s - loan.since_s, SLICE_S * KEPT)
    return {
        **found,
        "name": job.spec.name,
        "of_asked": lent_s / given.asked_s if given.asked_s else None,
        "share": share_view(given, job.tier),
    }


def repaid_view(job: str, found: Repaid) -> Json:
    return {**_loan(job, found.loan, found.until_s), "until_s": found.until_s}


def _loan(job: str, loan: Loan, now_s: float) -> dict[str, Any]:
    seconds = max(0.0, now_s - loan.since_s)
    return {
        "service": loan.service,
        "job": job,
        "devices": loan.devices,
        "since_s": loan.since_s,
        "seconds": seconds,
        "device_s": loan.devices * seconds,
        "price_device_s": loan.price,
    }


def _slo_view(service: Service, hour: Served) -> Json | None:
    slo = service.slo
    if slo is None:
        return None
    return {
        "promise": str(slo.promise),
        "most_s": slo.most_s,
        "promised": slo.share,
        "attained": hour.attained(slo),
    }


def _canary_view(service: Service, tried: Served | None) -> Json | None:
    trial = service.trial
    if trial is None:
        return None
    counted = tried or Served()
    return {
        "revision": trial.revision,
        "share": trial.share,
        "requests": trial.requests,
        "until_s": trial.until_s,
        "served": counted.total,
        "attained": counted.attained(service.slo),
    }
