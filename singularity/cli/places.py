"""Commands about the planet: regions, clusters, nodes, and what an operator intends with them."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote

import typer

from singularity.primitives.clock import SystemClock

from .client import Json
from .frame import CONTEXT, Commands, server
from .operations import OPERATIONS
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
    slowdown,
    write,
)
from .views import AreaView, DeviceView, FaultView, NodeView

NodeName = Annotated[str, typer.Argument(metavar="NODE")]
Reason = Annotated[str, typer.Option("--reason", help="Kept with it.")]


def _heard(node: NodeView) -> str:
    return duration(SystemClock().now_s() - node.heard_s) if node.epoch else "-"


def _condition(node: NodeView) -> str:
    found = node.health.quarantine
    if node.condition != "quarantined" or found is None or found.until_s is None:
        return node.condition
    return f"quarantined {duration(found.until_s - SystemClock().now_s())}"


def _why(node: NodeView) -> str:
    """What keeps work away, or might."""
    if node.health.quarantine is not None:
        return node.health.quarantine.reason
    return "; ".join(f"unhealthy device {each}" for each in node.health.sick) or "-"


NODES = Sheet(
    NodeView.model_validate,
    (
        Column[NodeView]("NODE", lambda n: n.id),
        Column("REGION", lambda n: n.region),
        Column("CLUSTER", lambda n: n.cluster),
        Column("RACK", lambda n: n.rack or "-", wide=True),
        Column("DEVICES", lambda n: f"{n.used}/{n.devices} {n.device}"),
        Column("CONDITION", _condition),
        Column("HEARD", _heard),
        Column("FAULTS", lambda n: str(len(n.health.faults))),
        Column("JOBS", lambda n: ",".join(n.jobs) or "-", wide=True),
        Column("EPOCH", lambda n: str(n.epoch), wide=True),
        Column("WHY", _why, wide=True),
    ),
    lambda n: n.id,
)


_GIB: Final = 1 << 30


def _shared(device: DeviceView) -> str:
    """By whom, and how many times as long their work takes for it."""
    if device.given is None:
        return "-"
    each = (f"{s.who} {s.precedence} {slowdown(s.slowdown)}".rstrip(" -") for s in device.sharers)
    return f"{device.given.compute_milli / 10:g}% {', '.join(each)}".strip()


DEVICES: Final = Sheet(
    DeviceView.model_validate,
    (
        Column[DeviceView]("DEVICE", lambda d: d.id),
        Column("REGION", lambda d: d.region),
        Column("NAME", lambda d: d.name),
        Column("MEMORY", lambda d: f"{d.used_bytes / _GIB:.1f}/{d.memory_bytes / _GIB:.1f} GiB"),
        Column("BUSY", lambda d: "-" if d.utilisation is None else f"{d.utilisation:.0%}"),
        Column("SHARED", _shared),
        Column("YIELDS", lambda d: "by block" if d.yields else "-", wide=True),
        Column("TEMP", lambda d: "-" if d.temperature_c is None else f"{d.temperature_c} C"),
        Column("HEALTH", lambda d: d.health or "well"),
        Column("SEEN", lambda d: duration(SystemClock().now_s() - d.seen_s)),
        Column("LINKS", lambda d: ",".join(map(str, d.links)) or "-", wide=True),
        Column("UUID", lambda d: d.uuid, wide=True),
    ),
    lambda d: d.id,
)


def _areas(title: str) -> Sheet[AreaView]:
    return Sheet(
        AreaView.model_validate,
        (
            Column[AreaView](title, lambda a: a.id),
            Column("DEVICES", lambda a: f"{a.used}/{a.devices}"),
            Column("NODES", lambda a: str(a.nodes)),
            Column("READY", lambda a: str(a.ready)),
            Column("LOST", lambda a: str(a.lost)),
            Column("DRAINING", lambda a: str(a.draining)),
            Column("QUARANTINED", lambda a: str(a.quarantined)),
            Column("COST/H", lambda a: "-" if a.cost is None else f"{a.cost:g}"),
            Column("CO2 G/H", lambda a: "-" if a.carbon_g is None else f"{a.carbon_g:g}"),
        ),
        lambda a: a.id,
    )


regions = typer.Typer(
    cls=Commands, context_settings=CONTEXT, help="Regions, and what devices cost there."
)


@regions.callback(invoke_without_command=True)
def ls(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """List regions with what they hold and use, and what devices cost there."""
    if ctx.invoked_subcommand is None:
        show_list(server(ctx).items("/v1/regions"), _areas("REGION"), output)


@regions.command("price")
def price(
    ctx: typer.Context,
    region: Annotated[str | None, typer.Argument(metavar="REGION")] = None,
    cluster: Annotated[str | None, typer.Option(help="Of one cluster instead.")] = None,
    cost: Annotated[float, typer.Option(help="Of a device for an hour, in money.")] = 0.0,
    carbon: Annotated[float, typer.Option(help="Grams of carbon dioxide, the same.")] = 0.0,
    output: Output = Format.TABLE,
) -> None:
    """Say what a device costs for an hour: of places that a job may go to, it goes to the cheaper,
    if that outweighs what it takes to get there."""
    if (region is None) == (cluster is None):
        raise typer.BadParameter("give a region, or --cluster")
    kind, name = ("regions", region) if cluster is None else ("clusters", cluster)
    path = f"/v1/{kind}/{quote(str(name), safe='')}/price"
    answer = server(ctx).put(path, {"cost": cost, "carbon_g": carbon})
    show_one(answer, _areas(kind[:-1].upper()), output)


def clusters(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """List clusters with what they hold and use."""
    show_list(server(ctx).items("/v1/clusters"), _areas("CLUSTER"), output)


def devices(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """List accelerators: memory, load, who shares them, temperature and health, as nodes said
    last."""
    show_list(server(ctx).items("/v1/accelerators"), DEVICES, output)


def cordon(
    ctx: typer.Context, node: NodeName, reason: Reason = "", output: Output = Format.TABLE
) -> None:
    """Place nothing new on a node; what runs there stays."""
    _steer(ctx, node, "cordon", _reasoned(reason), output)


def uncordon(
    ctx: typer.Context, node: NodeName, reason: Reason = "", output: Output = Format.TABLE
) -> None:
    """Let a cordoned node take work again."""
    _steer(ctx, node, "uncordon", _reasoned(reason), output)


def _reasoned(reason: str) -> Json | None:
    return {"reason": reason} if reason else None


def _steer(ctx: typer.Context, node: str, verb: str, body: Json | None, output: Format) -> None:
    show_one(server(ctx).post(f"{_path(node)}/{verb}", body), NODES, output)


def _path(node: str) -> str:
    return f"/v1/nodes/{quote(node, safe='')}"


# -- singularity nodes … ---------------------------------------------------------------------------


nodes = typer.Typer(
    cls=Commands, context_settings=CONTEXT, help="List nodes; look at one, distrust or remove it."
)
FAULTS: Final = Sheet(
    FaultView.model_validate,
    (
        Column[FaultView]("AGO", lambda f: duration(SystemClock().now_s() - f.at_s)),
        Column("FAULT", lambda f: f.kind),
        Column("JOB", lambda f: f.job or "-"),
        Column("DETAIL", lambda f: f.detail),
    ),
    lambda f: f.kind,
)


@nodes.callback(invoke_without_command=True)
def list_nodes(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """List nodes; look at one, distrust or remove it."""
    if ctx.invoked_subcommand is None:
        show_list(server(ctx).items("/v1/nodes"), NODES, output)


@nodes.command("show")
def show_node(ctx: typer.Context, node: NodeName, output: Output = Format.WIDE) -> None:
    """Show a node, what went wrong on it lately, and what was done about it."""
    client = server(ctx)
    found = client.get(_path(node))
    show_one(found, NODES, output)
    if output in (Format.TABLE, Format.WIDE):
        show_list(found["health"]["faults"], FAULTS, output)
        show_list(
            client.items("/v1/operations", {"target": f"node/{node}"}, 20), OPERATIONS, output
        )


@nodes.command("quarantine")
def quarantine(
    ctx: typer.Context,
    node: NodeName,
    within: Annotated[str | None, typer.Option("--for", help="How long: 30m, 2h.")] = None,
    drain: Annotated[bool, typer.Option("--drain", help="What runs there leaves too.")] = False,
    reason: Reason = "",
    output: Output = Format.TABLE,
) -> None:
    """Keep work away from a node that is not to be trusted, for a while or until its release."""
    body: Json = {"drain": drain, "reason": reason, **({"within": within} if within else {})}
    _steer(ctx, node, "quarantine", body, output)


@nodes.command("release")
def release(
    ctx: typer.Context, node: NodeName, reason: Reason = "", output: Output = Format.TABLE
) -> None:
    """Trust a quarantined node again, whatever was."""
    _steer(ctx, node, "release", _reasoned(reason), output)


@nodes.command("token")
def token(
    ctx: typer.Context,
    node: Annotated[str | None, typer.Argument(metavar="NODE", help="Only of that name.")] = None,
    within: Annotated[str, typer.Option("--for", help="How long it is good: 30m, 2h.")] = "1h",
    output: Output = Format.TABLE,
) -> None:
    """Make a token by which one node joins, once: SINGULARITY_JOIN_TOKEN of its agent."""
    body: Json = {"node": node, "within": within}
    found = server(ctx).post("/v1/join-tokens", body)
    if output in (Format.JSON, Format.YAML):
        show_raw(found, output)
        return
    write(f"{found['token']}\n")
    left_s = found["expires_at_s"] - SystemClock().now_s()
    say(f"good once, for {duration(left_s)}; it is not shown again")


@nodes.command("rotate")
def rotate(
    ctx: typer.Context, node: NodeName, reason: Reason = "", output: Output = Format.TABLE
) -> None:
    """Give a node other credentials, with its next heartbeat; its jobs do not notice."""
    _steer(ctx, node, "rotate", _reasoned(reason), output)


@nodes.command("revoke")
def revoke(
    ctx: typer.Context, node: NodeName, reason: Reason = "", output: Output = Format.TABLE
) -> None:
    """Shut a node out: its credentials are worth nothing; `nodes token NODE` lets it in again."""
    _steer(ctx, node, "revoke", _reasoned(reason), output)


@nodes.command("remove")
def remove(ctx: typer.Context, node: NodeName) -> None:
    """Forget a node that is lost, or drained and switched off."""
    server(ctx).delete(_path(node))
    say(f"{node} is no more; its agent, started again, would join as a new one")
