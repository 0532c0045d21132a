"""Commands about the planet: regions, clusters, nodes, and what an operator intends with them."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote

import typer

from singularity.primitives.clock import SystemClock

from .frame import CONTEXT, Commands, server
from .output import Column, Format, Output, Sheet, duration, show_list, show_one
from .views import AreaView, DeviceView, NodeView

NodeName = Annotated[str, typer.Argument(metavar="NODE")]


def _heard(node: NodeView) -> str:
    return duration(SystemClock().now_s() - node.heard_s) if node.epoch else "-"


NODES = Sheet(
    NodeView.model_validate,
    (
        Column[NodeView]("NODE", lambda n: n.id),
        Column("REGION", lambda n: n.region),
        Column("CLUSTER", lambda n: n.cluster),
        Column("RACK", lambda n: n.rack or "-", wide=True),
        Column("DEVICES", lambda n: f"{n.used}/{n.devices} {n.device}"),
        Column("CONDITION", lambda n: n.condition),
        Column("HEARD", _heard),
        Column("JOBS", lambda n: ",".join(n.jobs) or "-", wide=True),
        Column("EPOCH", lambda n: str(n.epoch), wide=True),
    ),
    lambda n: n.id,
)


_GIB: Final = 1 << 30
DEVICES: Final = Sheet(
    DeviceView.model_validate,
    (
        Column[DeviceView]("DEVICE", lambda d: d.id),
        Column("REGION", lambda d: d.region),
        Column("NAME", lambda d: d.name),
        Column("MEMORY", lambda d: f"{d.used_bytes / _GIB:.1f}/{d.memory_bytes / _GIB:.1f} GiB"),
        Column("BUSY", lambda d: "-" if d.utilisation is None else f"{d.utilisation:.0%}"),
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


def nodes(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """List nodes."""
    show_list(server(ctx).items("/v1/nodes"), NODES, output)


def devices(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """List accelerators: memory, load, temperature and health, as nodes said last."""
    show_list(server(ctx).items("/v1/accelerators"), DEVICES, output)


def cordon(ctx: typer.Context, node: NodeName, output: Output = Format.TABLE) -> None:
    """Place nothing new on a node; what runs there stays."""
    _duty(ctx, node, "cordon", output)


def uncordon(ctx: typer.Context, node: NodeName, output: Output = Format.TABLE) -> None:
    """Let a cordoned node take work again."""
    _duty(ctx, node, "uncordon", output)


def _duty(ctx: typer.Context, node: str, verb: str, output: Format) -> None:
    answer = server(ctx).post(f"/v1/nodes/{quote(node, safe='')}/{verb}")
    show_one(answer, NODES, output)
