"""Kueue's own load tests through the whole plane: REST API, Postgres (durable), scheduler, applier,
relay and broker, each the process that it is anywhere. Only the agents are SIMULATED (see
kueue_agents.py). Measured is from the beginning until the plane has written that the last job
succeeded, beside what it takes at the very least, if every decision were made and carried out at
once, and what Kueue takes on its own machines. For decisions a second in a batch: decisions.py.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
import yaml
from kueue_agents import Agents, Line
from kueue_load import Json, Load, Work, document, ideal_s, load
from kueue_time import tell_time

from singularity.cli.embedded import Planet
from singularity.cli.fleet import NodePlace
from singularity.cli.servers import Postgres, Valkey
from singularity.primitives.messages import Register
from singularity.primitives.nodes import NodeId

PUBLISHED: Final = {"baseline": (67.1, 351.1, 1.1), "large-scale": (4.6, 1179.4, 3.0)}
LOOPS: Final = ("schedule", "relay", "watch", "tidy")
PARTS: Final = ("api", *LOOPS, "valkey", "postgres")
_LED: Final = "SELECT count(*) FROM lease WHERE expires_at_s > 0"
_WINDOW_S: Final = 0.02  # in which creations share a request
_PAGE: Final = 1000


class Plane(Planet):
    """A planet whose agents are elsewhere."""

    @property
    def nodes(self) -> tuple[NodePlace, ...]:
        return ()

    def _start_routers(self) -> None:
        pass


@contextmanager
def plane(directory: Path) -> Iterator[tuple[Plane, Postgres, Valkey]]:
    """With servers of its own, so that they can be asked about it."""
    postgres, valkey = Postgres(directory / "postgres"), Valkey(directory / "valkey")
    (directory / "planet" / "logs").mkdir(parents=True)
    with postgres, valkey:
        os.environ["SINGULARITY_DATABASE_URL"] = postgres.url
        os.environ["SINGULARITY_BROKER_URL"] = valkey.url
        policy = {"node_lost_after_s": "60"}
        made = Plane(directory / "planet", policy=policy, heartbeat_every_s=2.0, lease_s=30.0)
        with made:
            yield made, postgres, valkey


def registers(found: Load, most: int) -> list[Register]:
    """Nodes of at most so many devices, in the region of each cohort."""
    nodes = []
    for cohort, devices in found.cohorts.items():
        for number in range(-(-devices // most)):
            mine = min(most, devices - number * most)
            where = {"region": cohort, "cluster": cohort, "address": "127.0.0.1:1"}
            name = NodeId(f"{cohort}-{number}")
            nodes.append(Register(node=name, device="cpu", devices=mine, **where))
    return nodes


def set_quotas(line: Line, found: Load) -> None:
    for cohort, devices in found.cohorts.items():
        body = {"devices": {"cpu": {"guaranteed": devices, "borrow": 0}}}
        line.call("PUT", f"/v1/projects/{cohort}", body)
    for queue in found.queues:
        said = {"guaranteed": queue.nominal, "borrow": queue.borrow}
        line.call(
            "PUT", f"/v1/projects/{queue.name}", {"parent": queue.cohort, "devices": {"cpu": said}}
        )


def wait_until_led(url: str) -> None:
    """Until every loop is at work."""
    with psycopg.connect(url, autocommit=True) as db:
        while (db.execute(_LED).fetchone() or (0,))[0] < len(LOOPS):
            time.sleep(0.2)
    time.sleep(1.0)


class Generator:
    """Submits what is due, in order; one request for all that have become so meanwhile."""

    def __init__(self, url: str, token: str, found: Load, clients: int, batch: int) -> None:
        self._lines, self._url, self._token = threading.local(), url, token
        self._load, self._clients, self._batch = found, clients, batch
        self._tiers = found.tiers
        self.late_s = 0.0

    def run(self, began_s: float) -> float:
        """Returns when the last submit was answered, in seconds since `began_s`."""
        works, at = self._load.works, 0
        pending = []
        with ThreadPoolExecutor(self._clients) as pool:
            while at < len(works):
                now_s = time.monotonic() - began_s
                due = at
                while due < len(works) and works[due].at_s <= now_s:
                    due += 1
                for first in range(at, due, self._batch):
                    part = works[first : min(first + self._batch, due)]
                    pending.append(pool.submit(self._submit, part, began_s))
                at = due
                time.sleep(_WINDOW_S)
            for each in pending:
                each.result()
        return time.monotonic() - began_s

    def _submit(self, works: list[Work], began_s: float) -> None:
        if not hasattr(self._lines, "line"):
            self._lines.line = Line(self._url, self._token)
        documents = [document(w, self._tiers) for w in works]
        if self._batch == 1:
            self._lines.line.call("POST", "/v1/jobs", documents[0])
        else:
            items = [{"key": d["name"], "job": d} for d in documents]
            answer = self._lines.line.call("POST", "/v1/jobs:batch", {"items": items})
            bad = [i for i in answer["items"] if "error" in i]
            assert not bad, bad[0]
        self.late_s = max(self.late_s, time.monotonic() - began_s - works[-1].at_s)


def simulate(
    url: str, join: str, broker: str, nodes: list[Register], programs: int, pipe: Any
) -> None:
    """The process of the agents."""
    agents, stop = Agents(url, join, broker, nodes), threading.Event()
    agents.join()
    pipe.send("joined")
    agents.run(programs, stop)
    pipe.send("ended")


def cpu_s(made: Plane, postgres: Postgres, valkey: Valkey) -> dict[str, float]:
    """Of each part of the plane until now."""
    found = {}
    pids = {name: made.process(name) for name in PARTS[:5]}
    pids |= {"valkey": valkey.child.pid, "postgres": postgres.child.pid}
    for name, pid in pids.items():
        one = psutil.Process(pid)
        many = [one, *one.children(recursive=True)]
        found[name] = sum(t.user + t.system for t in (p.cpu_times() for p in many))
        ended = one.cpu_times()
        found[name] += ended.children_user + ended.children_system
    return found


def replay(args: argparse.Namespace, found: Load) -> None:
    nodes = registers(found, args.node_devices)
    with tempfile.TemporaryDirectory(prefix="singularity-kueue-") as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        with plane(root) as (made, postgres, valkey):
            kept = json.loads((made.data / "planet.json").read_text())
            ours, theirs = multiprocessing.Pipe()
            told = (made.url, kept["join_token"], valkey.url, nodes, len(found.works), theirs)
            agents = multiprocessing.get_context("spawn").Process(
                target=simulate, args=told, daemon=True
            )
            agents.start()
            assert ours.recv() == "joined"
            set_quotas(Line(made.url, made.token), found)
            wait_until_led(postgres.url)
            before, own = cpu_s(made, postgres, valkey), psutil.Process()
            mine = own.cpu_times()
            print("it begins", flush=True)
            began_at_s, began_s = time.time(), time.monotonic()
            generator = Generator(made.url, made.token, found, args.clients, args.items)
            submitted_s = generator.run(began_s)
            print(
                f"all submitted after {submitted_s:.1f} s, at most {generator.late_s:.2f} s late",
                flush=True,
            )
            if not ours.poll(args.deadline):
                print("NOT all have ended by the deadline", flush=True)
            after, now = cpu_s(made, postgres, valkey), own.cpu_times()
            used = {name: after[name] - before[name] for name in after}
            used["generator"] = now.user + now.system - mine.user - mine.system
            there = psutil.Process(agents.pid).cpu_times()
            used["agents"] = there.user + there.system
            tell(args, found, postgres.url, began_at_s, used)
            agents.kill()
            agents.join()
            if args.keep:
                Path(args.keep).mkdir(parents=True, exist_ok=True)
                for log in (made.data / "logs").glob("*.log"):
                    (Path(args.keep) / log.name).write_bytes(log.read_bytes())


_STATES: Final = "SELECT state, count(*) FROM job_state GROUP BY state ORDER BY state"
_LAST: Final = "SELECT max(at_s), count(*) FROM event WHERE event = 'succeeded'"
_WAITS: Final = """
SELECT split_part(job.name, '-', 1), avg(i.placed_at_s - job.submitted_at_s),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY i.placed_at_s - job.submitted_at_s),
       max(i.placed_at_s - job.submitted_at_s),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY i.ended_at_s - i.placed_at_s), count(*)
