"""What the server answers, as far as the tables need it. Unknown fields are ignored, so an older
client reads a newer server."""

from __future__ import annotations

from typing import Any

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
    resting: bool = False
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
    def condition(self) -> str:
        """Its state; of a replica that its service does not need now, that it waits for nothing."""
        return "resting" if self.resting else self.state

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


class FaultView(View):
    at_s: float
    kind: str
    job: str = ""
    detail: str = ""


class QuarantineView(View):
    since_s: float
    until_s: float | None = None
    reason: str
    drains: bool = False


class HealthView(View):
    quarantine: QuarantineView | None = None
    sick: tuple[str, ...] = ()
    times: int = 0
    faults: tuple[FaultView, ...] = ()


class OperationView(View):
    id: int
    at_s: float
    actor: str
    verb: str
    target: str
    reason: str = ""
    before: dict[str, Any] = Field(default_factory=dict)
    after: dict[str, Any] = Field(default_factory=dict)
    undoes: int | None = None
    undone_by: int | None = None


class MaintenanceView(View):
    id: str
    target: str
    every: str
    length_s: float
    opens_s: float
    begins_s: float
    condition: str = ""


class RelocationView(View):
    job: str
    name: str = ""
    devices: int = 0
    to: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return f"{self.name or self.job} to {','.join(self.to)}"


class ClearanceView(View):
    """A node that would come free as a whole."""

    node: str
    cluster: str = ""
    devices: int = 0
    moves: tuple[RelocationView, ...] = ()
    cost_device_s: float = 0.0
    worth_device_s: float = 0.0


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
    health: HealthView = HealthView()

    @property
    def condition(self) -> str:
        if self.lost:
            return "lost"
        if self.health.quarantine is not None:
            return "quarantined"
        return self.duty if self.epoch else "never seen"


class SharerView(View):
    """One rank that has a share of a device; of another project it has no name."""

    job: str | None = None
    name: str | None = None
    rank: int = 0
    precedence: str = ""
    compute_milli: int = 0
    used_bytes: int = 0
    cap_bytes: int = 0
    busy: float | None = None
    slowdown: float | None = None
    held_s: float = 0.0
    lost_s: float = 0.0
    complaint: str = ""
    unyielding: float | None = None

    @property
    def who(self) -> str:
        return f"{self.name or 'of another project'}#{self.rank}"


class GivenView(View):
    """What is given out of a device in shares."""

    compute_milli: int
    memory_bytes: int


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
    given: GivenView | None = None
    sharers: tuple[SharerView, ...] = ()
    yields: bool = False


class AreaView(View):
    """A region or a cluster with what it holds."""

    id: str
    devices: int = 0
    used: int = 0
    nodes: int = 0
    ready: int = 0
    lost: int = 0
    draining: int = 0
    quarantined: int = 0
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
    bytes_per_s: float | None = None
    upkeep: str | None = None
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
    bytes_per_s: float | None = None
    unbound_s: float | None = None
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


class WhomView(View):
    name: str
    project: str = ""


class EvictionView(View):
    job: str
    name: str = ""
    at_s: float
    reason: str = ""
    whom: WhomView | None = Field(default=None, alias="for")


class VerifyView(View):
    ok: bool
    chunks: int = 0
    bytes: int = 0
    faults: tuple[str, ...] = ()
