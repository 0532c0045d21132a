"""What the API says of services, as far as commands read it."""

from __future__ import annotations

from pydantic import Field

from .views import View


class ReplicaView(View):
    job: str
    name: str = ""
    revision: int = 1
    state: str = ""
    ready: bool = False
    leaving: bool = False
    node: str | None = None
    endpoint: str | None = None
    failures: int = 0
    message: str = ""

    @property
    def condition(self) -> str:
        return "leaving" if self.leaving else "ready" if self.ready else self.state


class ReplicasView(View):
    min: int = 1
    max: int = 1
    wanted: int = 0
    ready: int = 0
    items: tuple[ReplicaView, ...] = ()


class LoadView(View):
    rps: float = 0.0
    concurrency: float = 0.0
    queued: int = 0
    spread: float = 1.0


class HourView(View):
    arrivals: int = 0
    failed: int = 0
    shed: int = 0
    wait_p99_s: float | None = None
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None


class SloView(View):
    promised: float
    attained: float | None = None


class CanaryView(View):
    revision: int
    requests: int
    served: int = 0
    attained: float | None = None


class LenderView(View):
    job: str
    devices: int


class BorrowedView(View):
    devices: int = 0
    lenders: tuple[LenderView, ...] = Field(default=(), alias="from")


class ServiceView(View):
    id: str
    name: str
    project: str = ""
    tier: str = ""
    condition: str = ""
    message: str = ""
    revision: int = 1
    replicas: ReplicasView = ReplicasView()
    load: LoadView | None = None
    hour: HourView = HourView()
    slo: SloView | None = None
    canary: CanaryView | None = None
    borrowed: BorrowedView = BorrowedView()

    @property
    def attainment(self) -> str:
        if self.slo is None or self.slo.attained is None:
            return "-"
        return f"{self.slo.attained:.2%} of {self.slo.promised:.2%}"

    @property
    def revisions(self) -> str:
        return f"{self.revision}" + (f" and {self.canary.revision}" if self.canary else "")


class ServiceEventView(View):
    seq: int = 0
    at_s: float
    event: str
    reason: str = ""


class LoanView(View):
    """Devices of a job that a service has or had."""

    service: str
    job: str
    name: str = ""
    devices: int
    since_s: float
    until_s: float | None = None
    seconds: float = 0.0
    device_s: float = 0.0
    price_device_s: float = 0.0
    of_asked: float | None = None
