"""What it takes to move a training of 4 ranks from 4 nodes to 4 others, by part: by a handover, as
every move goes; to suspend it and resume it where it was; and to resume it elsewhere, from the
store. Goals: a move takes at most 1.7 s of the ranks' time where images lie in memory (250 MB a
rank); a suspend and resume at most 1.5 times what the disk needs for the images' bytes and CRIU for
a process with none.

The planet has two regions of 4 nodes with a device each, so eight agents, Postgres, the broker, the
API and its loops share the cores with what is measured. Seconds are those of the slowest node; CPU
seconds those of all agents and what they started, ranks apart, for as long as it took.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

from plane import TRAIN, Bench, Json, agents_cpu_s, spread

from singularity.cli.embedded import Planet
from singularity.cli.fleet import Cluster, Fleet, Region

RANKS = 4
LEAVING, COMING = ("barrier", "dump", "store"), ("fetch", "restore", "reconnect")


class Training:
    def __init__(self, bench: Bench, out: Path) -> None:
        self.bench, self._log = bench, out / "loss.csv"
        run = [sys.executable, str(TRAIN), "--epochs", "40000", "--width", "32", "--out", str(out)]
        body = {"name": "digits", "run": run, "ranks": RANKS, "devices": f"cpu:{RANKS}"}
        body["checkpoint"] = {"every": "never"}
        self.id: str = bench.call("POST", "jobs", body)["id"]

    def progress(self, steps: int) -> Json:
        """So many more; the job then."""
        wanted = self._steps() + steps
        while self._steps() < wanted:
            time.sleep(0.02)
        return self.bench.until(self.id, "running")

    def move(self) -> None:
        here = self.progress(10)["region"]
        self._send_away(here)
        while self.bench.until(self.id, "running")["region"] == here:
            time.sleep(0.01)

    def rest(self, *, elsewhere: bool = False) -> None:
        here = self.progress(10)["region"]
        self.bench.call("POST", f"jobs/{self.id}/suspend")
        self.bench.until(self.id, "suspended")
        if elsewhere:
            self._send_away(here)
        self.bench.call("POST", f"jobs/{self.id}/resume")
        self.bench.until(self.id, "running")

    def _send_away(self, here: str) -> None:
        away = {"north": "south", "south": "north"}[here]
        self.bench.call("POST", f"jobs/{self.id}/move", {"to": f"region/{away}"})

    def lives(self) -> list[Json]:
        found = self.bench.call("GET", f"jobs/{self.id}/incarnations?limit=1000")["items"]
        return [life["seconds"] for life in found]

    def handed_bytes(self) -> int:
        events = self.bench.call("GET", f"jobs/{self.id}/events?limit=1000")["items"]
        return max(e["facts"]["raw_bytes"] for e in events if e["event"] == "handover")

    def _steps(self) -> int:
        return self._log.read_bytes().count(b"\n") if self._log.exists() else 0


def table(title: str, lives: list[Json]) -> list[float]:
    """Prints each part, from the end of each life to the beginning of the next; the sums."""
    pairs = list(pairwise(lives))
    pauses = [
        sum(a.get(part, 0.0) for part in LEAVING) + sum(b.get(part, 0.0) for part in COMING)
        for a, b in pairs
    ]
    print(f"{title}, {len(pauses)} times: {spread(pauses)}")
    for part in (*LEAVING, *COMING):
        found = [(a if part in LEAVING else b).get(part, 0.0) for a, b in pairs]
        if any(found):
            print(f"        {part:<10} {spread(found)}")
    return pauses


def disk_s(directory: Path, size: int) -> float:
    """Seconds to write so many bytes there, durably; the best of three."""
    block, found = os.urandom(1 << 22), []
    for _ in range(3):
        began_s = time.monotonic()
        with (directory / "written").open("wb") as file:
            for _ in range(0, size, len(block)):
                file.write(block)
            os.fsync(file.fileno())
        found.append(time.monotonic() - began_s)
        (directory / "written").unlink()
    return min(found)


def fixed_s(bench: Bench) -> float:
    """What CRIU needs for a process of next to no memory, out and back; the median of five."""
    body = {"name": "small", "kind": "batch", "run": "sleep 600", "devices": "cpu:1"}
    job = bench.call("POST", "jobs", body)["id"]
    for _ in range(5):
        bench.until(job, "running")
        bench.call("POST", f"jobs/{job}/suspend")
        bench.until(job, "suspended")
        bench.call("POST", f"jobs/{job}/resume")
    bench.until(job, "running")
    lives = [life["seconds"] for life in bench.call("GET", f"jobs/{job}/incarnations")["items"]]
    bench.call("POST", f"jobs/{job}/cancel")
    return statistics.median(a["dump"] + b["restore"] for a, b in pairwise(lives))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--times", type=int, default=6, help="each way")
    args = parser.parse_args()
    clusters = Cluster(nodes=RANKS, device="cpu", devices=1)
    regions = {name: Region(clusters={f"{name}-a": clusters}) for name in ("north", "south")}
    with tempfile.TemporaryDirectory(prefix="singularity-bench-") as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        with Planet(root / "planet", Fleet(regions=regions)) as planet:
            job = Training(Bench(planet), root / "out")
            ways: dict[str, Callable[[], None]] = {
                "to 4 other nodes by a handover": job.move,
                "suspended, and resumed where it was": job.rest,
                "suspended, and resumed elsewhere": partial(job.rest, elsewhere=True),
            }
            cpu_s = {}
            for title, way in ways.items():
                before_s = agents_cpu_s(root)
                for _ in range(args.times):
                    way()
                cpu_s[title] = (agents_cpu_s(root) - before_s) / args.times
            lives = job.lives()
            print(f"images: {job.handed_bytes() / 1e6:.0f} MB of {RANKS} ranks")
            pauses = {}
            for number, title in enumerate(ways):
                first = number * args.times
                pauses[title] = table(title, lives[first : first + args.times + 1])
                print(f"        {cpu_s[title]:.2f} s of CPU each")
            moved, rested, _ = pauses.values()
            disk, fixed = disk_s(root, job.handed_bytes()), fixed_s(job.bench)
            bound = 1.5 * (disk + fixed)
            print(f"disk, for the images' bytes: {disk:.2f} s; CRIU, out and back: {fixed:.2f} s")
            print(f"a move: {statistics.median(moved):.2f} s (goal: at most 1.70)")
            print(
                f"suspend and resume: {statistics.median(rested):.2f} s (goal: at most {bound:.2f})"
            )


if __name__ == "__main__":
    main()
