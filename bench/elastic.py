"""What sharing devices costs, and how soon a gang comes to rest.

Slots: 4 ranks that compute all the time take turns on 4, 2 and 1 slots, changed under them while
they run, turn about. The step is compared with what it cannot be below: the CPU time of all ranks
in the same turn, divided by the cores that they may use. Goal: at most 3 % more at 2 and 1 slots.
A gang that meets does not come to that without sharing either, so where as many cores are in use
the step is also compared with the one beside it in which nobody waits for a turn. `--frozen N` puts
N layers below the network that do not learn: more to compute between two meetings.

Hand-over: two processes with nothing else to do take turns; from when one lets go of the slot until
the other has it.

Barrier: the production cut loop brings the same gang to rest at random moments and lets it go on.
Counted in mini-batches from the request to the step at which all hold. Goal: at most 2.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from gang import Gang, Shape, half_width

from singularity.agent.barrier import CutState, Dumped, Order, View, react
from singularity.agent.cutting import CutLoop
from singularity.agent.interposer.inject import prepare
from singularity.agent.interposer.page import State
from singularity.primitives.nodes import NodeId

RANKS = 4
SLOTS = (4, 2, 1)
CORES = len(os.sched_getaffinity(0))
JOBS = Path(__file__).resolve().parent / "jobs"
HERE = NodeId("here")


def share(gang: Gang, slots: int) -> None:
    """Put the ranks on that many slots, and wait until each takes its turns there."""
    for rank, page in enumerate(gang.pages):
        page.slot = rank % slots
    while any(page.turn != page.slot for page in gang.pages):
        time.sleep(0.005)


def one_turn(gang: Gang, slots: int, seconds: float) -> tuple[float, float]:
    """Seconds a step took, and the least it could have taken, by CPU time and cores."""
    share(gang, slots)
    began_s, before, cpu_s = time.perf_counter(), gang.pages[0].step, gang.cpu_s()
    time.sleep(seconds)
    steps = gang.pages[0].step - before
    took_s, worked_s = time.perf_counter() - began_s, gang.cpu_s() - cpu_s
    cores = min(slots, CORES)
    return took_s / steps, worked_s / steps / cores


def slicing(gang: Gang, turns: int, seconds: float) -> None:
    found: dict[int, list[tuple[float, float]]] = {slots: [] for slots in SLOTS}
    for number in range(turns):
        for slots in SLOTS if number % 2 == 0 else SLOTS[::-1]:
            found[slots].append(one_turn(gang, slots, seconds))
    for slots, taken in found.items():
        step_ms = statistics.median(step_s for step_s, _ in taken) * 1e3
        least = told([step_s / least_s for step_s, least_s in taken])
        print(f"{slots} slots: step {step_ms:.1f} ms, {least} of CPU time / cores", end="")
        if slots < RANKS and min(slots, CORES) == min(RANKS, CORES):
            pairs = zip(taken, found[RANKS], strict=True)
            print(f", {told([mine / free for (mine, _), (free, _) in pairs])} of nobody's waiting")
        else:
            print()


def told(ratios: list[float]) -> str:
    return (
        f"{statistics.mean(ratios):.4f} ± {half_width(statistics.stdev(ratios), len(ratios)):.4f}"
    )


def handover(scratch: Path, turns: int) -> None:
    argv = [sys.executable, str(JOBS / "turns.py"), str(scratch), str(turns)]
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    events = []
    for process in both:
        for line in process.communicate()[0].splitlines():
            let_go_s, had_s = map(float, line.split())
            events += [(let_go_s, process.pid, True), (had_s, process.pid, False)]
    events.sort()
    took_us = [
        (after - before) * 1e6
        for (before, one, let_go), (after, other, still) in pairwise(events)
        if let_go and not still and one != other
    ]
    low, *_, high = statistics.quantiles(took_us, n=10)
    print(
        f"hand-over, {len(took_us)} times: median {statistics.median(took_us):.0f} us"
        f" ({low:.0f} to {high:.0f}, a tenth each left out)"
    )


class NoDump:
    """Says at once that there will be no image, so that all go on."""

    unable = None

    def begin(self, moment: int) -> None:
        """It has failed already."""

    def moment(self) -> int:
        return 1

    def state(self) -> tuple[Dumped, str]:
        return Dumped.FAILED, "only the barrier was asked for"


def barrier(gang: Gang) -> tuple[float, int]:
    """Seconds until all are parked, and mini-batches that the furthest rank still made."""
    state = CutState((HERE,))

    def lead(view: View) -> Order:
        nonlocal state
        state = react(state, view)
        return state.order

    pages = dict(enumerate(gang.pages))
    began_s, step = time.perf_counter(), max(page.step for page in gang.pages)
    outcome = CutLoop(HERE, lambda: pages, lead, NoDump(), lambda: None).run(free=False)
    took_s = time.perf_counter() - began_s
    gang.resume()
    while any(page.state is not State.RUNNING for page in gang.pages):
        time.sleep(0.005)
    return took_s, outcome.step - step


def barriers(gang: Gang, times: int) -> None:
    rng = random.Random(0)
    share(gang, RANKS)
    seconds, batches = [], []
    for _ in range(times):
        time.sleep(rng.uniform(0.0, 0.3))
        took_s, made = barrier(gang)
        seconds.append(took_s)
        batches.append(made)
    print(
        f"barrier, {times} times: median {statistics.median(seconds) * 1e3:.0f} ms, at most"
        f" {max(seconds) * 1e3:.0f} ms; mini-batches: median {statistics.median(batches):g},"
        f" {sum(b <= 2 for b in batches)} of {times} within 2, at most {max(batches)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--turn-s", type=float, default=2.0)
    parser.add_argument("--barriers", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=8192)
    parser.add_argument("--frozen", type=int, default=0, help="layers that do not learn")
    parser.add_argument("--handovers", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        handover(scratch, args.handovers)
        shape = Shape(RANKS, args.hidden, args.frozen)
        gang = Gang(scratch, 29800, shape, prepare(scratch / "inject"))
        try:
            slicing(gang, args.turns, args.turn_s)
            if args.barriers:
                barriers(gang, args.barriers)
        finally:
            gang.end()


if __name__ == "__main__":
    main()
