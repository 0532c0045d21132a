"""`singularity drain`: what it would do, the order itself, and how far it is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from singularity.primitives.clock import SystemClock
from singularity.primitives.drains import Leaving
from singularity.primitives.errors import NotFound

from .client import Client, Json, decode
from .frame import server
from .output import (
    Column,
    Format,
    Output,
    Sheet,
    duration,
    say,
    show_list,
    show_one,
    show_raw,
    size,
    write,
)
from .views import DepartureView, DrainView, ExodusView

Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="region/us-east, cluster/…, node/…, or a bare name.")
]
_WIDTH = 30  # of a progress bar


def _left(drain: DrainView) -> str:
    if drain.deadline_s is None:
        return "-"
    return duration(max(0.0, drain.deadline_s - SystemClock().now_s()))


DRAINS = Sheet(
    DrainView.model_validate,
    (
        Column[DrainView]("DRAIN", lambda d: str(d.id)),
        Column("TARGET", lambda d: d.target),
        Column("CONDITION", lambda d: d.condition),
        Column("MOVED", lambda d: f"{d.moved}/{d.jobs}"),
        Column("MOVING", lambda d: str(len(d.moving))),
        Column("WAITING", lambda d: str(len(d.waiting))),
        Column("LEFT", _left),
        Column("POLICY", lambda d: d.policy, wide=True),
        Column(
            "AT MOST", lambda d: f"{size(d.bytes_per_s)}/s" if d.bytes_per_s else "-", wide=True
        ),
        Column("FOR", lambda d: d.upkeep or "-", wide=True),
        Column("JOBS", lambda d: ",".join(d.remaining_jobs) or "-", wide=True),
    ),
    lambda d: str(d.id),
)
DEPARTURES = Sheet(
    DepartureView.model_validate,
    (
        Column[DepartureView]("JOB", lambda d: d.name or d.job),
        Column("TIER", lambda d: d.tier),
        Column("DEVICES", lambda d: str(d.devices)),
        Column("HOW", lambda d: d.how),
        Column("TO", lambda d: ",".join(d.to) or "-"),
        Column("BYTES", lambda d: "-" if d.bytes is None else size(d.bytes)),
        Column("AFTER", lambda d: "-" if d.begins_s is None else duration(d.begins_s)),
        Column("PAUSE", lambda d: duration(d.pause_s)),
        Column("WHY", lambda d: d.why),
    ),
    lambda d: d.job,
)


def drain(  # every option is one of the command line's
    ctx: typer.Context,
    target: Target,
    plan: Annotated[bool, typer.Option("--plan", help="Only tell what it would do.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Let work come back.")] = False,
    within: Annotated[str | None, typer.Option(help="How long it may take: 30m, 2h.")] = None,
    policy: Annotated[Leaving, typer.Option(help="Who may stay for want of room.")] = (
        Leaving.MIGRATE
    ),
    moves: Annotated[int | None, typer.Option(min=1, help="At most so many at a time.")] = None,
    bandwidth: Annotated[str | None, typer.Option(help="Moves may carry: 200MB/s.")] = None,
    reason: Annotated[str, typer.Option(help="Kept with it.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Show how far it is.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Let everything leave a region, cluster or node, and send nothing there."""
    client = server(ctx)
    if undo:
        client.delete(f"/v1/drains/{_drain_of(client, target)['id']}")
        say(f"{target} takes work again")
        return
    wishes = {"within": within, "moves": moves, "reason": reason or None}
    wishes["bandwidth"] = bandwidth
    wishes["policy"] = None if policy is Leaving.MIGRATE else str(policy)
    body: Json = {"target": target, **{k: v for k, v in wishes.items() if v is not None}}
    if plan:
        _show_plan(client.post("/v1/drains", {**body, "plan": True}), output)
        return
    made = client.post("/v1/drains", body)
    if watch:
        _watch(client, str(made["id"]))
    else:
        show_one(made, DRAINS, output)


def drains(
    ctx: typer.Context,
    target: Annotated[str | None, typer.Argument(help="One, by its target or id.")] = None,
    pause: Annotated[bool, typer.Option("--pause", help="Begin no further move.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with it.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show how far it is.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """List drains and how far they are; pause, resume or watch one."""
    client = server(ctx)
    if target is None:
        if pause or resume or watch:
            raise typer.BadParameter("say which: singularity drains TARGET --pause")
        show_list(client.items("/v1/drains"), DRAINS, output)
        return
    found = _drain_of(client, target)
    if pause or resume:
        found = client.post(f"/v1/drains/{found['id']}/{'pause' if pause else 'resume'}")
    if watch:
        _watch(client, str(found["id"]))
    else:
        show_one(found, DRAINS, output)


def _drain_of(client: Client, target: str) -> Json:
    """The drain in force on `target`, named in full, by its last part, or by its id."""
    found = client.items("/v1/drains")
    for drain in found:
        if target in (drain["id"], drain["target"], str(drain["target"]).split("/", 1)[-1]):
            return drain
    raise NotFound(f"{target} is not being drained", near=[d["target"] for d in found])


def _show_plan(body: Json, output: Format) -> None:
    if output not in (Format.TABLE, Format.WIDE):
        show_raw(body, output)
        return
    found = ExodusView.model_validate(body)
    departures: list[Any] = list(body["departures"])
    show_list(departures, DEPARTURES, output)
    ends = "never, as things are" if found.ends_s is None else duration(found.ends_s)
    say(
        f"{found.target}: empty after {ends}; {size(found.bytes)} of images; "
        f"{found.debt_device_s:.0f} device-seconds of promised work; {found.stay} cannot leave"
    )
    if found.bytes_per_s and found.ends_s is not None and found.unbound_s is not None:
        most = f"{size(found.bytes_per_s)}/s"
        say(f"{most} make that {duration(found.ends_s - found.unbound_s)} longer")


def _watch(client: Client, drain: str) -> None:
    """A line whenever it gets further; ^C leaves the drain as it is."""
    seen: list[DrainView] = []
    try:
        for message in client.messages(
            f"/v1/drains/{drain}", {"follow": 1}, lambda: bool(seen) and seen[-1].over
        ):
            view = DrainView.model_validate(decode(message))
            if seen and seen[-1] == view:  # told again by a stream that was opened anew
                continue
            seen.append(view)
            write(_progress(view) + "\n")
            for waits in view.waiting:
                write(f"  {waits.job}: {waits.why}\n")
    except KeyboardInterrupt:
        say(f"the drain goes on; `singularity drains {drain} --watch` shows it again")


def _progress(view: DrainView) -> str:
    share = view.moved / view.jobs if view.jobs else 1.0
    bar = "#" * round(share * _WIDTH)
    told = f"{view.moved} moved, {len(view.moving)} moving, {len(view.waiting)} waiting"
    return f"[{bar:<{_WIDTH}}] {view.target} {view.condition}: {told}"
