"""B3: the first 30,000 jobs of the Philly trace on 480 GPUs, tiers by a hash of the job's name (10
% premium, 30 % standard, 60 % basic), 60 s to come back from a checkpoint. Ours is the production
code on 60 nodes of 8; the others, beside what was published of them, are a pool without nodes."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from singularity.scheduler.policy import Policy
from singularity.scheduler.sim.compare import OURS, play
from singularity.scheduler.sim.outcomes import Scorecard, scorecard
from singularity.scheduler.sim.replay import Costs
from singularity.scheduler.sim.rivals import RIVALS
from singularity.scheduler.sim.traces import Reading, read, read_fleet

FLEET, WIDEST, JOBS = "60x8", 128, 30_000  # the goals are for so many
PUBLISHED_H = {"fifo": 88.2, "sjf": 7.75, "srtf": 5.19, "las": 10.06, "maxmin": 7.09}
GOAL_H, GOAL_RESIZES = PUBLISHED_H["las"], 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of philly_82k.csv")
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--gap", type=float, default=0.0, help="seconds between two rounds of ours")
    parser.add_argument("--only", choices=["rigid", "elastic", "others"])
    args = parser.parse_args()
    path = args.data / "philly_82k.csv"
    heads = "avg JCT", "published", "p50", "p99", "queue", ">=.95 P", ">=.70 S", "kept P", "kept S"
    tail = "taken", "resized", "moved", "fair p99", "rounds", "CPU s"
    print(f"{'policy':24}" + ("{:>10}" * 15).format(*heads, *tail))
    bad = 0
    if args.only in (None, "others"):
        for name in RIVALS:
            one(path, args.jobs, name, elastic=False)
    for elastic in (False, True):
        if args.only in (None, "elastic" if elastic else "rigid"):
            card = one(path, args.jobs, OURS, elastic=elastic, gap_s=args.gap)
            kept = all(share is None or share == 1.0 for share in card.kept.values())
            met = card.jct_h <= GOAL_H and kept and card.resizes < GOAL_RESIZES
            bad += args.jobs == JOBS and not met
            ms = f"p50 {card.decide_p50_ms:.1f}, p99 {card.decide_p99_ms:.1f} ms"
            judged = ("goals met; " if met else "goals missed; ") if args.jobs == JOBS else ""
            print(f"{judged}a round takes {ms}")
    return int(bad > 0)


def one(path: Path, jobs: int, name: str, *, elastic: bool, gap_s: float = 0.0) -> Scorecard:
    trace = read(path, Reading(most=jobs, widest=WIDEST, elastic=elastic))
    began_s = time.process_time()
    (run,) = play([name], trace, read_fleet(FLEET), Costs(restart_s=60.0, gap_s=gap_s), Policy())
    card, took_s = scorecard(run), time.process_time() - began_s
    published = f"{PUBLISHED_H[name]:.2f}" if name in PUBLISHED_H else "-"
    kept = ["-" if share is None else f"{100 * share:.2f}%" for share in card.kept.values()]
    print(
        f"{card.policy + (', elastic' if elastic else ''):24}"
        f"{card.jct_h:9.2f}h{published:>10}{60 * card.jct_p50_h:9.1f}m{card.jct_p99_h:9.1f}h"
        f"{card.queue_h:9.2f}h{100 * card.attained['premium']:9.2f}%"
        f"{100 * card.attained['standard']:9.2f}%{kept[0]:>10}{kept[1]:>10}"
        f"{card.preemptions:10.2f}{card.resizes:10.2f}{card.migrations:10.3f}"
        f"{card.fairness_p99:10.2f}{card.rounds:10}{took_s:10.0f}",
        flush=True,
    )
    return card


if __name__ == "__main__":
    sys.exit(main())
