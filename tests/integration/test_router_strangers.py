"""The router before clients that are slow, odd or up to no good, and on a bad disk."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from singularity.primitives.routing import Table
from tests.integration.routers import World, until


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    try:
        yield found
    finally:
        found.close()


def said(world: World, request: str) -> tuple[int, bytes]:
    """Status and body of what is answered to these very bytes."""
    with socket.create_connection(("127.0.0.1", world.port), 10) as line:
        line.sendall(request.replace("\n", "\r\n").encode())
        with closing(line.makefile("rb")) as answer:
            status = int(answer.readline().split()[1])
            length = 0
            while (header := answer.readline().strip().lower()) != b"":
                if header.startswith(b"content-length:"):
                    length = int(header.partition(b":")[2])
            return status, answer.read(length)


def test_who_takes_nothing_of_an_answer_frees_the_replica(world: World) -> None:
    world.env = {"SINGULARITY_IDLE_S": "0.5"}
    world.tell(world.replica("a").endpoint(), concurrency=1)
    world.start()
    with socket.create_connection(("127.0.0.1", world.port)) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(b"GET /p/s/flood HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: world.number("busy") == 1, "the answer to begin")
        until(lambda: world.number("busy") == 0, "the replica to be free again")
    assert world.http.get("/p/s/x").status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        "GET /p/s/x HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\n\n",
        "CONNECT s.p:80 HTTP/1.1\nHost: s.p\n\n",
    ],
)
def test_tunnels_are_refused_in_words(world: World, head: str) -> None:
    world.tell(world.replica("a").endpoint())
    world.start()
    status, body = said(world, head)
    assert status == 501 and json.loads(body)["type"] == "/problems/not-carried"


def test_an_upgrade_that_nobody_needs_is_left_out(world: World) -> None:
    world.tell(world.replica("a").endpoint())
    world.start()
    asked = "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AA\n"
    status, body = said(world, f"GET /p/s/x HTTP/1.1\nHost: x\n{asked}\n")
    names = {name for name, _ in json.loads(body)["headers"]}
    assert status == 200 and not names & {"upgrade", "http2-settings", "connection"}


def test_what_is_no_path_is_refused_and_no_bug(world: World) -> None:
    world.tell(world.replica("a").endpoint())
    world.start()
    status, body = said(world, "OPTIONS * HTTP/1.1\nHost: s.p\n\n")
    assert status == 422 and json.loads(body)["type"] == "/problems/invalid-spec"


def test_a_client_that_names_no_host_is_served_by_path(world: World) -> None:
    world.tell(world.replica("a").endpoint())
    world.start()
    status, body = said(world, "GET /p/s/x HTTP/1.0\n\n")
    assert status == 200
    assert dict(json.loads(body)["headers"])["x-forwarded-host"] == ""


def test_all_that_forwarded_it_are_named(world: World) -> None:
    world.tell(world.replica("a").endpoint())
    world.start()
    before = "X-Forwarded-For: 1.1.1.1\nX-Forwarded-For: 2.2.2.2\n"
    _, body = said(world, f"GET /p/s/x HTTP/1.1\nHost: x\n{before}\n")
    found = dict(json.loads(body)["headers"])["x-forwarded-for"]
    assert found == "1.1.1.1, 2.2.2.2, 127.0.0.1"


def test_what_is_no_http_leaves_nothing_in_the_log(world: World) -> None:
    world.tell(world.replica("a").endpoint())
    world.start()
    before = list(world.events())
    for head in ("GARBAGE\n\n", "GET /p/s/x HTTP/1.1\nHost: x\nContent-Length: -1\n\n"):
        assert said(world, head)[0] == 400
    assert world.http.get("/p/s/x").status_code == 200
    assert list(world.events()) == before


def test_a_disk_that_takes_nothing_ends_no_router(world: World) -> None:
    (world.directory / ".table.json.new").mkdir()  # so that nothing can be kept
    world.tell(world.replica("a").endpoint())
    world.start()
    assert world.http.get("/p/s/x").status_code == 200
    world.tell(world.replica("b").endpoint())
    until(lambda: world.http.get("/p/s/x").json()["replica"] == "b", "the new table to count")
    assert [e for e in world.events() if e["event"] == "table not kept"]


def test_a_table_of_an_older_day_counts(world: World) -> None:
    """The control plane's database was restored: its number is lower than what was known."""
    world.tell(world.replica("a").endpoint())
    route = world.plane.table.routes[0]
    world.plane.table = Table(version=7, routes=(route,))
    world.start()
    other = route.model_copy(update={"endpoints": (world.replica("b").endpoint(),)})
    world.plane.table = Table(version=3, routes=(other,))
    until(lambda: world.http.get("/p/s/x").json()["replica"] == "b", "the older table to count")
