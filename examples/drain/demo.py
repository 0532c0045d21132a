"""An operator empties a region in which a service and trainings run. `make demo-drain` runs this.

First each of six trainings runs alone under plain torchrun. Then all run on a planet of three
regions, beside a service that answers requests which come when a Poisson process says so, from
before the first drain until the last training has ended. The region that holds most of the
trainings, and replicas, is drained: the plan first, then the order, watched to its end, and undone.
A second drain is aborted half-way: who is on the way arrives, who has not begun stays, and the
region takes work again. At the end every loss log and all weights are compared byte by byte. Exit
code 0 only if they are identical, no second of work was lost, nothing was moved that need not be,
each request was answered, and the service kept its promise in each part of the story.

All devices are a few cores of one machine, so each answer takes a least time that stands for the
accelerator's.
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
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from examples.digits.demo import TRAIN, cannot_dump, console, reference, same_results
from examples.drain.served import Event, Lookout, Row, failures, lookout, row, table
from examples.inference.asking import NAME, PROMISED, Load, document, load
from singularity.cli.embedded import Planet

JOBS = tuple(f"digits-{number}" for number in range(1, 7))
RANKS = 2
REST_S = 0.15  # after each step: a training of seconds lasts long enough to be moved about
WAIT_S = 600.0
REPLICAS = {"min": 2, "max": 4}
DEVICE_MS = 60  # least time of an answer
RATE = 6.0  # requests a second; one replica is meant to have 6.5
CALM_S = 10.0  # before, between and after the drains
ASK_S = 30.0
DAY_S = 3600.0  # the load lasts until it is told to end
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
        self.events: list[Event] = []
        self.asked_s = float("-inf")  # when checkpoints were asked for

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

    def wait(self, name: str, since_s: float) -> None:
        """The service alone, for comparison."""
        time.sleep(max(0.0, since_s + CALM_S - time.monotonic()))
        self.events.append(Event(name, since_s, time.monotonic()))

    def all_saved(self) -> bool:
        """A cut that takes too long is given up, which harms nobody, and asked for again."""
        if not self.all_run():
            return False
        lacking = [job for job in self.jobs().values() if not job["checkpoint"]]
        if lacking and time.monotonic() - self.asked_s > ASK_S:
            self.asked_s = time.monotonic()
            for job in lacking:
                self.call("POST", f"jobs/{job['id']}/checkpoints")
        return not lacking

    def homes(self) -> set[str]:
        """The regions where replicas take requests."""
        items = self.call("GET", f"services/{NAME}")["replicas"]["items"]
        nodes = {n["id"]: n["region"] for n in self.call("GET", "nodes")["items"]}
        return {nodes[item["node"]] for item in items if item["node"]}

    def serves(self) -> bool:
        return bool(self.call("GET", f"services/{NAME}")["condition"] == "serving")

    def all_run(self) -> bool:
        states = {job["state"] for job in self.jobs().values()}
        if states & {"succeeded", "failed", "cancelled"}:
            raise SystemExit(f"a training has ended too early: {self.jobs()}")
        return states == {"running"}

    def fullest(self) -> str:
        """One with replicas and two trainings, or more, if there is one."""
        found, homes = Counter(job["region"] for job in self.jobs().values()), self.homes()
        return str(max(found, key=lambda n: (found[n] >= 2, n in homes, found[n], n)))

    def inside(self, region: str) -> set[str]:
        """Trainings that are there."""
        return {name for name, job in self.jobs().items() if job["region"] == region}

    def seen(self) -> str:
        """Where the trainings are."""
        regions = Counter(job["region"] for job in self.jobs().values())
        return ", ".join(f"{count} in {name}" for name, count in sorted(regions.items()))

    # -- the story -------------------------------------------------------------------------------

    def serve(self) -> None:
        """Before there is anything else, so that trainings come to lie beside its replicas."""
        self.call("POST", "services", document(self.out, DEVICE_MS) | {"replicas": REPLICAS})
        self.until("the service", self.serves)
        self.say(f"a service of {REPLICAS['min']} replicas answers, in {', '.join(self.homes())}")

    def submit(self) -> None:
        for job in JOBS:
            run = [sys.executable, str(TRAIN), *options(job, self.epochs)]
            spec = {"name": job, "ranks": RANKS, "devices": f"cpu:{RANKS}"}
            run += ["--rest-s", str(REST_S), "--out", str(self.out / job)]
            self.call("POST", "jobs", {**spec, "run": run})
        self.until("all run", self.all_run)
        self.until("all train", lambda: all((self.out / j / "loss.csv").exists() for j in JOBS))
        self.say(f"{len(JOBS)} trainings of {RANKS} ranks: {self.seen()}")
        self.until("checkpoints", self.all_saved)
        self.say("each has a checkpoint, which says how much there is to move")

    def drain(self) -> None:
        """The plan, the order, the way to its end."""
        region = self.fullest()
        place, there = f"region/{region}", self.inside(region)
        assert region in self.homes(), f"no replica lies beside the trainings: {self.homes()}"
        limits = ("--moves", "2", "--bandwidth", "200MB/s")
        self.singularity("drain", place, "--plan", *limits)
        began_s = time.monotonic()
        self.singularity("drain", place, *limits, "--reason", "new switches", "--watch")
        self.until("all run elsewhere", lambda: self.all_run() and self.serves())
        took_s = time.monotonic() - began_s
        assert not self.inside(region) and region not in self.homes()
        self.events.append(Event("a drain, by plan", began_s, time.monotonic(), len(there)))
        self.say(f"{place} is empty and all run again after {took_s:.1f} s: {self.seen()}")
        self.singularity("drain", place, "--undo")
        self.singularity("operations", "ls")

    def drain_half(self) -> None:
        """Aborted as soon as one has moved."""
        region, began_s = self.fullest(), time.monotonic()
        before, there = self.jobs(), self.inside(region)
        gently = {"moves": 1, "bandwidth": "10MB/s"}  # the next one waits a minute
        self.call("POST", "drains", {"target": f"region/{region}", **gently})
        self.until("half-way", lambda: self.inside(region) < there)
        self.singularity("drain", f"region/{region}", "--undo")
        self.until("all run", lambda: self.all_run() and self.serves())
        after = self.jobs()
        lives = {name: after[name]["incarnation"] - before[name]["incarnation"] for name in JOBS}
        stayed = {n for n in there if lives[n] == 0 and after[n]["region"] == region}
        arrived = {n for n in there if lives[n] == 1}
        assert stayed and arrived and stayed | arrived == there, (region, there, lives)
        assert not any(lives[name] for name in set(JOBS) - there), lives
        aborted = Event("half a drain, aborted", began_s, time.monotonic(), len(arrived))
        self.events.append(aborted)
        self.say(f"aborted half-way: {len(arrived)} came through, {len(stayed)} never left")
        self.takes_work(region)

    def takes_work(self, region: str) -> None:
        guest = {"name": "guest", "kind": "batch", "run": [sys.executable, "-c", "pass"]}
        job = self.call("POST", "jobs", {**guest, "place": {"regions": region}})
        self.until(
            "the guest", lambda: bool(self.call("GET", f"jobs/{job['id']}")["state"] == "succeeded")
        )
        self.say(f"{region} takes work again")

    def story(self) -> tuple[list[Row], float]:
        """What each event did to the service, and the seconds of work that were lost."""
        self.out.mkdir(parents=True)
        self.serve()
        self.submit()
        router_url = self.planet.router_url("eu-north")
        with (
            load(router_url, ((0.0, RATE), (DAY_S, RATE)), self.out) as asking,
            lookout(self.planet.url, self.planet.token) as looking,
        ):
            self.say(f"{RATE:g} requests a second")
            self.wait("before", asking.began_s)
            self.drain()
            self.wait("between", time.monotonic())
            self.drain_half()
            since_s = time.monotonic()
            lost_s = self.finish()
            self.events.append(Event("after, to the end", since_s, time.monotonic()))
            return self.rows(asking, looking), lost_s

    def rows(self, asking: Load, looking: Lookout) -> list[Row]:
        """The whole story last; also by the count that the control plane keeps itself."""
        asked = asking.end()
        done = sum(a.status == 200 for a in asked)
        told = partial(self.call, "GET", f"services/{NAME}")
        self.until("what routers counted", lambda: told()["hour"]["done"] >= done)
        slo = told()["slo"]
        self.say(
            f"by its own count {slo['attained']:.2%} were in time; {PROMISED:.0%} are promised"
        )
        if slo["attained"] < PROMISED:
            raise SystemExit("the service says itself that its promise was broken")
        self.events.append(Event("in all", asking.began_s, time.monotonic()))
        return [row(event, asked, looking.looks, asking.began_s) for event in self.events]

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
    parser.add_argument("--epochs", type=int, default=28)
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
            rows, lost_s = operator.story()
        same = [
            job for job in JOBS if same_results(root / "managed" / job, root / "reference" / job)
        ]
        console.print(table(rows))
        broken = [each.event.name for each in rows if not each.good]
        missing = failures([asked for each in rows for asked in each.asked])
        console.print(f"work lost: {lost_s:g} s; {time.monotonic() - began_s:.0f} s in all")
        console.print(f"requests without an answer: {missing or 'none'}")
        console.print(f"promise broken: {', '.join(broken) or 'never'}")
        console.print(f"[bold]identical: {len(same)} of {len(JOBS)}[/bold]")
        return 0 if len(same) == len(JOBS) and not lost_s and not broken else 1


if __name__ == "__main__":
    sys.exit(main())
