"""Steady-state cost of the interposer: the same DDP steps by way of it and past it, turn about.

Each gang is a run of jobs/turnabout.py, in whose ranks DDP has torch's own group for some steps
and the interposed one, with the hook that counts steps, for the next. A gang gives one ratio, of
the medians of its turns; the figure is the mean over gangs with its interval (95 %, Student's t),
by the wall clock and by the processor's, which other work on the machine disturbs less. Goal: at
most 1 %.

`--apart N` compares N pairs of gangs of jobs/steps.py too, one plain and one interposed: nothing is
shared by both ways then but the machine, and the interval is as much wider.

`--calls TURNS` counts instead what the interposer does (jobs/calls.py): microseconds a collective
and a step, which are the same on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from gang import Gang, Shape, half_width

from singularity.agent.interposer.inject import prepare
from singularity.agent.interposer.page import Page

RANKS = 2
JOBS = Path(__file__).resolve().parent / "jobs"
BUILT = ("0110", "1001")
Turn = tuple[float, float]
MOST_PAIRS = 99  # a port each


def together(scratch: Path, number: int, args: argparse.Namespace, inject: Path) -> list[Turn]:
    """One gang: (wall, processor's) seconds of a step of it plain, and the ratios interposed to
    plain."""
    argv = [
        "setarch",
        "-R",
        sys.executable,
        str(JOBS / "turnabout.py"),
        "--hidden",
        str(args.hidden),
    ]
    argv += ["--turns", str(args.turns), "--built", BUILT[number % 2]]
    ranks = []
    for rank in range(RANKS):
        page = Page.create(scratch / f"{number}-{rank}.page")
        page.rendezvous = {"store": str(scratch / f"{number}.store"), "generation": 1, "ip": ""}
        env = {"OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(RANKS)}
        env |= {"PYTHONPATH": str(inject), "SINGULARITY_PAGE": str(page.path)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        ranks.append(
            subprocess.Popen(argv, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)
        )
    told = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit("a rank failed")
    lines = [line.split() for line in told[0].splitlines()]
    plain, other = (
        [statistics.median(float(line[of]) for line in lines if line[0] == way) for of in (1, 2)]
        for way in ("0", "1")
    )
    ratios = [b / a for a, b in zip(plain, other, strict=True)]
    return [(plain[0], plain[1]), (ratios[0], ratios[1])]


def apart(scratch: Path, pair: int, args: argparse.Namespace, inject: Path) -> Turn:
    """One pair of gangs: the plain step in seconds, and the ratio interposed to plain."""
    port, shape = 29600 + 2 * pair, Shape(RANKS, args.hidden)
    gangs = []
    for number, loaded in enumerate((None, inject)):
        gangs.append(Gang(scratch, port + number, shape, loaded))
        gangs[-1].pause()
    turns: tuple[list[Turn], list[Turn]] = ([], [])
    for number in range(20):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            turns[which].append(gangs[which].turn(0.5))
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


def told(what: str, ratios: list[float]) -> str:
    half = half_width(statistics.stdev(ratios), len(ratios)) if len(ratios) > 1 else float("nan")
    return f"interposed / plain, {what}: {statistics.mean(ratios):.4f} ± {half:.4f} (95 %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gangs", type=int, default=12, help="2 or more")
    parser.add_argument("--apart", type=int, default=0, help=f"pairs, at most {MOST_PAIRS}")
    parser.add_argument("--calls", type=int, default=0, help="turns of a thousand; nothing else")
    parser.add_argument("--turns", type=int, default=40, help="of each of four networks")
    parser.add_argument("--hidden", type=int, default=2048)
    args = parser.parse_args()
    if args.calls:
        argv = [sys.executable, str(JOBS / "calls.py"), "--turns", str(args.calls)]
        raise SystemExit(subprocess.run(argv, check=False).returncode)
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        inject = prepare(scratch / "inject")
        found = []
        for number in range(args.gangs):
            found.append(together(scratch, number, args, inject))
            (wall_s, cpu_s), (wall, cpu) = found[-1]
            ms = f"{wall_s * 1e3:.3f} ms, {cpu_s * 1e3:.3f} of the processor"
            print(f"gang {number + 1}: a plain step {ms}; ratios {wall:.4f}, {cpu:.4f}", flush=True)
        print(told(f"wall clock, {args.gangs} gangs", [ratios[0] for _, ratios in found]))
        print(told("processor", [ratios[1] for _, ratios in found]))
        pairs = [apart(scratch, pair, args, inject) for pair in range(args.apart)]
        if pairs:
            print(told(f"{args.apart} pairs of gangs", [ratio for _, ratio in pairs]))


if __name__ == "__main__":
    main()