FROM incarnation i JOIN job ON job.id = i.job WHERE i.incarnation = 1 GROUP BY 1 ORDER BY 1"""
_AGAIN: Final = "SELECT count(*) FROM incarnation WHERE incarnation > 1"
_USED: Final = "SELECT sum(devices * (ended_at_s - placed_at_s)) FROM incarnation"


def tell(
    args: argparse.Namespace, found: Load, url: str, began_s: float, used: dict[str, float]
) -> None:
    published_s, kueue_s, goal = PUBLISHED[args.set]
    least_s, total = ideal_s(found), sum(used.values())
    with psycopg.connect(url) as db:
        last_s, ended = db.execute(_LAST).fetchone() or (None, 0)
        took_s = (last_s or began_s) - began_s
        told = f"{took_s / least_s:.2f} times the ideal of {least_s:.1f} s"
        print(f"{ended} of {len(found.works)} jobs succeeded in {took_s:.1f} s: {told}")
        if args.scale == 1.0:
            against = f"Kueue {kueue_s} s, {kueue_s / took_s:.1f} times ours"
            print(f"published: ideal {published_s} s; {against}; goal: {goal} times the ideal")
        again = (db.execute(_AGAIN).fetchone() or (0,))[0]
        print(f"states: {dict(db.execute(_STATES).fetchall())}; lives after a first: {again}")
        held_s = float((db.execute(_USED).fetchone() or (0.0,))[0] or 0.0)
        held = held_s / took_s / sum(found.cohorts.values())
        ran = sum(w.devices * w.runtime_s for w in found.works) / held_s
        print(f"devices were held {held:.1%} of the time, and programs ran {ran:.1%} of that")
        print("class      waits: mean     p50     max     held p50   (s)")
        for kind, mean, p50, most, kept, count in db.execute(_WAITS).fetchall():
            print(f"{kind:<10} {mean:12.2f} {p50:7.2f} {most:7.2f} {kept:9.3f}   of {count}")
        if args.time:
            tell_time(db, began_s, took_s, sum(found.cohorts.values()))
    print(
        f"CPU: {total:.1f} s of {os.cpu_count()} cores, {total / max(1, ended) * 1e3:.2f} ms a job"
    )
    for name, seconds in sorted(used.items(), key=lambda u: -u[1]):
        print(f"  {name:<10} {seconds:7.2f} s  {seconds / max(1, ended) * 1e3:7.3f} ms a job")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="holds baseline/generator.yaml and others"
    )
    parser.add_argument("--set", default="baseline", choices=sorted(PUBLISHED))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of workloads")
    parser.add_argument("--node-devices", type=int, default=120, help="of one node, at most")
    parser.add_argument("--clients", type=int, default=4, help="that submit side by side")
    parser.add_argument(
        "--items", type=int, default=500, help="of one submit, at most; 1: each alone"
    )
    parser.add_argument(
        "--deadline", type=float, default=600.0, help="seconds, after the last submit"
    )
    parser.add_argument("--keep", default="", help="a directory for the logs")
    parser.add_argument("--time", action="store_true", help="tell where the time went")
    args = parser.parse_args()
    directory = args.data if (args.data / args.set).is_dir() else args.data / "kueue"
    config: Json = yaml.safe_load((directory / args.set / "generator.yaml").read_text())
    found = load(config, args.scale)
    print(
        f"{args.set}, scale {args.scale:g}: {len(found.works)} workloads of {len(found.queues)} "
        f"queues in {len(found.cohorts)} cohorts; {sum(found.cohorts.values())} devices; agents "
        "are SIMULATED"
    )
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f}"
    )
    replay(args, found)


if __name__ == "__main__":
    main()
