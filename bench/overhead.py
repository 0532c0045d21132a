"""Steady-state cost of the interposer: the same DDP steps by way of it and past it, turn about.

Each gang is a run of jobs/turnabout.py, in whose ranks one network goes through some steps by way
of the interposer, past it, and past it once more, in rounds of all orders. A round gives a ratio
of interposed to both plain, and one of plain to plain, which says what that is worth: by the
processor's time of all ranks, which other work on the machine disturbs little, and by the wall
clock. The figure is the mean of all rounds but the least and greatest fifth, with an interval of
95 % by drawing gangs, and rounds of each, again and again. Goal: at most 1 % more.

`--apart N` compares N pairs of gangs of jobs/steps.py too, one plain and one interposed: nothing is
shared by both ways then but the machine, and the interval is as much wider.

`--calls TURNS` counts instead what the interposer does (jobs/calls.py): microseconds a collective
and a step, with warm caches, so the least that it can be.
"""

from __future__ import annotations

import argparse
import os
import random
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
PLAIN, INTERPOSED, AGAIN = WAYS = range(3)
WALL, PROCESSOR = range(2)
LEFT_OUT = 0.2  # of the rounds, at either end
DRAWS = 1000
MOST_PAIRS = 99  # a port each
Turn = tuple[float, float]


def together(
    scratch: Path, number: int, args: argparse.Namespace, inject: Path
) -> list[list[Turn]]:
    """One gang: of each round and way, the wall clock's and the processor's seconds of a step."""
    argv = ["setarch", "-R", sys.executable, str(JOBS / "turnabout.py")]
    argv += ["--hidden", str(args.hidden), "--rounds", str(args.rounds), "--first", str(number)]
    ranks = []
    for rank in range(RANKS):
        page = Page.create(scratch / f"{number}-{rank}.page")
        page.rendezvous = {"store": str(scratch / f"{number}.store"), "generation": 1, "ip": ""}
        env = {"OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(RANKS)}
        env |= {"PYTHONPATH": str(inject), "SINGULARITY_PAGE": str(page.path)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        with (scratch / f"{number}-{rank}.turns").open("w") as out:
            ranks.append(subprocess.Popen(argv, env={**os.environ, **env}, stdout=out))
    if any(list(map(subprocess.Popen.wait, ranks))):
        raise SystemExit("a rank failed")
    rounds: dict[int, list[Turn]] = {}
    logs = [(scratch / f"{number}-{rank}.turns").read_text().splitlines() for rank in range(RANKS)]
    for lines in zip(*logs, strict=True):
        told = [line.split() for line in lines]
        turn = max(float(t[2]) for t in told), sum(float(t[3]) for t in told)
        rounds.setdefault(int(told[0][0]), [(0.0, 0.0)] * len(WAYS))[int(told[0][1])] = turn
    return list(rounds.values())


def middle(values: list[float]) -> float:
    """The mean without the least and the greatest."""
    out = int(len(values) * LEFT_OUT)
    return statistics.fmean(sorted(values)[out : len(values) - out])


def compared(gangs: list[list[list[Turn]]], way: int, clock: int) -> str:
    """How much longer than plain steps those of that way take, with the interval."""
    plain = (PLAIN, AGAIN) if way == INTERPOSED else (PLAIN,)
    ratios = [
        [turns[way][clock] / statistics.fmean(turns[one][clock] for one in plain) for turns in gang]
        for gang in gangs
    ]
    rng, drawn = random.Random(0), []
    for _ in range(DRAWS):
        some = rng.choices(ratios, k=len(ratios))
        drawn.append(middle([r for gang in some for r in rng.choices(gang, k=len(gang))]))
    low, *_, high = statistics.quantiles(drawn, n=40)
    return f"{middle([r for gang in ratios for r in gang]):.4f} ({low:.4f} to {high:.4f})"


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
    parser.add_argument("--gangs", type=int, default=12)
    parser.add_argument("--apart", type=int, default=0, help=f"pairs, at most {MOST_PAIRS}")
    parser.add_argument("--calls", type=int, default=0, help="turns of a thousand; nothing else")
    parser.add_argument("--rounds", type=int, default=120, help="of each of two networks")
    parser.add_argument("--hidden", type=int, default=2048)
    args = parser.parse_args()
    if args.calls:
        argv = [sys.executable, str(JOBS / "calls.py"), "--turns", str(args.calls)]
        raise SystemExit(subprocess.run(argv, check=False).returncode)
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        inject = prepare(scratch / "inject")
        gangs: list[list[list[Turn]]] = []
        for number in range(args.gangs):
            gangs.append(together(scratch, number, args, inject))
            wall_s, cpu_s = map(statistics.median, zip(*(t[PLAIN] for t in gangs[-1]), strict=True))
            step = f"{wall_s * 1e3:.3f} ms, {cpu_s / RANKS * 1e3:.3f} of the processor a rank"
            print(f"gang {number + 1}: a plain step {step}", flush=True)
        for clock, name in ((PROCESSOR, "processor"), (WALL, "wall clock")):
            for way, ratio in ((INTERPOSED, "interposed / plain"), (AGAIN, "plain / plain")):
                print(f"{ratio}, {name}: {compared(gangs, way, clock)}", flush=True)
        pairs = [apart(scratch, pair, args, inject) for pair in range(args.apart)]
        if pairs:
            print(told(f"{args.apart} pairs of gangs", [ratio for _, ratio in pairs]))


if __name__ == "__main__":
    main()
