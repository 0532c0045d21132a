"""`singularity operations` and `singularity maintenance`: what was done, what can be undone, and
what is planned week by week."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote

import typer

from singularity.primitives.clock import SystemClock
from singularity.primitives.drains import Leaving

from .client import Json
from .frame import CONTEXT, Commands, server
from .output import Column, Format, Output, Sheet, duration, say, show_list, show_one
from .views import MaintenanceView, OperationView

_SHOWN: Final = 50
Number = Annotated[int, typer.Argument(metavar="ID")]
Name = Annotated[str, typer.Argument(metavar="NAME")]


def _facts(found: Json) -> str:
    return ", ".join(f"{name}={_fact(value)}" for name, value in found.items()) or "-"


def _fact(value: object) -> object:
    """A quarantine is told by its reason."""
    return value.get("reason", value) if isinstance(value, dict) else value


def _undone(found: OperationView) -> str:
    if found.undone_by is not None:
        return f"undone by {found.undone_by}"
    return f"undoes {found.undoes}" if found.undoes is not None else "-"


OPERATIONS: Final = Sheet(
    OperationView.model_validate,
    (
        Column[OperationView]("ID", lambda o: str(o.id)),
        Column("AGO", lambda o: duration(SystemClock().now_s() - o.at_s)),
        Column("ACTOR", lambda o: o.actor),
        Column("DID", lambda o: o.verb),
        Column("TO", lambda o: o.target),
        Column("UNDONE", _undone),
        Column("REASON", lambda o: o.reason or "-"),
        Column("BEFORE", lambda o: _facts(o.before), wide=True),
        Column("AFTER", lambda o: _facts(o.after), wide=True),
    ),
    lambda o: str(o.id),
)
operations = typer.Typer(
    cls=Commands,
    context_settings=CONTEXT,
    no_args_is_help=True,
    help="What operators did, and taking it back.",
)


@operations.command("ls")
def list_operations(
    ctx: typer.Context,
    target: Annotated[str | None, typer.Option(help="Of one target: node/n0.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = _SHOWN,
    output: Output = Format.TABLE,
) -> None:
    """List what operators did, newest first."""
    found = server(ctx).items("/v1/operations", {"target": target}, limit)
    show_list(found, OPERATIONS, output)


@operations.command("show")
def show_operation(ctx: typer.Context, number: Number, output: Output = Format.WIDE) -> None:
    """Show one, with what was before and after."""
    show_one(server(ctx).get(f"/v1/operations/{number}"), OPERATIONS, output)


@operations.command("undo")
def undo(ctx: typer.Context, number: Number, output: Output = Format.TABLE) -> None:
    """Make it as it was before; refused where there is no way back, or something came after."""
    show_one(server(ctx).post(f"/v1/operations/{number}/undo"), OPERATIONS, output)


# -- maintenance -----------------------------------------------------------------------------------


def _until(at_s: float) -> str:
    left_s = at_s - SystemClock().now_s()
    return f"in {duration(left_s)}" if left_s > 0 else f"{duration(-left_s)} ago"


MAINTENANCE: Final = Sheet(
    MaintenanceView.model_validate,
    (
        Column[MaintenanceView]("NAME", lambda m: m.id),
        Column("TARGET", lambda m: m.target),
        Column("EVERY", lambda m: m.every),
        Column("FOR", lambda m: duration(m.length_s)),
        Column("DRAINED", lambda m: _until(m.begins_s)),
        Column("OPENS", lambda m: _until(m.opens_s)),
        Column("CONDITION", lambda m: m.condition),
    ),
    lambda m: m.id,
)
maintenance = typer.Typer(
    cls=Commands,
    context_settings=CONTEXT,
    no_args_is_help=True,
    help="Windows that come again and again, and are empty when they open.",
)


@maintenance.command("add")
def add(
    ctx: typer.Context,
    name: Name,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="region/…, cluster/…, node/…")],
    every: Annotated[str, typer.Option(help="'sunday 02:00 UTC', 'daily 03:00 Europe/Berlin'.")],
    length: Annotated[str, typer.Option("--for", help="How long a window is: 2h.")],
    policy: Annotated[Leaving, typer.Option(help="As of a drain.")] = Leaving.MIGRATE,
    moves: Annotated[int | None, typer.Option(min=1, help="At most so many at a time.")] = None,
    bandwidth: Annotated[str | None, typer.Option(help="Moves may carry: 200MB/s.")] = None,
    reason: Annotated[str, typer.Option(help="Kept with it.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Plan a window, week by week. The drain begins in time to be done when it opens."""
    wishes = {"moves": moves, "bandwidth": bandwidth, "reason": reason or None}
    body: Json = {"name": name, "target": target, "every": every, "for": length}
    body |= {"policy": str(policy), **{k: v for k, v in wishes.items() if v is not None}}
    show_one(server(ctx).post("/v1/maintenance", body), MAINTENANCE, output)


@maintenance.command("ls")
def list_maintenance(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """List windows: when the next one opens, and when its drain begins."""
    show_list(server(ctx).items("/v1/maintenance"), MAINTENANCE, output)


@maintenance.command("rm")
def remove(ctx: typer.Context, name: Name) -> None:
    """Plan no further window. A drain in force goes on until its end."""
    server(ctx).delete(f"/v1/maintenance/{quote(name, safe='')}")
    say(f"{name} comes no more")


@maintenance.command("skip")
def skip(ctx: typer.Context, name: Name, output: Output = Format.TABLE) -> None:
    """Leave out the next window, or end the one that is open."""
    answer = server(ctx).post(f"/v1/maintenance/{quote(name, safe='')}/skip")
    show_one(answer, MAINTENANCE, output)
