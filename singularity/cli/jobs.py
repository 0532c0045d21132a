"""Commands that read and steer jobs."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final
from urllib.parse import quote

import typer

from singularity.primitives.clock import SystemClock
from singularity.primitives.errors import NotFound

from .client import Client, Json, decode, path_of
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
)
from .output import write as put
from .views import EventView, IncarnationView, JobView, StackView, WhyView

TERMINAL: Final = ("succeeded", "failed", "cancelled")
ANYWHERE: Final = "anywhere"
JobName = Annotated[str, typer.Argument(metavar="JOB", help="Id, or unique name.")]


def _age(at_s: float) -> str:
    return duration(SystemClock().now_s() - at_s)


JOBS = Sheet(
    JobView.model_validate,
    (
        Column[JobView]("ID", lambda j: j.id),
        Column("NAME", lambda j: j.name),
        Column("STATE", lambda j: j.condition),
        Column("TIER", lambda j: j.tier),
        Column("DEVICES", lambda j: f"{j.held}/{j.devices} {j.device}"),
        Column("REGION", lambda j: j.region or "-"),
        Column("STEP", lambda j: str(j.step)),
        Column("AGE", lambda j: _age(j.submitted_at_s)),
        Column("NODES", lambda j: ",".join(s.node for s in j.placement) or "-", wide=True),
        Column("PROJECT", lambda j: j.project, wide=True),
        Column("LIFE", lambda j: str(j.incarnation), wide=True),
        Column("CHECKPOINT", lambda j: j.checkpoint.name if j.checkpoint else "-", wide=True),
        Column("MESSAGE", lambda j: j.message, wide=True),
    ),
    lambda j: j.id,
)
EVENTS = Sheet(
    EventView.model_validate,
    (
        Column[EventView]("AGO", lambda e: _age(e.at_s)),
        Column("JOB", lambda e: e.job, wide=True),
        Column("EVENT", lambda e: e.event),
        Column("FROM", lambda e: e.before or "-"),
        Column("TO", lambda e: e.after or "-"),
        Column("LIFE", lambda e: str(e.incarnation)),
        Column("NODE", lambda e: e.node or "-"),
        Column("REASON", lambda e: e.reason),
    ),
    lambda e: str(e.seq),
)


def _lasted(life: IncarnationView) -> str:
    end_s = SystemClock().now_s() if life.ended_at_s is None else life.ended_at_s
    return duration(end_s - life.placed_at_s)


def _devices(life: IncarnationView) -> str:
    return " → ".join(str(d) for d in (life.devices, *(r.devices for r in life.resizes)))


def _steps(life: IncarnationView) -> str:
    first = "?" if life.step_from is None else str(life.step_from)
    return f"{first} → {'…' if life.step_to is None else life.step_to}"


def _parts(life: IncarnationView) -> str:
    return " ".join(f"{name} {seconds:.2f}" for name, seconds in life.seconds.items())


TIMELINE = Sheet(
    IncarnationView.model_validate,
    (
        Column[IncarnationView]("LIFE", lambda i: str(i.incarnation)),
        Column("REGION", lambda i: i.region or "-"),
        Column("CLUSTER", lambda i: i.cluster or "-", wide=True),
        Column("NODES", lambda i: ",".join(i.nodes) or "-"),
        Column("DEVICES", _devices),
        Column("LASTED", _lasted),
        Column("STEPS", _steps),
        Column("END", lambda i: i.end or "goes on"),
        Column("LOST", lambda i: "-" if i.lost_s is None else f"{i.lost_s:.2f}s"),
        Column("SECONDS", _parts),
    ),
    lambda i: str(i.incarnation),
)


STACKS = Sheet(
    StackView.model_validate,
    (
        Column[StackView]("LIFE", lambda s: str(s.incarnation)),
        Column("RANK", lambda s: str(s.rank)),
        Column("AGO", lambda s: _age(s.at_s)),
        Column("SIZE", lambda s: size(s.bytes)),
    ),
    lambda s: f"{s.incarnation}/{s.rank}",
)


def ps(
    ctx: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    project: Annotated[str | None, typer.Option(help="Only jobs of this project.")] = None,
    tier: Annotated[str | None, typer.Option(help="Only jobs of this tier.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List jobs."""
    query = {"state": state, "project": project, "tier": tier}
    show_list(server(ctx).items("/v1/jobs", query, limit), JOBS, output)


def describe(ctx: typer.Context, job: JobName, output: Output = Format.YAML) -> None:
    """Show everything that is known about a job."""
    show_one(server(ctx).get(path_of(job)), JOBS, output)


def why(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB|SERVICE", help="Id, or unique name.")],
    output: Output = Format.TABLE,
) -> None:
    """Say why a job waits, and the smallest changes that would let it run; or how a service is."""
    body = _why(server(ctx), job)
    if output in (Format.JSON, Format.YAML):
        show_raw(body, output)
        return
    view = WhyView.model_validate(body)
    if not view.reasons:
        put(f"{job} is {view.state}: nothing keeps it from its devices\n")
    wide = max((len(r.kind) for r in view.reasons), default=0)
    for number, reason in enumerate(view.reasons, 1):
        put(f"{number:2} {reason.kind:<{wide}}  {reason.detail}\n")
    if view.changes:
        put("smallest changes: " + " · ".join(c.text for c in view.changes) + "\n")
    if view.eta is not None:
        put(f"wait → {_eta(view)}\n")
    if view.state == "failed":
        say(f"what its ranks printed: singularity logs {job} --rank N")


