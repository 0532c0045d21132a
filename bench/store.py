"""What checkpoints of real trainings take, in bytes and in seconds, through the plane's own doors.

Data-parallel trainings of 1 and of 4 ranks, each in a project of its own, which share nothing in
the store. Goals: the first checkpoint of 4 ranks takes at most 1.2 times the room of that of one
rank; a later one of the same job at most 5 % more than its changed tensors (parameters, gradients,
momentum and DDP's buckets: every step changes all of them, and they are equal in all ranks).

Store is what is left to do when the last rank is dumped; fetch is all from the store to memory, but
for what the node has in memory of an earlier cut: regions take turns. CPU seconds are those of all
agents and what they started, ranks apart, for a suspension and a resumption elsewhere; unlike the
others they are much the same on a busy machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from plane import Bench, Json, agents_cpu_s, spread

from singularity.cli.embedded import Planet

STEPS = Path(__file__).resolve().parent / "jobs" / "steps.py"


def tensor_bytes(hidden: int) -> int:
    """Parameters, gradients, momentum and DDP's buckets of jobs/steps.py."""
    return 4 * 4 * (256 * hidden + hidden + 10 * hidden + 10)


class Training:
    def __init__(self, bench: Bench, ranks: int, hidden: int) -> None:
        self._bench = bench
        run = [sys.executable, str(STEPS), "--hidden", str(hidden), "--momentum", "0.9"]
        body = {"name": f"ranks-{ranks}", "project": f"of-{ranks}", "run": run, "ranks": ranks}
        self.id: str = bench.call("POST", "jobs", {**body, "devices": f"cpu:{ranks}"})["id"]
        self._log = bench.planet.volume / "jobs" / self.id / "logs" / "rank-0.log"

    def progress(self, steps: int) -> None:
        wanted = self._steps() + steps
        while self._steps() < wanted:
            time.sleep(0.05)

    def checkpoint(self) -> Json:
        """Take one now."""
        job = self._bench.until(self.id, "running")
        last = job["checkpoint"]["cut"] if job["checkpoint"] else 0
        self._bench.call("POST", f"jobs/{self.id}/checkpoints")
        while True:
            made = self._bench.call("GET", f"jobs/{self.id}")["checkpoint"]
            if made is not None and made["cut"] > last:
                return dict(made)
            time.sleep(0.05)

    def rest(self) -> Json:
        """Be suspended, and go on in another region, for on its own nodes the store is not asked;
        the checkpoint it went by."""
        here = self._bench.until(self.id, "running")["region"]
        regions = [region["id"] for region in self._bench.call("GET", "regions")["items"]]
        away = next(region for region in regions if region != here)
        self._bench.call("POST", f"jobs/{self.id}/suspend")
        made = self._bench.until(self.id, "suspended")["checkpoint"]
        self._bench.call("POST", f"jobs/{self.id}/move", {"to": f"region/{away}"})
        self._bench.call("POST", f"jobs/{self.id}/resume")
        self._bench.until(self.id, "running")
        return dict(made)

    def seconds(self, part: str) -> list[float]:
        lives = self._bench.call("GET", f"jobs/{self.id}/incarnations")["items"]
        return [life["seconds"][part] for life in lives if part in life["seconds"]]

    def cancel(self) -> None:
        self._bench.call("POST", f"jobs/{self.id}/cancel")
        self._bench.until(self.id, "cancelled")

    def _steps(self) -> int:
        return self._log.read_bytes().count(b"\n") if self._log.exists() else 0


def measure(bench: Bench, root: Path, hidden: int, rests: int) -> None:
    tensors = tensor_bytes(hidden)
    print(f"tensors of a rank: {tensors / 1e6:.0f} MB")
    alone = Training(bench, 1, hidden)
    alone.progress(3)
    one = alone.checkpoint()
    alone.cancel()
    print(f"1 rank: {one['raw_bytes'] / 1e6:.0f} MB, stored {one['new_bytes'] / 1e6:.1f} MB")
    gang = Training(bench, 4, hidden)
    gang.progress(3)
    first = gang.checkpoint()
    ratio = first["new_bytes"] / one["new_bytes"]
    print(
        f"4 ranks: {first['raw_bytes'] / 1e6:.0f} MB, stored {first['new_bytes'] / 1e6:.1f} MB,"
        f" {ratio:.2f} of one rank (goal: at most 1.2)"
    )
    later, cpu_s = [], []
    for _ in range(rests):
        gang.progress(3)
        before_s = agents_cpu_s(root)
        later.append(gang.rest())
        cpu_s.append(agents_cpu_s(root) - before_s)
    for made in later:
        share = made["new_bytes"] / tensors
        print(f"a later one: {made['new_bytes'] / 1e6:.1f} MB, {share:.3f} of its changed tensors")
    raw = later[0]["raw_bytes"] / 1e6
    for part in ("dump", "store", "fetch"):
        found = gang.seconds(part)[-rests:]
        rates = sorted(raw / seconds for seconds in found)
        print(f"{part:<6} {spread(found)}, {rates[0]:.0f} to {rates[-1]:.0f} MB/s")
    print(f"CPU    {spread(cpu_s)} each, in order {', '.join(f'{s:.2f}' for s in cpu_s)}")
    gang.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--hidden", type=int, default=65536, help="width of the network")
    parser.add_argument("--rests", type=int, default=4, help="suspensions of the gang")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="singularity-bench-") as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        with Planet(root / "planet") as planet:
            measure(Bench(planet), root, args.hidden, args.rests)


if __name__ == "__main__":
    main()
