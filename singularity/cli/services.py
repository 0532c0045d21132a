"""Commands about services: what answers requests, how it is loaded, what it borrowed for that."""

from __future__ import annotations

import threading
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from singularity.primitives.clock import SystemClock

from .client import Client, Json
from .documents import at_home, read
from .frame import CONTEXT, Commands, server
from .output import (
    Column,
    Format,
    Output,
    Sheet,
    duration,
    say,
    show_list,
    show_one,
    write,
)
from .service_views import LoanView, ReplicaView, ServiceEventView, ServiceView
from .shares import percent

_LOOK_S: Final = 0.5
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the service, or its id.")]


class _Named(Commands):
    """`service NAME` describes it; other words are commands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["describe", *args]
        return super().resolve_command(ctx, args)


service = typer.Typer(
    cls=_Named,
    context_settings=CONTEXT,
    no_args_is_help=True,
    help="One service: `singularity service NAME` describes it.",
)
SERVICES = Sheet(
    ServiceView.model_validate,
    (
        Column[ServiceView]("NAME", lambda s: s.name),
        Column("CONDITION", lambda s: s.condition),
        Column("TIER", lambda s: s.tier),
        Column("READY", lambda s: f"{s.replicas.ready}/{s.replicas.wanted}"),
        Column("REPLICAS", lambda s: f"{s.replicas.min} to {s.replicas.max}"),
        Column("RPS", lambda s: "-" if s.load is None else f"{s.load.rps:.1f}"),
        Column("AT A TIME", lambda s: "-" if s.load is None else f"{s.load.concurrency:.1f}"),
        Column("QUEUED", lambda s: "-" if s.load is None else str(s.load.queued)),
        Column("SLO", lambda s: s.attainment),
        Column("BORROWED", lambda s: str(s.borrowed.devices)),
        Column("REVISION", lambda s: s.revisions, wide=True),
        Column("PROJECT", lambda s: s.project, wide=True),
        Column("ID", lambda s: s.id, wide=True),
        Column("MESSAGE", lambda s: s.message, wide=True),
    ),
    lambda s: s.name,
)
REPLICAS = Sheet(
    ReplicaView.model_validate,
    (
        Column[ReplicaView]("REPLICA", lambda r: r.name),
        Column("REVISION", lambda r: str(r.revision)),
        Column("STATE", lambda r: r.condition),
        Column("NODE", lambda r: r.node or "-"),
        Column("ENDPOINT", lambda r: r.endpoint or "-"),
        Column("FAILURES", lambda r: str(r.failures)),
        Column("MESSAGE", lambda r: r.message),
    ),
    lambda r: r.job,
)
LOANS = Sheet(
    LoanView.model_validate,
    (
        Column[LoanView]("JOB", lambda x: x.name or x.job),
        Column("DEVICES", lambda x: str(x.devices)),
        Column("FOR", lambda x: duration(x.seconds)),
        Column("SINCE", lambda x: f"{duration(SystemClock().now_s() - x.since_s)} ago"),
        Column("OVER", lambda x: "no" if x.until_s is None else "yes"),
        Column("DEVICE-SECONDS", lambda x: f"{x.device_s:.0f}"),
        Column("BESIDES", lambda x: f"{x.price_device_s:.1f}"),
        Column("OF ITS HOUR", lambda x: percent(x.of_asked)),
        Column("SERVICE", lambda x: x.service, wide=True),
    ),
    lambda x: x.job,
)
EVENTS = Sheet(
    ServiceEventView.model_validate,
    (
        Column[ServiceEventView]("AGO", lambda e: duration(SystemClock().now_s() - e.at_s)),
        Column("EVENT", lambda e: e.event),
        Column("REASON", lambda e: e.reason),
    ),
    lambda e: str(e.seq),
)


def path_of(name: str, *more: str) -> str:
    return "/".join(("/v1/services", quote(name, safe=""), *more))


def services(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """List services: how they are loaded, and whether they keep what they promise."""
    show_list(server(ctx).items("/v1/services"), SERVICES, output)


def loans(
    ctx: typer.Context,
    service_name: Annotated[str | None, typer.Option("--service", help="Only its.")] = None,
    job: Annotated[str | None, typer.Option(help="Only what this job lends or lent.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many that are over.")] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List devices that training gave for services: for how long, and what that cost it."""
    query = {"service": service_name, "job": job}
    show_list(server(ctx).items("/v1/loans", query, limit), LOANS, output)


