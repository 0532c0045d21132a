"""Single submits: how many a second are durable through one API process, and what each costs.

Postgres as `singularity up` has it (it waits for the disk), one API process, and clients in
processes of their own that send prepared bytes over connections that stay open, each its next
request when the last is answered. Nothing decides meanwhile. Costs are the processor time of the
API and of Postgres over the time, by the submits in it.

    python bench/submits.py --clients 16,64 --after
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import uvloop
from sqlalchemy import create_engine, make_url

from singularity.api.schema import migrate
from singularity.cli.servers import Postgres

TOKEN = "sgl_first.0123456789abcdef0123"
PROCESSES = 2
_END = b"\r\n\r\n"


def asked(name: str, after: bool) -> bytes:
    """One request, as it goes over the wire."""
    job = {"name": name, "kind": "batch", "run": "true", "devices": "cpu:1"}
    body = json.dumps(job | ({"after": ["first"]} if after else {})).encode()
    head = (
        "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def client(port: int, name: str, until_s: float, after: bool) -> list[float]:
    """Seconds of each submit."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took: list[float] = []
    while time.monotonic() < until_s:
        began_s = time.perf_counter()
        writer.write(asked(f"{name}-{len(took)}", after))
        head = await reader.readuntil(_END)
        assert head.startswith(b"HTTP/1.1 202"), head
        length = next(x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
        took.append(time.perf_counter() - began_s)
    writer.close()
    return took


def clients(port: int, numbers: Iterable[int], until_s: float, after: bool) -> list[float]:
    async def together() -> list[float]:
        names = [f"w-{os.getpid()}-{number}" for number in numbers]
        found = await asyncio.gather(*(client(port, n, until_s, after) for n in names))
        return [took for each in found for took in each]

    return uvloop.run(together())


@contextmanager
def served(root: Path, database_url: str) -> Iterator[tuple[int, psutil.Process]]:
    """An API process, and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (root / "data").mkdir()
    said = {"DATABASE_URL": database_url, "DATA": root / "data", "VOLUME": root / "volume"}
    said |= {"ADMIN_TOKEN": TOKEN, "PORT": port}
    env = {**os.environ, **{f"SINGULARITY_{name}": str(value) for name, value in said.items()}}
    with (root / "api.log").open("w") as log:
        argv = [sys.executable, "-m", "singularity.api", "serve"]
        process = subprocess.Popen(argv, env=env, stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            with suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/healthz")
                break
            time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Of all, and of those of theirs that have ended."""
    found = 0.0
    for process in processes:
        with suppress(psutil.Error):
            found += sum(process.cpu_times()[:4])
    return found


def held(stores: list[psutil.Process]) -> list[psutil.Process]:
    """They and their children; what ended is in the time of its parent."""
    return [*stores, *(child for store in stores for child in store.children(recursive=True))]


def measure(
    port: int,
    api: psutil.Process,
    stores: list[psutil.Process],
    count: int,
    args: argparse.Namespace,
) -> None:
    """One line for `count` clients."""
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:

        def load(seconds: float) -> list[float]:
            until_s = time.monotonic() + seconds
            parts = [
                (port, range(k, count, PROCESSES), until_s, args.after) for k in range(PROCESSES)
            ]
            return [took for part in pool.starmap(clients, parts) for took in part]

        load(2.0)  # warm
        before, began_s = (cpu_s([api]), cpu_s(held(stores))), time.monotonic()
        took = sorted(load(args.seconds))
        seconds, after = time.monotonic() - began_s, (cpu_s([api]), cpu_s(held(stores)))
    each = [(b - a) * 1e3 / len(took) for a, b in zip(before, after, strict=True)]
    p50, p99 = (took[int(len(took) * q)] * 1e3 for q in (0.5, 0.99))
    print(
        f"{count:4} clients: {len(took) / seconds:5.0f} durable submits/s, p50 {p50:.1f} ms, "
        f"p99 {p99:.1f} ms; API {each[0]:.2f} ms of processor each, Postgres {each[1]:.2f} ms; "
        f"load of the machine {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--clients", default="16,64")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--after", action="store_true", help="each job waits for another")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="singularity-bench-") as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        with Postgres(root / "postgres") as postgres:
            url = make_url(postgres.url).set(drivername="postgresql+psycopg")
            engine = create_engine(url)
            migrate(engine)
            engine.dispose()
            with served(root, postgres.url) as (port, api):
                first = {"name": "first", "run": "sleep 9", "devices": "cpu:1"}
                headers = {"Authorization": f"Bearer {TOKEN}"}
                httpx.post(f"http://127.0.0.1:{port}/v1/jobs", json=first, headers=headers)
                stores = [p for p in psutil.process_iter() if _of(p, root)]
                for count in map(int, args.clients.split(",")):
                    measure(port, api, stores, count, args)


def _of(process: psutil.Process, root: Path) -> bool:
    """Is it the server in `root`, the parent of all that serve connections?"""
    with suppress(psutil.Error):
        line = " ".join(process.cmdline())
        return str(root) in line and "postgres" in line and "bench" not in process.name()
    return False


if __name__ == "__main__":
    main()