def _why(client: Client, name: str) -> Json:
    """Of the job of that name, or else of the service."""
    try:
        return client.get(path_of(name, "why"))
    except NotFound as error:
        try:
            return client.get(f"/v1/services/{quote(name, safe='')}/why")
        except NotFound as neither:
            near = error.facts.get("near") or neither.facts.get("near")
            raise NotFound(f"there is no job or service {name!r}", near=near) from error


def _eta(view: WhyView) -> str:
    """When it will start, and how far such estimates have been right."""
    assert view.eta is not None
    times = {"p50": view.eta.p50_s, "p90": view.eta.p90_s}
    said = ", ".join(
        f"{k} {duration(s)}" if s is not None else f"{k} never" for k, s in times.items()
    )
    if view.calibration is None or not view.calibration.made:
        return f"{said} (no estimate was ever put to the test yet)"
    made, held = view.calibration.made, view.calibration.p90_held
    return f"{said} (our last {made} estimates: p90 held {held})"


def events(
    ctx: typer.Context,
    job: Annotated[str | None, typer.Argument(help="One job; without it, all.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as they come.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """List what happened and why, oldest first."""
    path = path_of(job, "events") if job else "/v1/events"
    client = server(ctx)
    if not follow:
        show_list(client.items(path), EVENTS, output)
        return
    ended = partial(_over, client, job) if job else lambda: False
    try:
        for message in client.messages(path, {"follow": 1}, ended):
            _show_event(decode(message), output)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _show_event(body: Json, output: Format) -> None:
    if output not in (Format.TABLE, Format.WIDE):
        show_one(body, EVENTS, output)
        return
    event = EventView.model_validate(body)
    change = f"{event.before} → {event.after}" if event.after else ""
    parts = (event.job, event.event, change, event.node or "", event.reason)
    put("  ".join(part for part in parts if part) + "\n")


def timeline(ctx: typer.Context, job: JobName, output: Output = Format.TABLE) -> None:
    """Show the lives of a job: where each ran, how it ended, and what that cost."""
    show_list(server(ctx).items(path_of(job, "incarnations")), TIMELINE, output)


def logs(
    ctx: typer.Context,
    job: JobName,
    rank: Annotated[int, typer.Option(min=0, help="Whose output.")] = 0,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as it comes.")] = False,
) -> None:
    """Print the output of a rank, over all the places it has run in."""
    client = server(ctx)
    if not follow:
        for piece in client.text(path_of(job, "logs"), {"rank": rank, "tail": tail}):
            put(piece)
        return
    try:
        follow_logs(client, job, rank, tail)
    except KeyboardInterrupt:
        say(f"detached: the job goes on; `singularity logs -f {job}` follows it again")
        raise typer.Exit(0) from None


def stacks(
    ctx: typer.Context,
    job: JobName,
    life: Annotated[int | None, typer.Option(min=1, help="Which; else the last that hung.")] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Whose; else all.")] = None,
    ls: Annotated[bool, typer.Option("--ls", help="List what there is.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show where the ranks of a job that hung were standing."""
    client = server(ctx)
    if ls:
        show_list(client.items(path_of(job, "stacks")), STACKS, output)
        return
    for piece in client.text(path_of(job, "stacks", "text"), {"incarnation": life, "rank": rank}):
        put(piece)


def follow_logs(client: Client, job: str, rank: int, tail: int | None) -> None:
    """Print a rank's output as it comes, until the job has ended."""
    query = {"rank": rank, "tail": tail, "follow": 1}
    for message in client.messages(path_of(job, "logs"), query, partial(_over, client, job)):
        put(decode(message))


def _over(client: Client, job: str) -> bool:
    return JobView.model_validate(client.get(path_of(job))).state in TERMINAL


def suspend(ctx: typer.Context, job: JobName, output: Output = Format.TABLE) -> None:
    """Checkpoint a job and give its devices back; it waits until `resume`."""
    _steer(ctx, job, "suspend", None, output)


def resume(ctx: typer.Context, job: JobName, output: Output = Format.TABLE) -> None:
    """Let a suspended job run again, from where it was."""
    _steer(ctx, job, "resume", None, output)


def cancel(ctx: typer.Context, job: JobName, output: Output = Format.TABLE) -> None:
    """End a job for good."""
    _steer(ctx, job, "cancel", None, output)


def move(
    ctx: typer.Context,
    job: JobName,
    to: Annotated[
        str, typer.Option(help=f"A region, cluster or node; `{ANYWHERE}` lifts an earlier one.")
    ],
    output: Output = Format.TABLE,
) -> None:
    """Move a job, running or not, to another part of the planet; it stays there."""
    _steer(ctx, job, "move", {"to": None if to == ANYWHERE else to}, output)


def resize(
    ctx: typer.Context,
    job: JobName,
    devices: Annotated[int, typer.Argument(min=1, help="How many it shall hold.")],
    output: Output = Format.TABLE,
) -> None:
    """Give a job more or fewer devices; its world size stays the same."""
    _steer(ctx, job, "resize", {"devices": devices}, output)


def _steer(ctx: typer.Context, job: str, verb: str, body: Json | None, output: Format) -> None:
    show_one(server(ctx).post(path_of(job, verb), body), JOBS, output)
