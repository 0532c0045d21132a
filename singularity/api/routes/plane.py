"""/v1/plane: how the control plane is. For who may see all projects."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter

from singularity.api.lease import leaders
from singularity.api.services import Overseer, Serving
from singularity.api.telemetry import gauges
from singularity.api.views import Json

router = APIRouter(prefix="/v1", tags=["fleet"])


@router.get("/plane")
def plane(_: Overseer, serving: Serving) -> Json:
    """Who leads each loop, what /metrics tells of the whole planet, the jobs by state, and how the
    last estimates held."""
    told = {metric.name: metric.samples for metric in gauges(serving.engine)}
    with serving.engine.connect() as db:
        loops = leaders(db)
    return {
        "loops": loops,
        "figures": {
            name: samples[0][1] for name, samples in told.items() if samples and not samples[0][0]
        },
        "jobs": {labels["state"]: int(value) for labels, value in told["jobs"]},
        "estimates": asdict(serving.estimates.calibration(serving.clock.now_s())),
    }
