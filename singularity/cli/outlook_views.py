"""What the server says of projects, and of what changes would lead to."""

from __future__ import annotations

from pydantic import Field

from .views import View


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
    devices: dict[str, AllotmentView] = Field(default_factory=dict)


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
    short: dict[str, int] = Field(default_factory=dict)


class PlanView(View):
    """What changes would lead to; `short` are devices that tiers promise and jobs do not hold."""

    changed: bool
    others: int = 0
    before: ScoreView
    after: ScoreView
    paid_device_s: float = 0.0
