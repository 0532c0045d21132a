"""How many replicas a service needs: pure sizing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .policy import Policy

_COOL_S = 60.0


@dataclass(frozen=True, slots=True)
class Demand:
    stable: float
    panic: float
    queued: int


@dataclass(frozen=True, slots=True)
class Bounds:
    least: int
    most: int
    per_replica: float
    idle_after_s: float | None


@dataclass(frozen=True, slots=True)
class Scaling:
    replicas: int = 0
    since_s: float = 0.0
    busy_s: float = 0.0


def size(
    scaling: Scaling,
    demand: Demand,
    bounds: Bounds,
    now_s: float,
    policy: Policy,  # noqa: ARG001
) -> tuple[Scaling, str]:
    load = max(demand.stable, demand.panic)
    if load > 0.0 or demand.queued:
        scaling = replace(scaling, busy_s=now_s)
    wanted = max(math.ceil(load / bounds.per_replica - 1e-9), int(demand.queued > 0))
    wanted = min(max(wanted, bounds.least), bounds.most)
    if bounds.idle_after_s is not None and now_s - scaling.busy_s >= bounds.idle_after_s:
        wanted = 0
    if wanted < scaling.replicas and now_s - scaling.since_s < _COOL_S:
        wanted = scaling.replicas
    if wanted == scaling.replicas:
        return scaling, ""
    return replace(scaling, replicas=wanted, since_s=now_s), f"load {load:.3g}"
