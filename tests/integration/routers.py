"""A real router process, real replicas, and a control plane that says what the test wants."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from singularity.cli.servers import free_port
from singularity.primitives.model import JobId
from singularity.primitives.routing import Endpoint, Loads, Route, Table
from singularity.primitives.serving import ServiceId

REPLICA = Path(__file__).parent / "jobs" / "replica.py"
TOKEN = "a-token"


def until(condition: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {limit_s:g} s for: {what}"
        time.sleep(0.01)


class Replica:
    """One process of jobs/replica.py."""

    def __init__(self, name: str, port: int = 0) -> None:
        argv = [sys.executable, str(REPLICA), str(port), name]
        self.name = name
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10)

    def state(self) -> dict[str, Any]:
        return self.http.get("/state").json()

    def open(self, gate: str) -> None:
        self.http.get("/open", params={"gate": gate})

    def endpoint(self, region: str = "here", revision: int = 1, leaving: bool = False) -> Endpoint:
        return Endpoint(
            job=JobId(self.name),
            incarnation=1,
            address=f"127.0.0.1:{self.port}",
            region=region,
            revision=revision,
            leaving=leaving,
        )

    def close(self) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Plane(ThreadingHTTPServer):
    """The control plane's two doors for routers. `silent`: it answers nobody."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Door)
        self.table, self.loads, self.silent = Table(version=0), list[Loads](), False
        self.changed = threading.Condition()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def tell(self, *routes: Route) -> None:
        with self.changed:
            self.table = Table(version=self.table.version + 1, routes=routes)
            self.changed.notify_all()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Door(BaseHTTPRequestHandler):
    server: Plane
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        after = int(parse_qs(urlsplit(self.path).query)["after"][0])
        with self.server.changed:
            self.server.changed.wait_for(lambda: self.server.table.version > after, timeout=1.0)
            self.answer(self.server.table.model_dump_json())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.silent:
            self.server.loads.append(Loads.model_validate_json(body))
        self.answer("{}")

    def answer(self, text: str) -> None:
        status = 200 if self.headers["Authorization"] == f"Bearer {TOKEN}" else 401
        status = 503 if self.server.silent else status
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


class World:
    """One router of region `here` before a control plane, and as many replicas as are asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.plane, self.port = directory, Plane(), free_port()
        self.stack = ExitStack()
        self.stack.callback(self.plane.close)
        self.http = self.stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)
        )
        self.router: subprocess.Popen[bytes] | None = None
        self.env: dict[str, str] = {}

    def start(self, *, told: bool = True) -> None:
        env = {
            **os.environ,
            "SINGULARITY_API_URL": self.plane.url,
            "SINGULARITY_ROUTER_TOKEN": TOKEN,
            "SINGULARITY_ROUTER": "router-here",
            "SINGULARITY_REGION": "here",
            "SINGULARITY_DATA": str(self.directory),
            "SINGULARITY_PORT": str(self.port),
            **self.env,
        }
        with (self.directory / "router.log").open("ab") as log:
            argv = [sys.executable, "-m", "singularity.router"]
            self.router = subprocess.Popen(argv, env=env, stderr=log)
        until(lambda: self._answers(told=told), "the router to answer")

    def _answers(self, *, told: bool) -> bool:
        with suppress(httpx.TransportError):
            return self.http.get("/healthz").status_code in ((200,) if told else (200, 503))
        return False

    def kill(self) -> None:
        assert self.router is not None
        self.router.kill()
        self.router.wait()

    def close(self) -> None:
        if self.router is not None:
            self.kill()
            print((self.directory / "router.log").read_text())  # shown where the test has failed
        self.stack.close()

    def replica(self, name: str, port: int = 0) -> Replica:
        found = Replica(name, port)
        self.stack.callback(found.close)
        return found

    def tell(self, *endpoints: Endpoint, **rules: Any) -> None:
        """One service `p/s`; returns when the router goes by it."""
        known = {"concurrency": 2, "queue_most": 100, "timeout_s": 20.0}
        route = Route(
            service=ServiceId("s1"), name="s", project="p", endpoints=endpoints, **known | rules
        )
        self.plane.tell(route)
        if self.router is not None:
            wanted = len(endpoints)
            until(lambda: self.number("replicas") == wanted, f"{wanted} replicas to be known")

    def number(self, name: str, **labels: str) -> float:
        """The sum of what /metrics says of the service."""
        total = 0.0
        for line in self.http.get("/metrics").text.splitlines():
            said, _, value = line.rpartition(" ")
            if said.partition("{")[0] != f"singularity_router_{name}":
                continue
            if all(f'{k}="{v}"' in said for k, v in labels.items()):
                total += float(value)
        return total

    def events(self) -> Iterator[dict[str, Any]]:
        for line in (self.directory / "router.log").read_text().splitlines():
            yield json.loads(line)


def opened(replicas: list[Replica], gate: str = "g") -> None:
    for replica in replicas:
        replica.open(gate)


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False
