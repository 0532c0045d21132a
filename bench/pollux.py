"""B2: eight workloads of 160 trainings on 16 nodes of 4 GPUs, beside what was published for Pollux,
Tiresias and Optimus (OSDI '21) on them.

    bench/pollux.py --data DIR     DIR holds pollux/workloads/workload-{1..8}.csv

How long a training takes on how many GPUs is the artifact's own measurement (sim/pollux.py, which
says what that leaves out), so first of all look at what the rivals come to: two-queue LAS is
Tiresias. `fixed` trainings have the GPUs and the batch that the workload names, and on fewer GPUs
their ranks take turns; `adaptive` ones change their batch, and may have as many GPUs as make them
faster. Who comes back from a checkpoint, or changes its batch, stands still for 30 s, and the
scheduler is told so, as an operator may (`resize_cost_s`, `move_cost_s`): production measures only
what it costs to leave and to come back.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from singularity.primitives.model import Tier
from singularity.scheduler.policy import Policy
from singularity.scheduler.sim.compare import OURS, play
from singularity.scheduler.sim.outcomes import Scorecard, scorecard
from singularity.scheduler.sim.replay import Costs
from singularity.scheduler.sim.traces import Reading, Trace, read, read_fleet

FLEET, WORKLOADS = "16x4", range(1, 9)
TIER = Tier.BASIC  # all alike: no promises
PUBLISHED_H = {"las": 1.122}
POLLUX_H, OPTIMUS_H = 0.764, 1.578
RIGID = Costs(restart_s=30.0)
FIXED = Costs(restart_s=30.0, stall_s=0.1, every_s=300.0)
ADAPTIVE = Costs(restart_s=30.0, stall_s=30.0, every_s=300.0)
TOLD = Policy(move_cost_s=30.0)
WAYS: Sequence[tuple[str, str, Reading, Costs]] = [
    ("fifo", "as named", Reading(rigid=True, tier=TIER), RIGID),
    ("las", "as named", Reading(rigid=True, tier=TIER), RIGID),
    ("srtf", "as named", Reading(rigid=True, tier=TIER), RIGID),
    (OURS, "as named", Reading(rigid=True, tier=TIER), RIGID),
    (OURS, "fixed, on fewer", Reading(tier=TIER), FIXED),
    ("maxmin", "adaptive", Reading(adaptive=True, tier=TIER), ADAPTIVE),
    (OURS, "adaptive", Reading(adaptive=True, tier=TIER), ADAPTIVE),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workloads", type=int, nargs="+", default=list(WORKLOADS))
    args = parser.parse_args()
    heads = "avg JCT", "published", "lowest", "highest", "p99", "taken", "resized", "CPU s"
    print(f"{'policy':18}{'trainings':18}" + ("{:>10}" * len(heads)).format(*heads))
    print(f"{'Pollux':36}{'':10}{POLLUX_H:9.3f}h\n{'Optimus':36}{'':10}{OPTIMUS_H:9.3f}h")
    for name, label, how, costs in WAYS:
        began_s = time.process_time()
        paths = [args.data / "pollux" / "workloads" / f"workload-{n}.csv" for n in args.workloads]
        cards = [one(name, read(path, how), costs) for path in paths]
        show(name, label, cards, time.process_time() - began_s)
    return 0


def one(name: str, trace: Trace, costs: Costs) -> Scorecard:
    policy = replace(TOLD, resize_cost_s=costs.stall_s or TOLD.resize_cost_s)
    (run,) = play([name], trace, read_fleet(FLEET), costs, policy)
    return scorecard(run)


def show(name: str, label: str, cards: Sequence[Scorecard], took_s: float) -> None:
    hours = [card.jct_h for card in cards]
    published = f"{PUBLISHED_H[name]:.3f}h" if name in PUBLISHED_H else "-"
    print(
        f"{cards[0].policy:18}{label:18}{fmean(hours):9.3f}h{published:>10}{min(hours):9.3f}h"
        f"{max(hours):9.3f}h{fmean(c.jct_p99_h for c in cards):9.2f}h"
        f"{fmean(c.preemptions for c in cards):10.2f}{fmean(c.resizes for c in cards):10.2f}"
        f"{took_s:10.0f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
