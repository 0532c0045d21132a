"""What the server answers, as far as the tables need it. Unknown fields are ignored, so an older
client reads a newer server."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ShardView(View):
    node: str
    cluster: str = ""
    region: str = ""
    devices: int
    ranks: tuple[int, ...] = ()


class CheckpointView(View):
    incarnation: int
    cut: int
    step: int
    at_s: float
    engine: str = ""
    raw_bytes: int = 0
    new_bytes: int = 0

    @property
    def name(self) -> str:
        return f"{self.incarnation}-{self.cut}"


class CertificateView(View):
    finding: str
    reason: str
    step: int = 0
    steps: int = 0
    facts: dict[str, str] = Field(default_factory=dict)


class JobView(View):
    id: str
    name: str
    project: str = ""
    kind: str = ""
    tier: str = ""
    state: str
    intent: str = ""
    devices: int
    device: str = ""
    ranks: int = 1
    placement: tuple[ShardView, ...] = ()
    region: str | None = None
    incarnation: int = 0
    cut: int = 0
    step: int = 0
    exit_code: int | None = None
    message: str = ""
    submitted_at_s: float = 0.0
    since_s: float = 0.0
    infra_failures: int = 0
    checkpoint: CheckpointView | None = None
    certificate: CertificateView | None = None

    @property
    def held(self) -> int:
        """Devices of the current placement."""
        return sum(shard.devices for shard in self.placement)


class StackView(View):
    incarnation: int
    rank: int
    at_s: float
    bytes: int = 0


class EventView(View):
    seq: int = 0
    job: str = ""
    at_s: float
    event: str
    before: str | None = Field(default=None, alias="from")
    after: str | None = Field(default=None, alias="to")
    reason: str = ""
    incarnation: int = 0
    node: str | None = None


class ResizeView(View):
    """Other devices within one life, without a cut."""

    at_s: float
    devices: int
    seconds: float
    reason: str = ""


class IncarnationView(View):
    """One life of a job: where, how long, and what ending it cost."""

    incarnation: int
    region: str | None = None
    cluster: str | None = None
    nodes: tuple[str, ...] = ()
    devices: int = 0
    placed_at_s: float
    running_at_s: float | None = None
    ended_at_s: float | None = None
    end: str | None = None
    step_from: int | None = None
    step_to: int | None = None
    lost_s: float | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    resizes: tuple[ResizeView, ...] = ()


class ReasonView(View):
    kind: str
    detail: str


class ChangeView(View):
    text: str


class EtaView(View):
    p50_s: float | None = None
    p90_s: float | None = None


class CalibrationView(View):
    made: int = 0
    p90_held: int = 0


class WhyView(View):
    state: str
    reasons: tuple[ReasonView, ...] = ()
    changes: tuple[ChangeView, ...] = ()
    placed: bool = False
    eta: EtaView | None = None
    calibration: CalibrationView | None = None


class NodeView(View):
    id: str
    region: str
    cluster: str
    rack: str = ""
    device: str = ""
    devices: int
    used: int = 0
    duty: str = "ready"
    lost: bool = False
    heard_s: float = 0.0
    epoch: int = 0
    jobs: tuple[str, ...] = ()

    @property
    def condition(self) -> str:
        if self.lost:
            return "lost"
        return self.duty if self.epoch else "never seen"


class DeviceView(View):
    """One accelerator of a node."""

    id: str
    node: str = ""
    region: str = ""
    name: str = ""
    uuid: str = ""
    memory_bytes: int = 0
    used_bytes: int = 0
    utilisation: float | None = None
    temperature_c: int | None = None
    health: str = ""
    links: tuple[int, ...] = ()
    seen_s: float = 0.0


class AreaView(View):
    """A region or a cluster with what it holds."""

    id: str
    devices: int = 0
    used: int = 0
    nodes: int = 0
    ready: int = 0
    lost: int = 0
    draining: int = 0
    cost: float | None = None
    carbon_g: float | None = None


class WaitingView(View):
    job: str
    why: str = ""


class DrainView(View):
    id: str | int
    target: str
    at_s: float = 0.0
    policy: str = "migrate"
    deadline_s: float | None = None
    paused: bool = False
    ended_at_s: float | None = None
    jobs: int = 0
    moved: int = 0
    moving: tuple[str, ...] = ()
    waiting: tuple[WaitingView, ...] = ()
    remaining_jobs: tuple[str, ...] = ()
    done: bool = False

    @property
    def over(self) -> bool:
        return self.done or self.ended_at_s is not None

    @property
    def condition(self) -> str:
        if self.ended_at_s is not None:
            return "undone"
        if self.paused:
            return "paused"
        return "empty" if self.done else "draining"


class DepartureView(View):
    job: str
    name: str = ""
    tier: str = ""
    devices: int = 0
    how: str = ""
    to: tuple[str, ...] = ()
    bytes: int | None = None
    begins_s: float | None = None
    pause_s: float = 0.0
    why: str = ""


class ExodusView(View):
    """What a drain would do."""

    target: str
    departures: tuple[DepartureView, ...] = ()
    ends_s: float | None = None
    bytes: int = 0
    debt_device_s: float = 0.0
    stay: int = 0


class SlaView(View):
    """One project and tier; `short` jobs are below what the tier promises."""

    project: str
    tier: str
    jobs: int = 0
    short: int = 0
    fraction: float | None = None
    promised: float | None = None


class AllotmentView(View):
    guaranteed: int = 0
    borrow: int | None = None
    lend: int | None = None
    used: int = 0
    borrowed: int = 0


class ProjectView(View):
    id: str
    parent: str = ""
    weight: float = 1.0
    devices: dict[str, AllotmentView] = {}


class QuotaView(View):
    """One project and kind of device; nothing said of the kind is no limit."""

    project: str
    parent: str = ""
    weight: float = 1.0
    kind: str = ""
    said: AllotmentView | None = None


class UsageView(View):
    """`device_h` counts half after a day; `share` is of all that was used."""

    project: str
    weight: float = 1.0
    devices: int = 0
    borrowed: int = 0
    device_h: float = 0.0
    share: float = 0.0


class EffectView(View):
    job: str
    name: str = ""
    tier: str = ""
    what: str = ""
    before: str = ""
    after: str = ""
    reason: str = ""


class ScoreView(View):
    devices: int = 0
    utilisation: float = 0.0
    running: int = 0
    waiting: int = 0
    waiting_devices: int = 0
    short: dict[str, int] = {}


class PlanView(View):
    """What changes would lead to; `short` are devices that tiers promise and jobs do not hold."""

    changed: bool
    others: int = 0
    before: ScoreView
    after: ScoreView
    paid_device_s: float = 0.0


class EvictionView(View):
    job: str
    name: str = ""
    at_s: float
    reason: str = ""


class VerifyView(View):
    ok: bool
    chunks: int = 0
    bytes: int = 0
    faults: tuple[str, ...] = ()
