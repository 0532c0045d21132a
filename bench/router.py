"""What a router costs: latency it adds at a given rate, and the processor's time for a request.

The latter does not depend on what else there is on the machine; its inverse is the most that one
router can do.

Real processes: replicas that answer at once, the router before them (with a kept table and no
control plane, which it can do without), and the load of bench/load.py from a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import psutil
import uvloop
from aiohttp import web

from singularity.cli.servers import free_port
from singularity.primitives.model import JobId
from singularity.primitives.routing import Endpoint, Route, Table
from singularity.primitives.serving import ServiceId

LOAD = Path(__file__).with_name("load.py")
BODY = b"x" * 1024


async def replica(port: int) -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(body=BODY)

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


async def hammer(url: str, clients: int, seconds: float) -> float:
    """Requests a second of so many clients, each with one request at a time."""
    done, end_s = 0, time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def client() -> None:
            nonlocal done
            while time.monotonic() < end_s:
                async with http.post(url, data=BODY) as answer:
                    await answer.read()
                    assert answer.status == 200, answer.status
                done += 1

        await asyncio.gather(*(client() for _ in range(clients)))
    return done / seconds


def serve(stack: ExitStack, argv: list[str], env: dict[str, str], port: int) -> int:
    """The pid of what answers on `port`."""
    process = subprocess.Popen(argv, env={**os.environ, **env}, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    uvloop.run(answers(port))
    return process.pid


def used_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def answers(port: int) -> None:
    while True:
        try:
            (await asyncio.open_connection("127.0.0.1", port))[1].close()
            return
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)


def table(ports: list[int], concurrency: int) -> Table:
    endpoints = tuple(
        Endpoint(
            job=JobId(f"r{port}"),
            incarnation=1,
            address=f"127.0.0.1:{port}",
            region="here",
            revision=1,
        )
        for port in ports
    )
    route = Route(
        service=ServiceId("s"),
        name="s",
        project="p",
        concurrency=concurrency,
        queue_most=1000,
        timeout_s=60.0,
        endpoints=endpoints,
    )
    return Table(version=1, routes=(route,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--replica", type=int, help=argparse.SUPPRESS)  # the port of one
    args = parser.parse_args()
    if args.replica:
        uvloop.run(replica(args.replica))
        return
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        ports, port = [free_port() for _ in range(args.replicas)], free_port()
        for each in ports:
            serve(stack, [sys.executable, __file__, "--replica", str(each)], {}, each)
        Path(scratch, "table.json").write_text(table(ports, 64).model_dump_json())
        env = {
            "SINGULARITY_API_URL": "http://127.0.0.1:1",
            "SINGULARITY_ROUTER_TOKEN": "none",
            "SINGULARITY_ROUTER": "bench",
            "SINGULARITY_REGION": "here",
            "SINGULARITY_DATA": scratch,
            "SINGULARITY_PORT": str(port),
        }
        pid = serve(stack, [sys.executable, "-m", "singularity.router"], env, port)
        urls = {
            "direct": f"http://127.0.0.1:{ports[0]}/",
            "router": f"http://127.0.0.1:{port}/p/s/",
        }
        for name, url in urls.items():
            print(f"{name}: open loop, {args.rate:g} requests/s of 1 KiB", flush=True)
            curve = f"0:{args.rate},{args.seconds}:{args.rate}"
            subprocess.run([sys.executable, LOAD, "--url", url, "--curve", curve], check=True)
        for clients in (1, 16, 64):
            direct = uvloop.run(hammer(urls["direct"], clients, args.seconds / 2))
            before_s = used_s(pid)
            routed = uvloop.run(hammer(urls["router"], clients, args.seconds / 2))
            each_ms = (used_s(pid) - before_s) / (routed * args.seconds / 2) * 1e3
            print(
                f"closed loop, {clients} clients: requests/s {direct:.0f}, by router {routed:.0f}"
            )
            print(f"  {each_ms:.2f} ms of the router's processor for each: {1e3 / each_ms:.0f}/s")


if __name__ == "__main__":
    main()
