"""An operator empties a region while six trainings run in three. `make demo-drain` runs this.

First each training runs alone under plain torchrun. Then all run on a planet. The region that holds
most of them is drained: the plan first, then the order, watched to its end, and undone. A second
drain is aborted half-way: who is on the way arrives, who has not begun stays, and the region takes
work again. At the end every loss log and all weights are compared byte by byte. Exit code 0 only if
they are identical, no second of work was lost and nothing was moved that need not be.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from examples.digits.demo import TRAIN, cannot_dump, console, reference, same_results
from singularity.cli.embedded import Planet

JOBS = tuple(f"digits-{number}" for number in range(1, 7))
RANKS = 2
REST_S = 0.15  # after each step: a training of seconds lasts long enough to be moved about
WAIT_S = 240.0
Json = dict[str, Any]


def options(job: str, epochs: int) -> list[str]:
    """No two of the trainings are alike: each has a network of another width."""
    return ["--epochs", str(epochs), "--width", str(4 + 2 * JOBS.index(job))]


class Operator:
    """Submits over HTTP, and steers by the command line, as a person would."""

    def __init__(self, planet: Planet, out: Path, epochs: int) -> None:
        self.planet, self.out, self.epochs = planet, out, epochs
        headers = {"Authorization": f"Bearer {planet.token}"}
        self.http = httpx.Client(base_url=planet.url, headers=headers, timeout=30)
        self.began_s = time.monotonic()

    # -- small verbs -----------------------------------------------------------------------------

    def call(self, method: str, path: str, body: object = None) -> Any:
        response = self.http.request(method, f"/v1/{path}", json=body)
        if response.status_code >= 400:
            raise SystemExit(f"{method} {path}: {response.text}")
        return response.json() if response.content else None

    def singularity(self, *argv: str) -> None:
        """A command, with what it prints."""
        console.print(f"[bold]$ singularity {' '.join(argv)}[/bold]")
        env = {**os.environ, "SINGULARITY_URL": self.planet.url}
        env["SINGULARITY_TOKEN"] = self.planet.token
        done = subprocess.run(
            [sys.executable, "-m", "singularity.cli.main", *argv], env=env, check=False
        )
        if done.returncode:
            raise SystemExit(f"singularity {argv[0]} exited with {done.returncode}")

    def say(self, text: str) -> None:
        console.print(f"[dim]{time.monotonic() - self.began_s:6.1f} s[/dim]  {text}")

    def jobs(self) -> dict[str, Json]:
        found = self.call("GET", "jobs")["items"]
        return {job["name"]: job for job in found if job["name"] in JOBS}

    def until(self, what: str, ready: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not ready():
            if time.monotonic() > deadline_s:
                raise SystemExit(f"waited {WAIT_S:.0f} s for: {what}; the jobs are {self.jobs()}")
            time.sleep(0.2)

    def all_run(self) -> bool:
        states = {job["state"] for job in self.jobs().values()}
        if states & {"succeeded", "failed", "cancelled"}:
            raise SystemExit(f"a training has ended too early: {self.jobs()}")
        return states == {"running"}

    def fullest(self) -> str:
        regions = Counter(job["region"] for job in self.jobs().values())
        return str(max(regions, key=lambda name: (regions[name], name)))

    def seen(self) -> str:
        """Where the trainings are."""
        regions = Counter(job["region"] for job in self.jobs().values())
        return ", ".join(f"{count} in {name}" for name, count in sorted(regions.items()))

    # -- the story -------------------------------------------------------------------------------

    def submit(self) -> None:
        for job in JOBS:
            run = [sys.executable, str(TRAIN), *options(job, self.epochs)]
            spec = {"name": job, "ranks": RANKS, "devices": f"cpu:{RANKS}"}
            run += ["--rest-s", str(REST_S), "--out", str(self.out / job)]
            self.call("POST", "jobs", {**spec, "run": run})
        self.until("all run", self.all_run)
        self.until("all train", lambda: all((self.out / j / "loss.csv").exists() for j in JOBS))
        self.say(f"{len(JOBS)} trainings of {RANKS} ranks: {self.seen()}")
        for job in self.jobs().values():
            self.call("POST", f"jobs/{job['id']}/checkpoints")
        self.until("checkpoints", lambda: all(j["checkpoint"] for j in self.jobs().values()))
        self.say("each has a checkpoint, which says how much there is to move")

    def drain(self) -> None:
        """The plan, the order, the way to its end."""
        place = f"region/{self.fullest()}"
        limits = ("--moves", "2", "--bandwidth", "200MB/s")
        self.singularity("drain", place, "--plan", *limits)
        began_s = time.monotonic()
        self.singularity("drain", place, *limits, "--reason", "new switches", "--watch")
        self.until("all run elsewhere", self.all_run)
        took_s = time.monotonic() - began_s
        assert place not in {f"region/{j['region']}" for j in self.jobs().values()}
        self.say(f"{place} is empty and all run again after {took_s:.1f} s: {self.seen()}")
        self.singularity("drain", place, "--undo")
        self.singularity("operations", "ls")

    def drain_half(self) -> None:
        """Aborted as soon as one has moved and another is on its way."""
        region = self.fullest()
        before = self.jobs()
        there = {name for name, job in before.items() if job["region"] == region}
        order = self.call("POST", "drains", {"target": f"region/{region}", "moves": 1})
        path = f"drains/{order['id']}"
        self.until("half-way", lambda: self.call("GET", path)["moved"] >= len(there) // 2)
        self.singularity("drain", f"region/{region}", "--undo")
        self.until("all run", self.all_run)
        after = self.jobs()
        lives = {name: after[name]["incarnation"] - before[name]["incarnation"] for name in JOBS}
        stayed = {n for n in there if lives[n] == 0 and after[n]["region"] == region}
        arrived = {n for n in there if lives[n] == 1}
        assert stayed and arrived and stayed | arrived == there, (before, after)
        assert not any(lives[name] for name in set(JOBS) - there), lives
        self.say(f"aborted half-way: {len(arrived)} came through, {len(stayed)} never left")
        self.takes_work(region)

    def takes_work(self, region: str) -> None:
        guest = {"name": "guest", "kind": "batch", "run": [sys.executable, "-c", "pass"]}
        job = self.call("POST", "jobs", {**guest, "place": {"regions": region}})
        self.until(
            "the guest", lambda: bool(self.call("GET", f"jobs/{job['id']}")["state"] == "succeeded")
        )
        self.say(f"{region} takes work again")

    def finish(self) -> float:
        """Let all succeed; seconds of work that were lost on the way."""

        def done() -> bool:
            states = {job["state"] for job in self.jobs().values()}
            if states & {"failed", "cancelled"}:
                raise SystemExit(f"a training did not succeed: {self.jobs()}")
            return states == {"succeeded"}

        self.until("all succeeded", done)
        self.say("all have succeeded")
        jobs = [job["id"] for job in self.jobs().values()]
        lives = [v for j in jobs for v in self.call("GET", f"jobs/{j}/incarnations")["items"]]
        return sum(life["lost_s"] or 0.0 for life in lives)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=22)
    args = parser.parse_args()
    if why_not := cannot_dump():
        console.print(f"nothing can be moved here, so nothing drained: {why_not}")
        return 0
    with tempfile.TemporaryDirectory(prefix="singularity-drain-") as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        began_s = time.monotonic()
        console.print(f"references: {len(JOBS)} trainings under plain torchrun, never touched …")
        for job in JOBS:
            reference(root / "reference" / job, *options(job, args.epochs), ranks=RANKS)
        console.print(f"references done in {time.monotonic() - began_s:.0f} s; starting a planet …")
        with Planet(root / "planet") as planet:
            operator = Operator(planet, root / "managed", args.epochs)
            operator.submit()
            operator.drain()
            operator.drain_half()
            lost_s = operator.finish()
        same = [
            job for job in JOBS if same_results(root / "managed" / job, root / "reference" / job)
        ]
        console.print(f"work lost: {lost_s:g} s; {time.monotonic() - began_s:.0f} s in all")
        console.print(f"[bold]identical: {len(same)} of {len(JOBS)}[/bold]")
        return 0 if len(same) == len(JOBS) and not lost_s else 1


if __name__ == "__main__":
    sys.exit(main())
