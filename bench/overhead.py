"""Steady-state cost of the interposer: the same DDP steps with and without it, in turns.

Each pair runs plain and interposed one after the other, so that drift of the machine hits both;
the figure is the ratio of median step times, over pairs, with the interval of its mean (95 %,
Student's t). Goal: at most 1 %.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from singularity.agent.interposer.inject import prepare
from singularity.agent.interposer.page import Page

JOB = Path(__file__).resolve().parent / "jobs" / "steps.py"
RANKS = 2
T95 = {
    2: 12.71,
    3: 4.30,
    4: 3.18,
    5: 2.78,
    6: 2.57,
    8: 2.36,
    10: 2.26,
    12: 2.20,
    16: 2.13,
    20: 2.09,
}


def median_step_s(arguments: list[str], port: int, inject: Path | None, scratch: Path) -> float:
    """Run the job once; the median of rank 0's step times."""
    processes = []
    for rank in range(RANKS):
        env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RANK": str(rank),
            "WORLD_SIZE": str(RANKS),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        if inject is not None:
            path = scratch / f"rank-{rank}.page"
            page = Page.create(path)
            page.rendezvous = {"store": str(scratch / f"store-{port}"), "generation": 1, "ip": ""}
            env |= {"PYTHONPATH": str(inject), "SINGULARITY_PAGE": str(path)}
        argv = [sys.executable, str(JOB), *arguments]
        processes.append(subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True))
    outputs = [p.communicate()[0] for p in processes]
    assert all(p.returncode == 0 for p in processes), "the job failed"
    if inject is not None:
        assert Page(scratch / "rank-0.page").step > 0, "the interposer never loaded"
    return statistics.median(float(line) for line in outputs[0].split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--hidden", type=int, default=2048)
    args = parser.parse_args()
    job = ["--steps", str(args.steps), "--hidden", str(args.hidden)]
    ratios, plain_ms = [], []
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        inject = prepare(scratch / "inject")
        for pair in range(args.pairs):
            port = 29600 + 2 * pair
            order = (None, inject) if pair % 2 == 0 else (inject, None)
            found = {way: median_step_s(job, port, way, scratch) for way in order}
            ratios.append(found[inject] / found[None])
            plain_ms.append(found[None] * 1e3)
            print(f"pair {pair + 1}: plain {plain_ms[-1]:.3f} ms, ratio {ratios[-1]:.4f}")
    mean = statistics.mean(ratios)
    spread = statistics.stdev(ratios) / len(ratios) ** 0.5
    half = T95.get(len(ratios), 2.0) * spread
    print(f"step {statistics.median(plain_ms):.2f} ms, {RANKS} ranks, {args.pairs} pairs")
    print(f"interposer / plain = {mean:.4f} ± {half:.4f} (95 %)")


if __name__ == "__main__":
    main()
