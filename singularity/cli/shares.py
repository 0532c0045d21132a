"""Commands about who gets what, and who had to give way for it."""

from __future__ import annotations

from typing import Annotated

import typer

from singularity.primitives.clock import SystemClock

from .frame import server
from .output import Column, Format, Output, Sheet, duration, say, show_list
from .views import EvictionView

EVICTIONS = Sheet(
    EvictionView.model_validate,
    (
        Column[EvictionView]("AGO", lambda e: duration(SystemClock().now_s() - e.at_s)),
        Column("JOB", lambda e: e.name or e.job),
        Column("REASON", lambda e: e.reason),
    ),
    lambda e: e.job,
)


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
