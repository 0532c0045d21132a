"""What services come to, as numbers to scrape; what routers count themselves, they tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from singularity.primitives import replicas
from singularity.primitives.telemetry import Labels, Metric

from .service_store import Standing


def service_metrics(found: Sequence[Standing]) -> list[Metric]:
    """In the order of services. What is not known of one is left out."""

    def gauge(name: str, help_: str, of: Callable[[Standing], float | None]) -> Metric:
        values = [(_labels(each), of(each)) for each in found]
        samples = tuple((labels, value) for labels, value in values if value is not None)
        return Metric(f"service_{name}", "gauge", help_, samples)

    return [
        gauge("replicas_wanted", "Replicas that there should be.", _wanted),
        gauge("replicas_ready", "Replicas that take requests.", _ready),
        gauge("requests_per_second", "Over a minute.", _rps),
        gauge("requests_at_once", "Over a minute, those that wait included.", _busy),
        gauge("requests_queued", "That wait for a replica.", _queued),
        gauge("slo_attained", "Share of an hour's requests as promised.", _attained),
        gauge("slo_promised", "Share of the requests.", _promised),
        gauge("devices_borrowed", "Lent by other jobs now.", lambda s: sum(s.lent.values())),
    ]


def _labels(found: Standing) -> Labels:
    return {"project": found.service.project, "service": found.service.name}


def _wanted(found: Standing) -> float:
    return 0.0 if found.service.ending else float(sum(found.service.wanted()))


def _ready(found: Standing) -> float:
    return float(sum(map(replicas.ready, found.replicas)))


def _rps(found: Standing) -> float | None:
    return found.load.rps if found.load else None


def _queued(found: Standing) -> float | None:
    return float(found.load.queued) if found.load else None


def _busy(found: Standing) -> float | None:
    return found.load.busy if found.load else None


def _attained(found: Standing) -> float | None:
    return found.hour.attained(found.service.slo) if found.service.slo else None


def _promised(found: Standing) -> float | None:
    return found.service.slo.share if found.service.slo else None
