"""Inference borrows devices of training and gives them back. `make demo-inference` runs this.

A planet on this machine with eight pretended devices, four of which a training holds. A service
answers requests that come when a Poisson process says so, ten times as many for a while. First
replicas may shrink the training; then everything is the same, but the training is not elastic. So
its second run is one that nobody touched, with which losses and weights of the first are compared
byte by byte. Exit code 0 only if they are identical and every request had an answer.

All devices are a few cores of one machine, so each answer takes a least time that stands for the
accelerator's: what is measured is queueing and scheduling, not arithmetic.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console

from examples.inference.asking import NAME, ROOT, document, load
from examples.inference.report import Run, Sample, draw, summary, timeline
from singularity.cli.embedded import Planet
from singularity.cli.fleet import Cluster, Fleet, Region

HERE = Path(__file__).resolve().parent
REGION: Final = "here"
RANKS: Final = 4
DEVICE_MS: Final = 130  # least time of an answer
LOW, HIGH = 4.0, 44.0  # requests a second
# A day in two minutes: what is remembered of a peak fades in seconds and not in hours.
POLICY: Final = {"grow_after_s": "1", "scale_memory_s": "20", "scale_down_after_s": "8"}
CURVE: Final = ((0, LOW), (10, LOW), (40, HIGH), (70, HIGH), (75, LOW))
console = Console(width=min(150, max(110, Console().width)))
Json = dict[str, Any]


class Story:
    """One planet, one training, one service under load."""

    def __init__(self, planet: Planet, root: Path, run: Run) -> None:
        self.planet, self.root, self.run = planet, root, run
        self.out = root / "out"
        headers = {"Authorization": f"Bearer {planet.token}"}
        self.http = httpx.Client(base_url=planet.url, headers=headers, timeout=30)
        self.training, self.began_s = "", time.monotonic()

    def call(self, method: str, path: str, body: object = None) -> Any:
        response = self.http.request(method, f"/v1/{path}", json=body)
        if response.status_code >= 400:
            raise SystemExit(f"{method} {path}: {response.text}")
        return response.json()

    def say(self, text: str) -> None:
        console.print(f"[dim]{time.monotonic() - self.began_s:6.1f} s[/dim]  {text}")

    def until(self, what: str, ready: Callable[[], bool], limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        while not ready():
            if time.monotonic() > deadline_s:
                raise SystemExit(f"waited {limit_s:.0f} s for: {what}")
            time.sleep(0.1)

    # -- what there is ---------------------------------------------------------------------------

    def job(self) -> Json:
        found: Json = self.call("GET", f"jobs/{self.training}")
        return found

    def service(self) -> Json:
        found: Json = self.call("GET", f"services/{NAME}")
        return found

    def steps(self) -> int:
        log = self.out / "loss.csv"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def sample(self, began_s: float) -> None:
        at_s = time.monotonic() - began_s
        job, service = self.job(), self.service()
        devices = sum(shard["devices"] for shard in job["placement"])
        found = service["replicas"], service["borrowed"]["devices"]
        self.run.samples.append(
            Sample(at_s, found[0]["wanted"], found[0]["ready"], devices, found[1], self.steps())
        )

    # -- what is done ----------------------------------------------------------------------------

    def train(self, epochs: int) -> None:
        script = HERE.parent / "digits" / "train.py"
        command = [sys.executable, str(script), "--epochs", str(epochs), "--width", "16"]
        body: Json = {"name": "training", "ranks": RANKS, "devices": f"cpu:{RANKS}"}
        body |= {"run": [*command, "--out", str(self.out)]}
        if self.run.lends:
            body["elastic"] = {"min": 1, "max": RANKS}
        self.training = self.call("POST", "jobs", body)["id"]
        self.until("the training's first steps", lambda: self.steps() > 5, 90)
        self.say(f"a training of {RANKS} ranks has {RANKS} of 8 devices")

    def serve(self) -> None:
        self.call("POST", "services", document(self.root, DEVICE_MS))
        self.until("a replica", lambda: self.service()["condition"] == "serving", 90)
        self.say("a service has a replica that answers")

    def load(self, span_s: float) -> None:
        """Requests from a process of its own, while this one looks at what there is."""
        self.say(f"{LOW:g} requests a second, from {CURVE[2][0]} s to {CURVE[3][0]} s {HIGH:g}")
        router_url = self.planet.router_url(REGION)
        with load(router_url, (*CURVE, (span_s, LOW)), self.root) as asking:
            while asking.runs():
                self.sample(asking.began_s)
                time.sleep(0.4)
            self.run.asked += asking.asked()
        self.run.loans = self.call("GET", f"loans?job={self.training}")["items"]

    def finish(self) -> None:
        self.say("the load is over; the training goes on to its end")
        self.call("DELETE", f"services/{NAME}")
        ended = ("succeeded", "failed", "cancelled")
        self.until("the end of the training", lambda: self.job()["state"] in ended, 300)
        job = self.job()
        if job["state"] != "succeeded":
            raise SystemExit(f"the training did not succeed: {job['message']}")
        lives = self.call("GET", f"jobs/{self.training}/incarnations")["items"]
        self.run.resizes = sum(len(life["resizes"]) for life in lives)
        self.run.lives = len(lives)
        self.say(f"training done: {len(lives)} life, {self.run.resizes} changes of its devices")


@contextmanager
def planet(root: Path) -> Iterator[Planet]:
    fleet = Fleet(regions={REGION: Region(clusters={"a": Cluster(nodes=2, devices=4)})})
    with Planet(root / "planet", fleet, policy=POLICY) as found:
        yield found


def tell(root: Path, run: Run, epochs: int, span_s: float) -> None:
    root.mkdir(mode=0o755)
    with planet(root) as found:
        story = Story(found, root, run)
        story.train(epochs)
        story.serve()
        story.load(span_s)
        story.finish()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--span", type=float, default=120.0, help="seconds of load")
    parser.add_argument("--png", type=Path, default=ROOT / "var" / "inference.png")
    args = parser.parse_args()
    runs = [Run("training lends", True), Run("training does not lend", False)]
    with tempfile.TemporaryDirectory(prefix="singularity-demo-") as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        for number, run in enumerate(runs):
            console.rule(run.name)
            tell(root / str(number), run, args.epochs, args.span)
            console.print(timeline(run))
        same = all(
            (root / "0" / "out" / name).read_bytes() == (root / "1" / "out" / name).read_bytes()
            for name in ("loss.csv", "weights.pt")
        )
    console.print(summary(runs))
    draw(runs, args.png)
    console.print(f"picture: {args.png}")
    untouched = runs[1].lives == 1 and runs[1].resizes == 0
    console.print(f"[bold]losses and weights identical: {'yes' if same else 'NO'}[/bold]")
    answered = all(a.status in (200, 503, 504) for run in runs for a in run.asked)
    return 0 if same and untouched and answered and runs[0].resizes else 1


if __name__ == "__main__":
    sys.exit(main())
