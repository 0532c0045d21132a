"""`singularity sim`: a trace through the scheduler, on this machine and with no server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .frame import CONTEXT, Commands
from .output import Column, Format, Output, say, show_raw, show_table

if TYPE_CHECKING:
    from singularity.scheduler.sim.outcomes import Run
    from singularity.scheduler.sim.traces import Trace

sim = typer.Typer(
    cls=Commands,
    context_settings=CONTEXT,
    no_args_is_help=True,
    help="Try the scheduler on a trace: hours of a cluster in seconds, with the production code.",
)
File = Annotated[
    Path, typer.Argument(help="The trace: YAML, or CSV of Philly, Pollux, openb or ServeGen.")
]
FleetText = Annotated[
    str, typer.Option("--fleet", help="60x8, 60x8:h100,4x4:t4, or openb's list of nodes.")
]
Most = Annotated[int | None, typer.Option("--jobs", min=1, help="Only the first so many.")]
Widest = Annotated[int | None, typer.Option(min=1, help="Leave out jobs that want more devices.")]
Elastic = Annotated[bool, typer.Option("--elastic", help="Jobs run on any number of devices.")]
Hashed = Annotated[
    bool, typer.Option("--hash-tiers", help="10 % premium, 30 % standard, whatever the trace says.")
]
Seconds = Annotated[float | None, typer.Option(min=0.0, help="Seconds that machines take.")]
Settings = Annotated[list[str], typer.Option("--policy", help="quantum_s=300; may be repeated.")]
Plot = Annotated[Path | None, typer.Option(help="Write PNG charts into this directory.")]


@sim.command()
def run(
    trace: File,
    settings: Settings = [],  # noqa: B006 - typer's way of "none"
    plot: Plot = None,
    output: Output = Format.TABLE,
) -> None:
    """Run a simulation of your own: machines, costs and jobs in one YAML file."""
    _play("singularity", _read(trace), "", {}, settings, plot, output)


@sim.command()
def replay(
    trace: File,
    fleet: FleetText = "",
    jobs: Most = None,
    widest: Widest = None,
    elastic: Elastic = False,
    hash_tiers: Hashed = False,
    start_s: Seconds = None,
    restart_s: Seconds = None,
    cut_s: Seconds = None,
    settings: Settings = [],  # noqa: B006
    plot: Plot = None,
    output: Output = Format.TABLE,
) -> None:
    """Replay a trace of a real cluster on a fleet that you choose."""
    found = _read(trace, most=jobs, widest=widest, elastic=elastic, hashed=hash_tiers)
    costs = {"start_s": start_s, "restart_s": restart_s, "cut_s": cut_s}
    _play("singularity", found, fleet, costs, settings, plot, output)


@sim.command()
def compare(
    trace: File,
    policies: Annotated[
        str, typer.Option(help="singularity, fifo, sjf, srtf, las, levels, maxmin.")
    ] = "all",
    fleet: FleetText = "",
    jobs: Most = None,
    widest: Widest = None,
    elastic: Elastic = False,
    hash_tiers: Hashed = False,
    restart_s: Seconds = None,
    settings: Settings = [],  # noqa: B006
    plot: Plot = None,
    output: Output = Format.TABLE,
) -> None:
    """Put several policies side by side. The others know no nodes, and two of them are oracles."""
    found = _read(trace, most=jobs, widest=widest, elastic=elastic, hashed=hash_tiers)
    _play(policies, found, fleet, {"restart_s": restart_s}, settings, plot, output)


def _read(path: Path, **how: int | bool | None) -> Trace:
    from singularity.scheduler.sim.traces import Reading, read

    return read(path, Reading(**how))  # type: ignore[arg-type]


def _play(
    names: str,
    trace: Trace,
    fleet: str,
    given: dict[str, float | None],
    settings: Sequence[str],
    plot: Path | None,
    output: Format,
) -> None:
    from singularity.scheduler.sim import charts
    from singularity.scheduler.sim.compare import costs_of, play, policies, policy_of
    from singularity.scheduler.sim.outcomes import scorecard
    from singularity.scheduler.sim.traces import read_fleet

    if plot is not None:
        charts.require()
    for note in trace.notes:
        say(f"note: {note}")
    chosen, costs, runs = policies(names), costs_of(trace, given), []
    machines = read_fleet(fleet) if fleet else ()
    for run in play(chosen, trace, machines, costs, policy_of(settings)):
        say(f"{run.policy}: {len(run.outcomes)} jobs, {run.rounds} rounds, digest {run.digest}")
        runs.append(run)
    if output in (Format.JSON, Format.YAML):
        show_raw({"items": [asdict(scorecard(run)) for run in runs]}, output)
    else:
        _show(runs)
    if plot is not None:
        for path in charts.draw(runs, plot):
            say(f"wrote {path}")


def _show(runs: Sequence[Run]) -> None:
    from singularity.scheduler.sim.outcomes import rows, scorecard

    head, *lines = rows([scorecard(run) for run in runs])
    show_table(lines, [Column(title or "FIGURE", _cell(i)) for i, title in enumerate(head)])


def _cell(column: int) -> Callable[[list[str]], str]:
    return lambda line: line[column]
