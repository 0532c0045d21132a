"""Steady-state cost of the interposer: the same DDP steps with and without it, turn about.

Two gangs are alive at once, one plain and one interposed, and one at a time runs, for half a second
each: whatever the machine does meanwhile hits both. A pair of gangs gives one ratio, the median
over its turns of the ratio of median step times; the figure is the mean over pairs with its
interval (95 %, Student's t). Goal: at most 1 %.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from singularity.agent.interposer.inject import prepare
from singularity.agent.interposer.page import Page

JOB = Path(__file__).resolve().parent / "jobs" / "steps.py"
RANKS = 2
WARM_STEPS = 50
T95 = (
    0.0,
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
)  # by degrees of freedom
Turn = tuple[float, float]


class Gang:
    """The ranks of one run of the job, stopped but in their turns."""

    def __init__(self, scratch: Path, port: int, hidden: int, inject: Path | None) -> None:
        self._log = scratch / f"{port}.steps"
        self._page: Page | None = None
        self.turns: list[Turn] = []
        # Without address randomisation, as the product runs them: layouts differ in speed.
        argv = ["setarch", "-R", sys.executable, str(JOB), "--hidden", str(hidden)]
        with self._log.open("w") as out:
            self._ranks = [
                subprocess.Popen(argv, env=self._env(scratch, port, rank, inject), stdout=out)
                for rank in range(RANKS)
            ]
        while len(self.steps()) < WARM_STEPS:
            assert all(rank.poll() is None for rank in self._ranks), "a rank died"
            time.sleep(0.05)
        self._signal(signal.SIGSTOP)
        assert self._page is None or self._page.step > 0, "the interposer never loaded"

    def _env(self, scratch: Path, port: int, rank: int, inject: Path | None) -> dict[str, str]:
        env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RANK": str(rank),
            "WORLD_SIZE": str(RANKS),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        if inject is None:
            return env
        self._page = page = Page.create(scratch / f"{port}-{rank}.page")
        page.rendezvous = {"store": str(scratch / f"{port}.store"), "generation": 1, "ip": ""}
        return env | {"PYTHONPATH": str(inject), "SINGULARITY_PAGE": str(page.path)}

    def _signal(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            rank.send_signal(number)

    def turn(self, seconds: float) -> None:
        began_s = time.perf_counter()
        self._signal(signal.SIGCONT)
        time.sleep(seconds)
        self.turns.append((began_s, time.perf_counter()))
        self._signal(signal.SIGSTOP)

    def steps(self) -> list[tuple[float, float]]:
        """When each step ended, and its seconds."""
        lines = self._log.read_text().split("\n")[:-1]
        return [(float(end), float(took)) for end, took in (line.split() for line in lines)]

    def end(self) -> list[float]:
        """The median step of each turn, of the steps that lie whole in it. In seconds."""
        self._signal(signal.SIGKILL)
        for rank in self._ranks:
            rank.wait()
        steps = self.steps()
        return [
            statistics.median(took for end, took in steps if end - took >= began and end <= ended)
            for began, ended in self.turns
        ]


def compare(
    scratch: Path, pair: int, args: argparse.Namespace, inject: Path
) -> tuple[float, float]:
    """One pair of gangs: the plain step in seconds, and the ratio interposed / plain."""
    port = 29600 + 2 * pair
    plain = Gang(scratch, port, args.hidden, None)
    interposed = Gang(scratch, port + 1, args.hidden, inject)
    for number in range(args.turns):
        order = (plain, interposed) if number % 2 == 0 else (interposed, plain)
        for gang in order:
            gang.turn(args.turn_s)
    steps, others = plain.end(), interposed.end()
    ratio = statistics.median(b / a for a, b in zip(steps, others, strict=True))
    return statistics.median(steps), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8, help=f"of gangs, 2 to {len(T95)}")
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
    half = T95[len(ratios) - 1] * statistics.stdev(ratios) / len(ratios) ** 0.5
    print(f"step {statistics.median(plain_ms):.2f} ms, {RANKS} ranks, {args.pairs} pairs of gangs")
    print(f"interposer / plain = {statistics.mean(ratios):.4f} ± {half:.4f} (95 %)")


if __name__ == "__main__":
    main()
