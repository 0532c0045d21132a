"""Commands about who gets what, and who had to give way for it."""

from __future__ import annotations

from typing import Annotated

import typer

from singularity.primitives.clock import SystemClock

from .frame import server
from .output import Column, Format, Output, Sheet, duration, say, show_list
from .views import EvictionView, SlaView

EVICTIONS = Sheet(
    EvictionView.model_validate,
    (
        Column[EvictionView]("AGO", lambda e: duration(SystemClock().now_s() - e.at_s)),
        Column("JOB", lambda e: e.name or e.job),
        Column("FOR", lambda e: e.whom.name if e.whom else "-"),
        Column("REASON", lambda e: e.reason),
    ),
    lambda e: e.job,
)


SLA = Sheet(
    SlaView.model_validate,
    (
        Column[SlaView]("PROJECT", lambda s: s.project),
        Column("TIER", lambda s: s.tier),
        Column("JOBS", lambda s: str(s.jobs)),
        Column("GIVEN", lambda s: percent(s.fraction)),
        Column("PROMISED", lambda s: percent(s.promised)),
        Column("SHORT", lambda s: str(s.short)),
    ),
    lambda s: f"{s.project}/{s.tier}",
)


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.1%}"


def sla(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Show what projects were given of what they asked for within the last hour, by tier."""
    show_list(server(ctx).items("/v1/sla"), SLA, output)


def evictions(
    ctx: typer.Context,
    acknowledge: Annotated[
        bool, typer.Option("--acknowledge", help="They are right: as many again may follow.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """List the jobs that had to leave their devices for others within the last minute."""
    if acknowledge:
        server(ctx).post("/v1/evictions/acknowledgements")
        say("acknowledged: those until now count no more")
        return
    show_list(server(ctx).items("/v1/evictions"), EVICTIONS, output)