@service.command("describe")
def describe(ctx: typer.Context, name: Name, output: Output = Format.TABLE) -> None:
    """Show a service: replicas, load, promise, what it borrowed."""
    body = server(ctx).get(path_of(name))
    if output in (Format.JSON, Format.YAML, Format.NAME):
        show_one(body, SERVICES, output)
        return
    show_one(body, SERVICES, output)
    view = ServiceView.model_validate(body)
    if view.message:
        write(f"\n{view.message}\n")
    if view.canary is not None:
        write(
            f"\nrevision {view.canary.revision} is on trial: it has served {view.canary.served} of "
            f"{view.canary.requests} requests, {percent(view.canary.attained)} as promised\n"
        )
    if view.load is not None:
        write(f"\nrequests come {view.load.spread:.1f} times as unevenly as one by one\n")
    hour = view.hour
    write(
        f"\nlast hour: {hour.arrivals} requests, {hour.failed} failed, {hour.shed} shed; "
        f"wait p99 {_time(hour.wait_p99_s)}, latency p50 {_time(hour.latency_p50_s)} "
        f"p99 {_time(hour.latency_p99_s)}\n\n"
    )
    show_list(body["replicas"]["items"], REPLICAS, output)
    lent = [f"{x.devices} from {x.job}" for x in view.borrowed.lenders]
    write("\nborrowed: " + (", ".join(lent) or "nothing") + "\n")


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"


@service.command("scale")
def scale(
    ctx: typer.Context,
    name: Name,
    least: Annotated[int | None, typer.Option("--min", min=1, help="Replicas at least.")] = None,
    most: Annotated[int | None, typer.Option("--max", min=1, help="Replicas at most.")] = None,
    concurrency: Annotated[float | None, typer.Option(help="Requests at a time for each.")] = None,
    rps: Annotated[float | None, typer.Option(help="Requests a second for each.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Give a service other bounds, or its replicas more or less to do."""
    client = server(ctx)
    body: Json = {}
    if least is not None or most is not None:
        now = ServiceView.model_validate(client.get(path_of(name))).replicas
        body["replicas"] = {
            "min": now.min if least is None else least,
            "max": now.max if most is None else most,
        }
    target = {"concurrency": concurrency, "rps": rps}
    if any(value is not None for value in target.values()):
        body["target"] = {k: v for k, v in target.items() if v is not None}
    if not body:
        raise typer.BadParameter("say what: --min, --max, --concurrency or --rps")
    show_one(client.patch(path_of(name), body), SERVICES, output)


@service.command("update")
def update(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="SERVICE.yaml", help="`-` reads stdin.")],
    canary: Annotated[
        float | None, typer.Option(min=0.001, max=0.999, help="Try it first, with that share.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="It must serve on trial.")] = None,
    within: Annotated[str | None, typer.Option(help="How long that may take: 30m.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Let a service be as a file says; what its replicas run is a new revision."""
    client = server(ctx)
    document = at_home(read(file), client.session)
    wishes = {"share": canary, "requests": requests, "within": within}
    tried = {k: v for k, v in wishes.items() if v is not None}
    body: Json = {"service": document, **({"canary": tried} if tried else {})}
    path = path_of(str(document.get("name", "")), "updates")
    show_one(client.post(path, body), SERVICES, output)


@service.command("stop")
def stop(ctx: typer.Context, name: Name, output: Output = Format.TABLE) -> None:
    """End a service: its replicas finish what they have, and stop."""
    show_one(server(ctx).delete(path_of(name)), SERVICES, output)


@service.command("events")
def events(ctx: typer.Context, name: Name, output: Output = Format.TABLE) -> None:
    """List what became of a service and why, oldest first."""
    show_list(server(ctx).items(path_of(name, "events")), EVENTS, output)


def start(client: Client, document: Json, key: str, output: Format, *, wait: bool) -> None:
    """Make the service that `document` describes; with `wait`, until it answers."""
    body = client.post("/v1/services", document, key)
    if wait:
        try:
            body = _serving(client, str(body["id"]))
        except KeyboardInterrupt:
            say(f"detached: it goes on; `singularity service {body['name']}`")
    show_one(body, SERVICES, output)


def _serving(client: Client, name: str) -> Json:
    said = ""
    while True:
        body = client.get(path_of(name))
        view = ServiceView.model_validate(body)
        if view.condition in ("serving", "ending", "ended"):
            return body
        told = "; ".join(r.message for r in view.replicas.items if r.message) or view.condition
        if told != said:
            said = told
            say(f"{view.name}: {told}")
        threading.Event().wait(_LOOK_S)
