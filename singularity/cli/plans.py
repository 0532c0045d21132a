"""`singularity plan`: what would be if something were otherwise."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from singularity.primitives.errors import InvalidSpec, SingularityError

from .client import Json
from .documents import read
from .frame import server
from .outlook_views import EffectView, PlanView, ScoreView
from .output import (
    Column,
    ExitCode,
    Format,
    Output,
    Sheet,
    explain,
    say,
    show_list,
    show_raw,
    write,
)

_CHANGES: Final = 2
EFFECTS: Final = Sheet(
    EffectView.model_validate,
    (
        Column[EffectView]("JOB", lambda e: e.name),
        Column("TIER", lambda e: e.tier),
        Column("WHAT", lambda e: e.what),
        Column("BEFORE", lambda e: e.before or "-"),
        Column("AFTER", lambda e: e.after or "-"),
        Column("REASON", lambda e: e.reason),
    ),
    lambda e: e.job,
)


def plan(
    ctx: typer.Context,
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[+job SPEC.yaml]…", help="Jobs that come.")
    ] = None,
    without_region: Annotated[list[str] | None, typer.Option(help="A region goes.")] = None,
    without_cluster: Annotated[list[str] | None, typer.Option(help="A cluster goes.")] = None,
    without_node: Annotated[list[str] | None, typer.Option(help="A node goes.")] = None,
    quota: Annotated[
        list[str] | None, typer.Option(metavar="PROJECT=+N[:KIND]", help="It is guaranteed more.")
    ] = None,
    devices: Annotated[
        list[str] | None, typer.Option(metavar="+N[:KIND]@CLUSTER", help="They are new.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show what would start, stop and move if something changed. Nothing is done.

    Exits with 0 where nothing would be otherwise, with 2 where something would, with 1 on errors.
    """
    gone = {"region": without_region, "cluster": without_cluster, "node": without_node}
    try:
        body: Json = {
            "jobs": [read(path) for path in _files(what or [])],
            "without": [f"{kind}/{name}" for kind, names in gone.items() for name in names or ()],
            "quotas": dict(_pair(text) for text in quota or ()),
            "devices": devices or [],
        }
        if not any(body.values()):
            raise InvalidSpec("say what changes: +job SPEC.yaml, or an option")
        answer = server(ctx).post("/v1/plans", body)
    except (SingularityError, typer.BadParameter) as error:
        explain(error if isinstance(error, SingularityError) else InvalidSpec(error.message))
        raise typer.Exit(ExitCode.ERROR) from error
    view = PlanView.model_validate(answer)
    if output in (Format.JSON, Format.YAML):
        show_raw(answer, output)
    else:
        show_list(answer["effects"], EFFECTS, output)
        _scores(view)
    raise typer.Exit(_CHANGES if view.changed else 0)


def _files(words: list[str]) -> list[str]:
    """`+job FILE` again and again."""
    files = words[1::2]
    if len(words) % 2 or any(word != "+job" for word in words[::2]):
        raise InvalidSpec("write +job SPEC.yaml, as often as there are jobs")
    return files


def _pair(text: str) -> tuple[str, str]:
    name, found, more = text.partition("=")
    if not (found and name and more.startswith("+")):
        raise InvalidSpec(f"--quota {text}: give PROJECT=+N, or PROJECT=+N:KIND")
    return name, more


def _scores(view: PlanView) -> None:
    before, after = view.before, view.after
    write(f"\n{'':<22}{'before':>10}{'after':>10}\n")
    for name, cell in _ROWS:
        write(f"{name:<22}{cell(before):>10}{cell(after):>10}\n")
    for tier in before.short:
        lacks = f"{before.short[tier]:>10}{after.short.get(tier, 0):>10}"
        write(f"{'short of ' + tier:<22}{lacks}\n")
    if view.paid_device_s:
        say(f"costs those who give way {view.paid_device_s:.3g} device-seconds")
    if view.others:
        say(f"{view.others} jobs of other projects are concerned too")


def _utilisation(score: ScoreView) -> str:
    return f"{score.utilisation:.1%}"


_ROWS: Final = (
    ("devices", lambda s: str(s.devices)),
    ("utilisation", _utilisation),
    ("jobs on devices", lambda s: str(s.running)),
    ("jobs that wait", lambda s: str(s.waiting)),
    ("devices they want", lambda s: str(s.waiting_devices)),
)
