"""The plane on this machine, through its real doors: how long from submit to the first
line of a program, and what the parts of a move take.

The planet is the embedded default (3 regions of 2 nodes), so every figure shares its cores with
Postgres, the broker, the API, four loops and six agents.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from singularity.cli.embedded import Planet

TRAIN = Path(__file__).resolve().parents[1] / "examples" / "digits" / "train.py"
PARTS = ("barrier", "dump", "fetch", "restore", "reconnect")
Json = dict[str, Any]


class Bench:
    def __init__(self, planet: Planet) -> None:
        headers = {"Authorization": f"Bearer {planet.token}"}
        self.planet = planet
        self.http = httpx.Client(
            base_url=planet.url,
            headers=headers,
            timeout=60,
        )

    def call(self, method: str, path: str, body: object = None) -> Any:
        response = self.http.request(method, f"/v1/{path}", json=body)
        response.raise_for_status()
        return response.json() if response.content else None

    def until(self, job: str, state: str) -> Json:
        deadline_s = time.monotonic() + 600  # others may be at work here
        while (found := self.call("GET", f"jobs/{job}"))["state"] != state:
            assert time.monotonic() < deadline_s, f"{job} never came to {state}: {found}"
            time.sleep(0.02)
        return found

    def first_line(self, times: int) -> None:
        """From POST until the program's first line is in its log."""
        program = "import time; print(time.time(), flush=True)"
        took = []
        for number in range(times):
            run = [sys.executable, "-S", "-c", program]
            body = {"name": f"hello-{number}", "kind": "batch", "run": run, "devices": "cpu:1"}
            began_s = time.time()
            job = self.call("POST", "jobs", body)["id"]
            self.until(job, "succeeded")
            log = self.planet.volume / "jobs" / job / "logs" / "rank-0.log"
            took.append(float(log.read_text()) - began_s)
        print(f"submit to first line of the program: {spread(took)}")

    def moves(self, times: int, out: Path) -> None:
        """A training of 4 ranks goes from region to region."""
        run = [sys.executable, str(TRAIN), "--epochs", "4000", "--width", "32", "--out", str(out)]
        body = {"name": "digits", "run": run, "ranks": 4, "devices": "cpu:4"}
        began_s = time.monotonic()
        job = self.call("POST", "jobs", body)["id"]
        log = out / "loss.csv"
        while not log.exists() or not log.read_bytes():
            time.sleep(0.02)
        print(f"submit to first step of a training of 4 ranks: {time.monotonic() - began_s:.1f} s")
        regions = [r["id"] for r in self.call("GET", "regions")["items"]]
        pauses = []
        for _ in range(times):
            here = self.until(job, "running")["region"]
            steps = log.read_bytes().count(b"\n")
            while log.read_bytes().count(b"\n") < steps + 20:
                time.sleep(0.02)
            away = next(r for r in regions if r != here)
            began_s = time.monotonic()
            self.call("POST", f"jobs/{job}/move", {"to": f"region/{away}"})
            while self.until(job, "running")["region"] == here:
                time.sleep(0.01)
            pauses.append(time.monotonic() - began_s)
        lives = self.call("GET", f"jobs/{job}/incarnations")["items"]
        print(f"{times} moves of 4 ranks between regions, request to running: {spread(pauses)}")
        for part in PARTS:
            found = [life["seconds"][part] for life in lives if part in life["seconds"]]
            print(f"        {part:<10} {spread(found)}")
        self.call("POST", f"jobs/{job}/cancel")


def agents_cpu_s(root: Path) -> float:
    """Of every agent of the planet, and of what they started and have seen end."""
    found = 0.0
    for process in psutil.process_iter():
        try:
            if "singularity.agent" in process.cmdline()[:3]:
                node_dir = process.environ().get("SINGULARITY_NODE_DIR", "")
                found += sum(process.cpu_times()[:4]) if node_dir.startswith(str(root)) else 0.0
        except psutil.Error:
            continue  # another's, or gone
    return found


def spread(seconds: list[float]) -> str:
    found = sorted(seconds)
    return f"median {statistics.median(found):.2f} s ({found[0]:.2f} to {found[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--moves", type=int, default=6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="singularity-bench-") as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        began_s = time.monotonic()
        with Planet(root / "planet") as planet:
            print(f"planet ready (fresh, 6 nodes) in {time.monotonic() - began_s:.1f} s")
            bench = Bench(planet)
            bench.first_line(10)
            if args.moves:
                bench.moves(args.moves, root / "out")


if __name__ == "__main__":
    main()
