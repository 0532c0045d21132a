"""The main job, end to end: a planet on this machine, one unmodified training, and everything that
can happen to it. `make demo` runs this.

First the training runs alone under plain torchrun. Then it runs on the planet and is checkpointed,
suspended, resumed in another region, scaled 4 -> 2 -> 1 -> 4, drained out of its region, loses its
node to kill -9, and gives devices to a premium job. At the end loss log and weights are compared
byte by byte. Exit code 0 only if they are identical and no work was lost but to the kill.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from singularity.cli.embedded import Planet

TRAIN = Path(__file__).resolve().parent / "train.py"
RANKS = 4
CHECKPOINT_EVERY_S = 8.0
DETECT_S = 6.0  # a node silent for this long is lost
console = Console(width=min(150, max(110, Console().width)))
Json = dict[str, Any]


class Demo:
    """Drives one job over HTTP, as a user and an operator would."""

    def __init__(self, planet: Planet, out: Path, epochs: int) -> None:
        self.planet, self.out, self.epochs = planet, out, epochs
        self.http = httpx.Client(
            base_url=planet.url, headers={"Authorization": f"Bearer {planet.token}"}, timeout=30
        )
        self.id = ""
        self.began_s = time.monotonic()

    # -- small verbs -----------------------------------------------------------------------------

    def call(self, method: str, path: str, body: object = None) -> Any:
        response = self.http.request(method, f"/v1/{path}", json=body)
        if response.status_code >= 400:
            raise SystemExit(f"{method} {path}: {response.text}")
        return response.json() if response.content else None

    def job(self, which: str = "") -> Json:
        found: Json = self.call("GET", f"jobs/{which or self.id}")
        return found

    def say(self, text: str) -> None:
        console.print(f"[dim]{time.monotonic() - self.began_s:6.1f} s[/dim]  {text}")

    def until(self, what: str, ready: Callable[[Json], bool], limit_s: float = 90.0) -> Json:
        """Wait for the job to be so. A job that ended first fails the demo."""
        deadline_s = time.monotonic() + limit_s
        while True:
            job = self.job()
            if ready(job):
                return job
            if job["state"] in ("succeeded", "failed", "cancelled"):
                raise SystemExit(f"the job has {job['state']} before: {what} ({job['message']})")
            if time.monotonic() > deadline_s:
                raise SystemExit(f"waited {limit_s:.0f} s for: {what}; the job is {job}")
            time.sleep(0.1)

    def runs(self, job: Json) -> bool:
        return bool(job["state"] == "running")

    def steps(self) -> int:
        log = self.out / "loss.csv"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def train(self, steps: int = 15) -> None:
        """Let it make progress, so that the next thing happens to a training at work."""
        goal = self.steps() + steps
        self.until(f"{steps} more steps", lambda _: self.steps() >= goal)

    # -- the story -------------------------------------------------------------------------------

    def submit(self) -> None:
        command = [sys.executable, str(TRAIN), "--epochs", str(self.epochs)]
        job = self.call(
            "POST",
            "jobs",
            {
                "name": "digits",
                "run": [*command, "--width", "32", "--out", str(self.out)],
                "ranks": RANKS,
                "devices": f"cpu:{RANKS}",
                "elastic": {"min": 1, "max": RANKS},
                "checkpoint": {"every": f"{CHECKPOINT_EVERY_S:g}s", "keep": 3},
            },
        )
        self.id = job["id"]
        job = self.until("running", self.runs)
        self.say(f"digits runs: {RANKS} ranks in {job['region']}")

    def checkpoint(self) -> None:
        before = (self.job()["checkpoint"] or {"cut": 0})["cut"]
        self.call("POST", f"jobs/{self.id}/checkpoints")
        job = self.until("a checkpoint", lambda j: (j["checkpoint"] or {"cut": 0})["cut"] > before)
        made = job["checkpoint"]
        raw, new = made["raw_bytes"] / 1e6, made["new_bytes"] / 1e6
        self.say(f"checkpoint at step {made['step']}: {raw:.0f} MB, of which {new:.0f} MB are new")

    def suspend_and_resume_elsewhere(self) -> None:
        home = self.job()["region"]
        self.call("POST", f"jobs/{self.id}/suspend")
        self.until("suspended", lambda j: j["state"] == "suspended")
        self.say("suspended; its devices are free")
        other = next(r["id"] for r in self.call("GET", "regions")["items"] if r["id"] != home)
        self.call("POST", f"jobs/{self.id}/move", {"to": f"region/{other}"})
        self.call("POST", f"jobs/{self.id}/resume")
        job = self.until("resumed", self.runs)
        assert job["region"] == other, job
        self.call("POST", f"jobs/{self.id}/move", {"to": None})
        self.say(f"resumed in {other} (was {home})")

    def scale(self, devices: int) -> None:
        self.call("POST", f"jobs/{self.id}/resize", {"devices": devices})
        self.until(f"{devices} devices", lambda j: self.runs(j) and held(j) == devices)
        self.say(f"{RANKS} ranks on {devices} device{'s' * (devices > 1)}")

    def drain(self) -> None:
        home = self.job()["region"]
        drain = self.call("POST", "drains", {"target": f"region/{home}"})
        job = self.until("another region", lambda j: self.runs(j) and j["region"] != home)
        self.call("DELETE", f"drains/{drain['id']}")
        self.say(f"{home} drained: digits runs in {job['region']}")

    def kill_node(self) -> None:
        job = self.until("running", self.runs)
        if job["checkpoint"]:
            job = self.until("a new checkpoint", lambda j: self.runs(j) and own_checkpoint(j))
        node, life = job["placement"][0]["node"], job["incarnation"]
        self.planet.kill_node(node)
        self.say(f"kill -9 of {node}: agent and ranks")
        job = self.until("failover", lambda j: self.runs(j) and j["incarnation"] > life)
        self.planet.revive_node(node)
        self.say(f"failed over to {job['placement'][0]['node']} in {job['region']}")

    def premium(self) -> None:
        home = self.job()["region"]
        self.call("POST", f"jobs/{self.id}/move", {"to": f"region/{home}"})
        nodes = [n for n in self.call("GET", "nodes")["items"] if n["region"] == home]
        devices = sum(n["devices"] for n in nodes) - 2
        urgent = self.call(
            "POST",
            "jobs",
            {
                "name": "urgent",
                "kind": "batch",
                "tier": "premium",
                "run": [sys.executable, "-c", "import time; time.sleep(4)"],
                "devices": f"cpu:{devices}",
                "place": {"regions": home},
            },
        )
        job = self.until("devices given", lambda j: self.runs(j) and held(j) < RANKS)
        self.say(f"premium job takes {devices} devices of {home}; digits goes on with {held(job)}")
        self.until("devices back", lambda j: self.runs(j) and held(j) == RANKS)
        assert self.job(urgent["id"])["state"] == "succeeded"
        self.call("POST", f"jobs/{self.id}/move", {"to": None})
        self.say(f"premium job done; digits has its {RANKS} devices back")

    def finish(self) -> None:
        self.say("letting it finish")
        deadline_s = time.monotonic() + 300
        while (job := self.job())["state"] != "succeeded":
            if job["state"] in ("failed", "cancelled") or time.monotonic() > deadline_s:
                raise SystemExit(f"digits did not succeed: {job}")
            time.sleep(0.2)
        self.say("digits succeeded")

    def tell(self, cannot_move: str) -> None:
        """The story in order, with some training between the chapters. Where ranks cannot be
        moved (the reason is `cannot_move`), only what needs no dump."""
        self.submit()
        scaling = [partial(self.scale, devices) for devices in (2, 1, RANKS)]
        chapters: list[Callable[[], None]] = [
            self.checkpoint,
            self.suspend_and_resume_elsewhere,
            *scaling,
            self.drain,
            self.kill_node,
            self.premium,
        ]
        if cannot_move:
            self.say(f"[bold]this machine cannot dump a process: {cannot_move}[/bold]")
            self.say("in place, with no dump: scale, a premium job that takes devices")
            self.say("from the first step anew: kill -9; left out: checkpoint, suspend, drain")
            chapters = [*scaling, self.premium, self.kill_node]
        for chapter in chapters:
            self.train()
            chapter()
        self.finish()


def held(job: Json) -> int:
    return sum(shard["devices"] for shard in job["placement"])


def own_checkpoint(job: Json) -> bool:
    """Was a checkpoint taken in this life of the job?"""
    made = job["checkpoint"]
    return made is not None and made["incarnation"] == job["incarnation"]


def timeline(lives: list[Json]) -> Table:
    table = Table(title="timeline of digits", title_justify="left")
    for name in (
        "life",
        "where",
        "devices",
        "steps",
        "because",
        "seconds to get there",
        "ended",
        "lost s",
    ):
        table.add_column(name, justify="right" if name in ("life", "devices", "lost s") else "left")
    before: Json = {}
    for life in lives:
        parts = {**{p: before.get(p) for p in ("barrier", "dump", "store")}, **life["seconds"]}
        if life["step_from"] == 0:
            parts = {"launch": life["seconds"].get("launch")}
        names = ("launch", "barrier", "dump", "store", "fetch", "restore", "reconnect")
        shown = " ".join(f"{p} {parts[p]:.2f}" for p in names if parts.get(p) is not None)
        lost = life["lost_s"]
        table.add_row(
            str(life["incarnation"]),
            f"{life['region']}\n{', '.join(life['nodes'])}",
            str(life["devices"]),
            f"{life['step_from']} → {life['step_to'] if life['step_to'] is not None else 'end'}",
            life["reason"],
            shown,
            life["end"] or "",
            "" if lost is None else f"{lost:.1f}",
        )
        for change in life["resizes"]:
            seconds = f"resize {change['seconds']:.2f}"
            table.add_row("", "", str(change["devices"]), "", change["reason"], seconds, "", "0.0")
        before = life["seconds"]
    return table


def cannot_dump() -> str:
    """Why no process can be dumped and restored here; "" if one can, found out by doing it."""
    argv = [sys.executable, "-m", "singularity.cli.main", "doctor", "-o", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["checks"]
    return next(
        (c["detail"] for c in found if c["name"] == "checkpoint" and c["verdict"] != "ok"), ""
    )


def reference(out: Path, *options: str, ranks: int = RANKS) -> None:
    """The same training, never touched, under plain torchrun."""
    argv = [sys.executable, "-m", "torch.distributed.run"]
    argv += ["--standalone", f"--nproc-per-node={ranks}", str(TRAIN), *options, "--out", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(3):
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        # gloo of torch 2.13 at times aborts as it is torn down, the training being done.
        if "terminate called without an active exception" not in done.stderr:
            break
    raise SystemExit(f"the reference run failed:\n{done.stderr[-2000:]}")


def same_results(one: Path, other: Path) -> bool:
    """Are the bits of all losses and of the weights the same?"""
    names = ("loss.csv", "weights.pt")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    why_not = cannot_dump()
    with tempfile.TemporaryDirectory(prefix="singularity-demo-") as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        began_s = time.monotonic()
        console.print(f"reference: {args.epochs} epochs under plain torchrun, never touched …")
        reference(root / "reference", "--epochs", str(args.epochs), "--width", "32")
        console.print(f"reference done in {time.monotonic() - began_s:.0f} s; starting a planet …")
        policy = {"node_lost_after_s": f"{DETECT_S:g}", "grow_after_s": "1"}
        with Planet(root / "planet", policy=policy, lease_s=DETECT_S - 2) as planet:
            demo = Demo(planet, root / "managed", args.epochs)
            demo.tell(why_not)
            lives = demo.call("GET", f"jobs/{demo.id}/incarnations")["items"]
        console.print(timeline(lives))
        same = same_results(root / "managed", root / "reference")
        steps = (root / "managed" / "loss.csv").read_bytes().count(b"\n")
        console.print(f"{steps} losses and the final weights, compared byte by byte")
        console.print(f"[bold]identical: {'yes' if same else 'NO'}[/bold]")
        return 0 if same and lost_only_by_kill(lives, checkpointed=not why_not) else 1


def lost_only_by_kill(lives: list[Json], checkpointed: bool) -> bool:
    """Work may be lost once, to the kill, and no more than a checkpoint interval and its cost
    where the job was checkpointed."""
    losers = [life for life in lives if life["lost_s"]]
    lost_s = sum(life["lost_s"] for life in losers)
    cost_s = sum(life["seconds"].get(p, 0.0) for life in losers for p in ("dump", "store"))
    bound_s = CHECKPOINT_EVERY_S + cost_s
    console.print(
        f"work lost: {lost_s:.1f} s in {len(losers)} of {len(lives)} lives; "
        f"a checkpoint every {CHECKPOINT_EVERY_S:g} s takes {cost_s:.1f} s"
    )
    return len(losers) <= 1 and (lost_s <= bound_s or not checkpointed)


if __name__ == "__main__":
    sys.exit(main())
