"""Replica splicing: what 4 ranks on one device take of memory and time, before and after the kernel
has merged their equal pages. Once with a large network of which a small head learns, once with one
that learns as a whole. Needs root, and no other use of the machine's same-page merging.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gang import Gang, Shape

from singularity.agent.interposer.inject import prepare
from singularity.agent.runtime import splicing

KSM = Path("/sys/kernel/mm/ksm")
RANKS = 4
SHAPES = {"a head of 2 % learns": Shape(RANKS, 512, 12), "all of it learns": Shape(RANKS, 20_000)}
EAGER = 20_000  # pages looked at each 20 ms, so that a pass takes seconds; 100 is Linux's own
PASSES = 3


@contextmanager
def eagerly() -> Iterator[None]:
    """The machine's merging as it was, afterwards; what was merged comes apart again."""
    before = {name: (KSM / name).read_text() for name in ("run", "pages_to_scan")}
    (KSM / "pages_to_scan").write_text(str(EAGER))
    try:
        yield
    finally:
        (KSM / "run").write_text("2")
        for name, value in before.items():
            (KSM / name).write_text(value)


def step_s(gang: Gang, seconds: float) -> float:
    before = len(gang.steps())
    time.sleep(seconds)
    return statistics.median(took for _, took in gang.steps()[before:])


def passes() -> int:
    return int((KSM / "full_scans").read_text())


def measure(gang: Gang, title: str, seconds: float) -> None:
    for page in gang.pages:
        page.slot = 0
    before, took_s = gang.memory_bytes(), step_s(gang, seconds)
    (KSM / "run").write_text("1")
    goal = passes() + PASSES
    while passes() < goal:
        time.sleep(0.1)
    looking_s, after, merged = step_s(gang, seconds), gang.memory_bytes(), gang.merged_bytes()
    (KSM / "run").write_text("0")
    print(
        f"{title}: {before / 1e6:.0f} MB -> {after / 1e6:.0f} MB ({merged / 1e6:.0f} MB of pages"
        f" merged); step {took_s * 1e3:.1f} ms -> {looking_s * 1e3:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of steps, before and after")
    args = parser.parse_args()
    if not (KSM / "run").exists() or (reason := splicing.begin()):
        print(f"left out: {reason if (KSM / 'run').exists() else 'no same-page merging here'}")
        return
    with eagerly(), tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        inject = prepare(scratch / "inject")
        for number, (title, shape) in enumerate(SHAPES.items()):
            (KSM / "run").write_text("0")
            gang = Gang(scratch, 29900 + number, shape, inject)
            try:
                measure(gang, title, args.seconds)
            finally:
                gang.end()


if __name__ == "__main__":
    main()
