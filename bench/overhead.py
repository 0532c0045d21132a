"""Steady-state cost of the interposer: the same DDP steps with and without it, turn about.

Two gangs are alive at once, one plain and one interposed, and one at a time runs, for half a second
each: whatever the machine does meanwhile hits both. A pair of gangs gives one ratio, the median
over its turns of the ratio of median step times; the figure is the mean over pairs with its
interval (95 %, Student's t). Goal: at most 1 %.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from gang import Gang, Shape, half_width

from singularity.agent.interposer.inject import prepare

RANKS = 2
Turn = tuple[float, float]
MOST_PAIRS = 99  # a port each


def compare(
    scratch: Path, pair: int, args: argparse.Namespace, inject: Path
) -> tuple[float, float]:
    """One pair of gangs: the plain step in seconds, and the ratio interposed / plain."""
    port, shape = 29600 + 2 * pair, Shape(RANKS, args.hidden)
    gangs = []
    for number, loaded in enumerate((None, inject)):
        gangs.append(Gang(scratch, port + number, shape, loaded))
        gangs[-1].pause()
    turns: tuple[list[Turn], list[Turn]] = ([], [])
    for number in range(args.turns):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            turns[which].append(gangs[which].turn(args.turn_s))
    steps, others = (medians(g.steps(), t) for g, t in zip(gangs, turns, strict=True))
    for gang in gangs:
        gang.end()
    ratio = statistics.median(b / a for a, b in zip(steps, others, strict=True))
    return statistics.median(steps), ratio


def medians(steps: list[tuple[float, float]], turns: list[Turn]) -> list[float]:
    """The median step of each turn, of the steps that lie whole in it. In seconds."""
    return [
        statistics.median(took for end, took in steps if end - took >= began and end <= ended)
        for began, ended in turns
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8, help=f"of gangs, 2 to {MOST_PAIRS}")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--turn-s", type=float, default=0.5)
    parser.add_argument("--hidden", type=int, default=2048)
    args = parser.parse_args()
    plain_ms, ratios = [], []
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        inject = prepare(scratch / "inject")
        for pair in range(args.pairs):
            step_s, ratio = compare(scratch, pair, args, inject)
            plain_ms.append(step_s * 1e3)
            ratios.append(ratio)
            print(f"pair {pair + 1}: plain {plain_ms[-1]:.3f} ms, ratio {ratio:.4f}", flush=True)
    half = half_width(statistics.stdev(ratios), len(ratios))
    print(f"step {statistics.median(plain_ms):.2f} ms, {RANKS} ranks, {args.pairs} pairs of gangs")
    print(f"interposer / plain = {statistics.mean(ratios):.4f} ± {half:.4f} (95 %)")


if __name__ == "__main__":
    main()
