"""`singularity rebalance`: which nodes could come free as a whole, and letting them."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from .client import Json
from .frame import server
from .output import Column, Format, Output, Sheet, say, show_list, show_raw
from .views import ClearanceView

CLEARANCES: Final = Sheet(
    ClearanceView.model_validate,
    (
        Column[ClearanceView]("FREES", lambda c: c.node),
        Column("CLUSTER", lambda c: c.cluster),
        Column("DEVICES", lambda c: str(c.devices)),
        Column("COSTS", lambda c: f"{c.cost_device_s:.0f}"),
        Column("IS WORTH", lambda c: f"{c.worth_device_s:.0f}"),
        Column("BY MOVING", lambda c: "; ".join(m.text for m in c.moves) or "-"),
    ),
    lambda c: c.node,
)


def rebalance(
    ctx: typer.Context,
    target: Annotated[str | None, typer.Argument(help="region/…, cluster/…; all if none.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only tell what it would do.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Begin no further move.")] = False,
    within: Annotated[str | None, typer.Option(help="How long it may take: 30m, 2h.")] = None,
    reason: Annotated[str, typer.Option(help="Kept with it.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Move jobs together where that frees whole nodes for less than they are worth."""
    client = server(ctx)
    if stop:
        client.delete("/v1/rebalance")
        say("no further move begins")
        return
    wishes = {"target": target, "within": within, "reason": reason or None}
    body: Json = {name: value for name, value in wishes.items() if value is not None}
    if not plan:
        made = client.post("/v1/rebalance", body)
        say(f"{made['id']} is in force until nothing is gained any more")
        return
    found = client.post("/v1/rebalance", {**body, "plan": True})
    if output not in (Format.TABLE, Format.WIDE):
        show_raw(found, output)
        return
    show_list(found["clearances"], CLEARANCES, output)
    say(
        f"{found['moves']} moves, {found['at_a_time']} at a time; {found['whole_nodes']} nodes are "
        f"free as a whole, {found['whole_nodes_then']} then; costs {found['cost_device_s']:.0f} "
        f"device-seconds, is worth {found['worth_device_s']:.0f}"
    )
