"""The `singularity` command: every subcommand, in the order of the help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import typer

from . import drains, host, jobs, places, plans, quotas, rebalance, services, shares, submit, top
from .admin import admin
from .checkpoints import ckpt
from .frame import CONTEXT, Commands
from .operations import maintenance, operations
from .simulation import sim

app = typer.Typer(
    cls=Commands,
    context_settings=CONTEXT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run training jobs on a planet of accelerators: they can be suspended, moved, resized and"
    " lost machines survived, with no change to their code.",
)
GROUPS: Final[dict[str, tuple[Callable[..., None], ...]]] = {
    "Planet": (host.up, host.login, host.dashboard, host.doctor),
    "Jobs": (
        submit.run,
        plans.plan,
        jobs.ps,
        jobs.describe,
        jobs.why,
        jobs.logs,
        jobs.stacks,
        jobs.events,
        jobs.timeline,
    ),
    "Steering": (jobs.suspend, jobs.resume, jobs.move, jobs.resize, jobs.cancel),
    "Services": (services.services, services.loans),
    "Fleet": (
        places.clusters,
        places.devices,
        top.top,
        drains.drain,
        drains.drains,
        places.cordon,
        places.uncordon,
        rebalance.rebalance,
        shares.sla,
        quotas.usage,
        shares.evictions,
    ),
}
for panel, commands in GROUPS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(ckpt, name="ckpt", rich_help_panel="Jobs")
app.add_typer(services.service, name="service", rich_help_panel="Services")
app.add_typer(places.regions, name="regions", rich_help_panel="Fleet")
app.add_typer(places.nodes, name="nodes", rich_help_panel="Fleet")
app.add_typer(quotas.quota, name="quota", rich_help_panel="Fleet")
app.add_typer(maintenance, name="maintenance", rich_help_panel="Fleet")
app.add_typer(operations, name="operations", rich_help_panel="Fleet")
app.add_typer(sim, name="sim", rich_help_panel="Planet")
app.add_typer(admin, name="admin", rich_help_panel="Planet")


def main() -> None:
    app(prog_name="singularity")


if __name__ == "__main__":
    main()
