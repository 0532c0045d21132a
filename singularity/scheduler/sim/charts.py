"""Charts of runs: utilisation over time, how long jobs took, and what they were given. PNG files,
by matplotlib, which is an extra of its own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from singularity.primitives.errors import Rejected
from singularity.primitives.model import Tier
from singularity.primitives.sla import PROMISED

from .outcomes import Floats, Run, fractions, lasted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS: Final = 600  # of a curve over time; more than a chart can show
_DAY_S: Final = 86400.0


def require() -> None:
    """Raises Rejected where nothing could be drawn: to be asked before a long run."""
    if find_spec("matplotlib") is None:
        raise Rejected("charts need matplotlib: pip install 'singularity[plot]', or leave --plot")


def draw(runs: Sequence[Run], directory: Path) -> list[Path]:
    """Writes the charts into `directory`, which is made; returns their paths."""
    require()
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, chart in (("utilisation", _used), ("jct", _took), ("attainment", _given)):
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        chart(axes, runs)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
        paths.append(directory / f"{name}.png")
        figure.savefig(paths[-1], dpi=120)
        plt.close(figure)
    return paths


def _used(axes: Axes, runs: Sequence[Run]) -> None:
    for run in runs:
        edges = np.linspace(0.0, run.times_s[-1], _POINTS + 1)
        held = _mean(run, run.busy, edges) / run.devices
        axes.plot(edges[1:] / _DAY_S, 100.0 * held, label=run.policy, linewidth=1.0)
    axes.set(xlabel="days", ylabel="% of devices held", title="Utilisation", ylim=(0, 105))


def _mean(run: Run, values: Sequence[float], edges: Floats) -> Floats:
    """Of a step function, between each two of `edges`."""
    times, steps = np.array(run.times_s), np.array(values)
    area = np.concatenate([[0.0], np.cumsum(steps[:-1] * np.diff(times))])
    at = np.clip(np.searchsorted(times, edges, side="right") - 1, 0, len(times) - 1)
    until = area[at] + steps[at] * (edges - times[at])
    found: Floats = np.diff(until) / np.maximum(np.diff(edges), 1e-9)
    return found


def _took(axes: Axes, runs: Sequence[Run]) -> None:
    for run in runs:
        hours = np.sort(lasted(run, run.times_s[-1])) / 3600.0
        axes.plot(hours, 100.0 * np.arange(1, len(hours) + 1) / len(hours), label=run.policy)
    axes.set(xlabel="hours from submit to end", ylabel="% of jobs", title="Job completion time")
    axes.set_xscale("log")


def _given(axes: Axes, runs: Sequence[Run]) -> None:
    """Of the jobs of each tier with a promise, how many were given so much of what they wanted."""
    for number, run in enumerate(runs):
        found = fractions(run, lasted(run, run.times_s[-1]))
        for tier, style in zip(PROMISED, ("-", "--"), strict=True):
            mine = np.sort(found[[o.job.tier is tier for o in run.outcomes]])
            left = 100.0 * np.arange(len(mine), 0, -1) / max(1, len(mine))
            told = f"{run.policy}, {tier.name.lower()}"
            axes.plot(mine, left, style, label=told, color=f"C{number}", linewidth=1.0)
    for tier, promised in PROMISED.items():
        axes.axvline(promised, color="grey", linestyle=":", linewidth=0.8)
        axes.annotate(Tier(tier).name.lower(), (promised, 2), fontsize="x-small", rotation=90)
    axes.set(
        xlabel="time alone / time taken", ylabel="% of jobs with at least that", xlim=(0, 1.02)
    )
    axes.set_title("What jobs were given of what they wanted")
