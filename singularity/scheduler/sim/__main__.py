"""python -m singularity.scheduler.sim storm --seeds 50 [--first 0]

One line a seed, a table at the end, and how often each part of the judgement was come to; exit code
1 and the seed when a law was broken, and when so many storms never came to a part of it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Final

from .passes import never
from .score import Score, table
from .storm import storm, survive

ENOUGH: Final = 40  # storms, by which everything has happened


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m singularity.scheduler.sim")
    commands = parser.add_subparsers(dest="command", required=True)
    storms = commands.add_parser("storm", help="fleets under faults, one a seed")
    storms.add_argument("--seeds", type=int, default=50)
    storms.add_argument("--first", type=int, default=0)
    chosen = parser.parse_args(argv)
    return run(range(chosen.first, chosen.first + chosen.seeds))


def run(seeds: range) -> int:
    scores, broken, reached = [], [], []
    for seed in seeds:
        world = storm(seed)
        try:
            survive(world)
        except AssertionError as error:
            broken.append(seed)
            say(f"seed {seed}: BROKEN at {world.now_s:.1f} s: {error}")
            continue
        reached.append(world.passes)
        score = Score.of(world)
        scores.append(score)
        say(
            f"seed {seed}: {score.finished} finished, {score.failed} failed as meant, "
            f"{score.decisions} decisions in {score.simulated_s:.0f} s, digest {world.digest()}"
        )
    say(table(scores))
    total = sum(reached, Counter[str]())
    say("; ".join(f"{name}: {count}" for name, count in sorted(total.items())))
    if missed := never(reached) if len(seeds) >= ENOUGH else []:
        say(f"never reached: {', '.join(missed)}")
    if broken:
        again = f"python -m singularity.scheduler.sim storm --seeds 1 --first {broken[0]}"
        say(f"broken seeds: {', '.join(map(str, broken))}; again: {again}")
    return 1 if broken or missed else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
