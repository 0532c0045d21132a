"""PNGs of what bench/device.py has measured, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NONE = "no plot: matplotlib is not installed"
Rows = Mapping[str, Sequence[float]]  # of each bar of a group, by the group's title


def pairs(path: Path | None, rows: Rows, names: Sequence[str], of: str) -> None:
    """Bars side by side for each title, on a logarithmic scale of `of`, saved to `path`; says what
    it did. Nothing where there is no path."""
    if path is None:
        return
    try:
        from matplotlib import pyplot
    except ImportError:
        print(NONE)
        return
    height = 1.5 + 0.18 * len(rows) * len(names)
    figure, axes = pyplot.subplots(figsize=(8, height))
    titles = list(rows)[::-1]
    thick = 0.8 / len(names)
    for number, name in enumerate(names):
        at = [place - number * thick for place in range(len(titles))]
        axes.barh(at, [rows[title][number] for title in titles], thick, label=name)
    axes.set_yticks([place - 0.4 + thick / 2 for place in range(len(titles))], titles)
    axes.set(xscale="log", xlabel=of)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.legend(fontsize=7)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    print(f"plot: {path}")
