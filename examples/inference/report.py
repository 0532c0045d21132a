"""What the demo of inference shows: a table, a picture, and both runs beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from examples.inference.asking import WAIT_MOST_S, Asked, waits

ROW_S: Final = 5.0
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """What there was, `at_s` after the load began: replicas wanted and ready, devices of the
    training and how many it has lent, steps that it has done."""

    at_s: float
    wanted: int
    ready: int
    devices: int
    lent: int
    steps: int


@dataclass(slots=True)
class Run:
    """`lends`: the training may be shrunk."""

    name: str
    lends: bool
    asked: list[Asked] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    loans: list[Json] = field(default_factory=list)
    resizes: int = 0
    lives: int = 0

    @property
    def span_s(self) -> float:
        return self.samples[-1].at_s - self.samples[0].at_s

    def kept(self) -> int:
        return sum(asked.kept for asked in self.asked)

    def steps(self) -> int:
        return self.samples[-1].steps - self.samples[0].steps

    def rows(self) -> Iterator[tuple[float, list[Asked], Sample]]:
        """Five seconds each, with what there was at their end."""
        at_s = 0.0
        while at_s < self.samples[-1].at_s:
            asked = [a for a in self.asked if at_s <= a.meant_s < at_s + ROW_S]
            seen = [s for s in self.samples if s.at_s < at_s + ROW_S]
            if asked and seen:
                yield at_s, asked, seen[-1]
            at_s += ROW_S


def timeline(run: Run) -> Table:
    table = Table(title=run.name, title_justify="left")
    for name in (
        "from s",
        "requests/s",
        "wait p50 ms",
        "p99 ms",
        "in time",
        "replicas ready/wanted",
    ):
        table.add_column(name, justify="right")
    for name in ("training's devices", "lent"):
        table.add_column(name, justify="right")
    for at_s, asked, seen in run.rows():
        p50_s, p99_s = waits(asked)
        table.add_row(
            f"{at_s:.0f}",
            f"{len(asked) / ROW_S:.1f}",
            f"{p50_s * 1e3:.0f}",
            f"{p99_s * 1e3:.0f}",
            f"{sum(a.kept for a in asked) / len(asked):.0%}",
            f"{seen.ready}/{seen.wanted}",
            str(seen.devices),
            str(seen.lent),
        )
    return table


def summary(runs: Sequence[Run]) -> Table:
    table = Table(title="both runs, while the load lasted", title_justify="left")
    table.add_column("")
    for run in runs:
        table.add_column(run.name, justify="right")

    def row(name: str, *values: str) -> None:
        table.add_row(name, *values)

    row("requests", *(str(len(run.asked)) for run in runs))
    row(
        f"of them a replica had within {WAIT_MOST_S:g} s",
        *(f"{run.kept() / len(run.asked):.1%}" for run in runs),
    )
    row("goodput: such requests/s", *(f"{run.kept() / run.span_s:.1f}" for run in runs))
    row("wait p99 s", *(f"{waits(run.asked)[1]:.2f}" for run in runs))
    row("not answered", *(str(sum(a.status != 200 for a in run.asked)) for run in runs))
    row("goodput: training steps/s", *(f"{run.steps() / run.span_s:.1f}" for run in runs))
    row("loans", *(str(len(run.loans)) for run in runs))
    row("lent device-seconds", *(f"{sum(x['device_s'] for x in run.loans):.0f}" for run in runs))
    row("priced at", *(f"{sum(x['price_device_s'] for x in run.loans):.1f}" for run in runs))
    return table


def draw(runs: Sequence[Run], path: Path) -> None:
    figure = Figure(figsize=(11, 9), layout="constrained")
    FigureCanvasAgg(figure)  # no screen is needed
    grid = figure.subplots(4, len(runs), sharex=True, sharey="row", squeeze=False)
    for column, run in enumerate(runs):
        rows = list(run.rows())
        at = [at_s + ROW_S / 2 for at_s, _, _ in rows]
        rates, wait, replicas, devices = (grid[row][column] for row in range(4))
        rates.set_title(run.name)
        rates.plot(at, [len(a) / ROW_S for _, a, _ in rows], label="asked")
        kept = [sum(x.kept for x in a) / ROW_S for _, a, _ in rows]
        rates.plot(at, kept, label=f"replica within {WAIT_MOST_S:g} s")
        wait.plot(at, [max(waits(a)[0], 1e-3) for _, a, _ in rows], label="p50")
        wait.plot(at, [max(waits(a)[1], 1e-3) for _, a, _ in rows], label="p99")
        wait.axhline(WAIT_MOST_S, color="grey", linestyle=":", label="promised")
        wait.set_yscale("log")
        times = [s.at_s for s in run.samples]
        replicas.step(times, [s.ready for s in run.samples], where="post", label="ready")
        replicas.step(
            times, [s.wanted for s in run.samples], where="post", linestyle=":", label="wanted"
        )
        devices.step(times, [s.devices for s in run.samples], where="post", label="training has")
        devices.step(times, [s.lent for s in run.samples], where="post", label="lent")
        devices.set_xlabel("seconds")
        for axis in (rates, replicas, devices):
            axis.set_ylim(bottom=0)
        for axis in (rates, wait, replicas, devices):
            axis.legend(fontsize="small")
            axis.grid(alpha=0.3)
    for axis, name in zip(
        grid[:, 0], ("requests/s", "wait, s", "replicas", "devices"), strict=True
    ):
        axis.set_ylabel(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
