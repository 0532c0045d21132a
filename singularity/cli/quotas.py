"""`singularity quota …` and `usage`: what projects are guaranteed, may borrow and lend, and use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import quote

import typer

from singularity.primitives.errors import NotFound

from .client import Client, Json
from .frame import CONTEXT, Commands, server
from .outlook_views import ProjectView, QuotaView, UsageView
from .output import Column, Format, Output, Sheet, show_list, show_raw

quota = typer.Typer(
    cls=Commands,
    context_settings=CONTEXT,
    no_args_is_help=True,
    help="What projects are guaranteed, may borrow and lend.",
)
ProjectName = Annotated[str, typer.Argument(metavar="PROJECT")]


def _number(value: int | None) -> str:
    return "no limit" if value is None else str(value)


def _said(name: str) -> Callable[[QuotaView], str]:
    return lambda q: _number(getattr(q.said, name)) if q.said else "-"


QUOTAS = Sheet(
    QuotaView.model_validate,
    (
        Column[QuotaView]("PROJECT", lambda q: q.project),
        Column("PART OF", lambda q: q.parent or "-"),
        Column("WEIGHT", lambda q: f"{q.weight:g}"),
        Column("DEVICE", lambda q: q.kind or "any"),
        Column("GUARANTEED", _said("guaranteed")),
        Column("BORROWS", lambda q: _number(q.said.borrow) if q.said else "no limit"),
        Column("LENDS", lambda q: _number(q.said.lend) if q.said else "-"),
        Column("USED", _said("used")),
        Column("BORROWED", _said("borrowed")),
    ),
    lambda q: q.project,
)
USAGE = Sheet(
    UsageView.model_validate,
    (
        Column[UsageView]("PROJECT", lambda u: u.project),
        Column("WEIGHT", lambda u: f"{u.weight:g}"),
        Column("DEVICES", lambda u: str(u.devices)),
        Column("BORROWED", lambda u: str(u.borrowed)),
        Column("USED", lambda u: f"{u.device_h:.1f} device-h"),
        Column("SHARE", lambda u: f"{u.share:.1%}"),
    ),
    lambda u: u.project,
)


@quota.command("ls")
def ls(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """List projects with their quotas and what of them is used."""
    _show(server(ctx).items("/v1/projects"), output)


@quota.command("show")
def show(ctx: typer.Context, project: ProjectName, output: Output = Format.TABLE) -> None:
    """Show the quotas of one project."""
    _show([server(ctx).get(_path(project))], output)


@quota.command("set")
def put(
    ctx: typer.Context,
    project: ProjectName,
    guarantee: Annotated[
        str | None, typer.Argument(metavar="KIND:N", help="As in H100:16; N may be none.")
    ] = None,
    borrow: Annotated[str | None, typer.Option(help="Devices beyond its own, or `none`.")] = None,
    lend: Annotated[str | None, typer.Option(help="Of its own to others, or `none`.")] = None,
    parent: Annotated[
        str | None, typer.Option(help="The project it is part of; '' for none.")
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Of its usage in the queue.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Guarantee devices of one kind to a project, and say what it may borrow and lends.

    What is not said stays; KIND:none takes the limit off. `--borrow none` is no limit.
    """
    client = server(ctx)
    body = _known(client, project)
    if parent is not None:
        body["parent"] = parent or None
    if weight is not None:
        body["weight"] = weight
    if guarantee is not None:
        kind, _, count = guarantee.partition(":")
        said = body["devices"].setdefault(kind, {})
        if count == "none":
            del body["devices"][kind]
        else:
            said["guaranteed"] = _count("KIND:N", count)
            said |= {} if borrow is None else {"borrow": _limit("--borrow", borrow)}
            said |= {} if lend is None else {"lend": _limit("--lend", lend)}
    elif borrow is not None or lend is not None:
        raise typer.BadParameter("say of which kind of device, as in H100:16")
    _show([client.put(_path(project), body)], output)


def usage(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Show what projects hold and have used; who used least by its weight is first in the queue.

    What was used counts half after a day."""
    show_list(server(ctx).items("/v1/usage"), USAGE, output)


def _path(project: str) -> str:
    return f"/v1/projects/{quote(project, safe='')}"


def _known(client: Client, project: str) -> Json:
    """What is said of the project now, as it is sent."""
    try:
        found = client.get(_path(project))
    except NotFound:
        return {"devices": {}}
    kept = ("guaranteed", "borrow", "lend")
    devices = {kind: {k: a[k] for k in kept} for kind, a in found["devices"].items()}
    return {"parent": found["parent"] or None, "weight": found["weight"], "devices": devices}


def _count(what: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{what}: {text!r} is no number of devices") from None


def _limit(what: str, text: str) -> int | None:
    return None if text == "none" else _count(what, text)


def _show(items: list[Json], output: Format) -> None:
    """A line for each kind; one for a project of which nothing is said."""
    if output in (Format.JSON, Format.YAML):
        show_raw({"items": items} if len(items) != 1 else items[0], output)
        return
    lines = []
    for view in map(ProjectView.model_validate, items):
        of = {"project": view.id, "parent": view.parent, "weight": view.weight}
        kinds = [{"kind": k, "said": a.model_dump()} for k, a in sorted(view.devices.items())]
        lines += [{**of, **each} for each in kinds or [{}]]
    show_list(lines, QUOTAS, output)
