"""The router before real replicas: what it balances, queues, streams, retries and survives."""

from __future__ import annotations

import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.routers import World, opened, refuses, until


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as found:
        yield found


Hold = Callable[..., list[Future[httpx.Response]]]


@pytest.fixture
def hold(world: World, pool: ThreadPoolExecutor) -> Hold:
    """Send so many requests that a replica holds until the gate is open."""

    def ask(many: int, gate: str = "g") -> list[Future[httpx.Response]]:
        url = f"http://127.0.0.1:{world.port}/p/s/hold"
        return [pool.submit(httpx.get, url, params={"gate": gate}, timeout=30) for _ in range(many)]

    return ask


# -- balance and queue ----------------------------------------------------------------------------


def test_no_replica_has_more_than_it_takes_and_the_others_wait(world: World, hold: Hold) -> None:
    replicas = [world.replica(name) for name in "abc"]
    world.tell(*(r.endpoint() for r in replicas), concurrency=2)
    world.start()
    asked = hold(20)
    until(lambda: world.number("busy") == 6 and world.number("queued") == 14, "6 and 14")
    until(lambda: [r.state()["held"] for r in replicas] == [2, 2, 2], "two with each")
    opened(replicas)
    assert all(f.result().status_code == 200 for f in asked)
    assert max(r.state()["most"] for r in replicas) == 2
    assert sum(r.state()["served"] for r in replicas) == 20
    assert world.number("requests_total", outcome="done") == 20


def test_one_too_many_is_told_to_come_again(world: World, hold: Hold) -> None:
    replica = world.replica("a")
    world.tell(replica.endpoint(), concurrency=1, queue_most=2)
    world.start()
    asked = hold(3)
    until(lambda: world.number("queued") == 2, "a full queue")
    refused = world.http.get("/p/s/hold")
    assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["type"] == "/problems/overloaded"
    replica.open("g")
    assert [f.result().status_code for f in asked] == [200] * 3
    assert world.number("requests_total", outcome="full") == 1


def test_who_waits_too_long_is_told_so(world: World) -> None:
    world.tell(timeout_s=0.3)
    world.start()
    nobody = world.http.get("/p/s/x")
    replica = world.replica("a")
    world.tell(replica.endpoint(), timeout_s=0.3)
    slow = world.http.get("/p/s/hold")
    assert [nobody.status_code, slow.status_code] == [504, 504]
    assert nobody.json()["detail"] == "no replica was free in time; try again"
    assert slow.json()["detail"] == "the replica did not answer in time"
    assert world.number("requests_total", outcome="late") == 1
    assert world.number("requests_total", outcome="failed") == 1
    replica.open("")


def test_a_service_at_rest_is_waited_for(world: World, pool: ThreadPoolExecutor) -> None:
    world.tell()
    world.start()
    asked = pool.submit(httpx.get, f"http://127.0.0.1:{world.port}/p/s/x", timeout=30)
    until(lambda: world.number("queued") == 1, "a request to wait")
    until(lambda: any(n.queued == 1 for x in world.plane.loads for n in x.notes), "it to be told")
    world.tell(world.replica("a").endpoint())
    assert asked.result().json()["path"] == "/x"


def test_who_hangs_up_leaves_the_queue_and_the_replica(world: World) -> None:
    replica = world.replica("a")
    world.tell(replica.endpoint(), concurrency=1)
    world.start()
    lines = [socket.create_connection(("127.0.0.1", world.port)) for _ in range(2)]
    for line in lines:
        line.sendall(b"GET /p/s/hold?gate=never HTTP/1.1\r\nHost: x\r\n\r\n")
    until(lambda: world.number("queued") == 1 and world.number("busy") == 1, "one and one")
    for line in lines:
        line.close()
    until(lambda: world.number("queued") == 0 and world.number("busy") == 0, "nobody")
    assert world.http.get("/p/s/x").status_code == 200
    opened([replica], "never")


def test_canary_gets_its_share_only(world: World) -> None:
    old, new = world.replica("old"), world.replica("new")
    world.tell(old.endpoint(), new.endpoint(revision=2), canary=2, canary_share=0.3)
    world.start()
    found = Counter(world.http.get("/p/s/x").json()["replica"] for _ in range(200))
    assert 30 <= found["new"] <= 95  # 60 are meant; six standard deviations
    done = world.number("requests_total", outcome="done", revision="2")
    assert done == found["new"]


def test_other_regions_help_when_many_wait(world: World, hold: Hold) -> None:
    near, far = world.replica("near"), world.replica("far")
    world.tell(near.endpoint(), far.endpoint(region="there"), concurrency=2)
    world.start()
    first = hold(4, "first")
    until(lambda: near.state()["held"] == 2 and world.number("queued") == 2, "two of four wait")
    assert far.state()["held"] == 0
    more = hold(2, "first")
    until(lambda: far.state()["held"] == 2, "the other region to help")
    opened([near, far], "first")
    assert all(f.result().status_code == 200 for f in first + more)


# -- leaving and failing --------------------------------------------------------------------------


def test_who_leaves_ends_what_it_has_and_gets_nothing_new(world: World, hold: Hold) -> None:
    going, staying = world.replica("going"), world.replica("staying")
    world.tell(going.endpoint(), staying.endpoint(), concurrency=1)
    world.start()
    held = hold(2)
    until(lambda: world.number("busy") == 2, "one with each")
    world.tell(going.endpoint(leaving=True), staying.endpoint(), concurrency=50)
    until(lambda: any(x.leaving == {"going": 1} for x in world.plane.loads), "1 still there")
    names = {world.http.get("/p/s/x").json()["replica"] for _ in range(30)}
    assert names == {"staying"}
    opened([going, staying])
    assert {f.result().json()["replica"] for f in held} == {"going", "staying"}
    until(lambda: world.plane.loads[-1].leaving == {"going": 0}, "none to be told")


def test_a_dead_replica_is_left_out_and_found_again(world: World) -> None:
    dead, alive = world.replica("dead"), world.replica("alive")
    world.tell(dead.endpoint(), alive.endpoint(), concurrency=4)
    world.start()
    dead.close()
    found = [world.http.get("/p/s/x") for _ in range(40)]
    found += [world.http.post("/p/s/x", content=b"body") for _ in range(40)]
    assert {f.json()["replica"] for f in found} == {"alive"}
    tries = sum(e["event"] == "not delivered" for e in world.events())
    assert 2 <= tries <= 10, "left out after two, and tried now and then"
    world.replica("dead", dead.port)
    until(lambda: world.http.get("/p/s/x").json()["replica"] == "dead", "it to be tried again")


def test_only_replica_that_restarts_loses_nothing(world: World, pool: ThreadPoolExecutor) -> None:
    replica = world.replica("a")
    world.tell(replica.endpoint())
    world.start()
    replica.close()
    url = f"http://127.0.0.1:{world.port}/p/s/x"
    asked = [pool.submit(httpx.post, url, content=b"body", timeout=30) for _ in range(10)]
    until(lambda: world.number("queued") == 10, "all to wait")
    world.replica("a", replica.port)
    assert [f.result().status_code for f in asked] == [200] * 10


def test_what_may_have_been_done_is_not_done_twice(world: World) -> None:
    replicas = [world.replica("a"), world.replica("b")]
    world.tell(*(r.endpoint() for r in replicas))
    world.start()
    broken = world.http.post("/p/s/drop", content=b"pay 10")
    assert broken.status_code == 502
    assert broken.json()["type"] == "/problems/replica-failed"
    assert sum(r.state()["dropped"] for r in replicas) == 1


def test_a_request_that_ends_whoever_gets_it_does_not_go_round(world: World) -> None:
    replicas = [world.replica(name) for name in "abcd"]
    world.tell(*(r.endpoint() for r in replicas))
    world.start()
    for _ in range(2):  # on new connections, and on some that were used before
        assert [world.http.get("/p/s/x").status_code for _ in range(8)] == [200] * 8
        before = sum(r.state()["dropped"] for r in replicas)
        assert world.http.get("/p/s/drop").status_code == 502
        assert sum(r.state()["dropped"] for r in replicas) == before + 2


def test_half_an_answer_is_not_passed_off_as_whole(world: World) -> None:
    world.tell(world.replica("a").endpoint())
    world.start()
    with pytest.raises(httpx.RemoteProtocolError):
        world.http.get("/p/s/broken")
    assert world.number("requests_total", outcome="failed") == 1


def test_errors_of_the_program_are_its_own(world: World) -> None:
    """They are counted, and passed on; the replica is not left out for them."""
    world.tell(world.replica("a").endpoint())
    world.start()
    assert [world.http.get("/p/s/fail").status_code for _ in range(5)] == [500] * 5
    assert world.http.get("/p/s/x").status_code == 200
    assert world.number("requests_total", outcome="failed") == 5


# -- what is passed on ----------------------------------------------------------------------------


def test_answers_come_piece_by_piece(world: World) -> None:
    replica = world.replica("a")
    world.tell(replica.endpoint())
    world.start()
    with world.http.stream("GET", "/p/s/stream", params={"gate": "g"}) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"data: one\n\n"  # the second is not even written yet
        replica.open("g")
        assert b"".join(pieces) == b"data: two\n\n"
    assert answer.headers["Content-Type"] == "text/event-stream"


def test_requests_come_piece_by_piece(world: World) -> None:
    replica = world.replica("a")
    world.tell(replica.endpoint())
    world.start()
    arrived = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"12345"
        until(lambda: replica.state()["bytes"] == 5, "the first piece to arrive")
        arrived.set()
        yield b"67"

    answer = world.http.post("/p/s/take", content=body())
    assert arrived.is_set() and answer.json()["body"] == "1234567"


def test_a_request_is_passed_on_as_it_came(world: World) -> None:
    world.tell(world.replica("a").endpoint())
    world.start()
    headers = {
        "X-Request-Id": "r-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Connection": "keep-alive, X-Private",
        "X-Private": "between us",
        "Accept-Encoding": "br",
        "TE": "trailers",
    }
    answer = world.http.put("/p/s/a%2Fb/c?x=%20y&x=2", headers=headers, content=b"abc")
    found = answer.json()
    seen = dict(found["headers"])
    assert (found["method"], found["path"], found["bytes"]) == ("PUT", "/a%2Fb/c?x=%20y&x=2", 3)
    assert seen["x-request-id"] == answer.headers["X-Request-Id"] == "r-1"
    assert seen["traceparent"] == headers["traceparent"]
    assert seen["x-forwarded-prefix"] == "/p/s" and seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["host"] == f"127.0.0.1:{world.port}" and seen["accept-encoding"] == "br"
    assert not {"x-private", "te", "transfer-encoding", "expect"} & set(seen)
    assert answer.headers.get_list("Set-Cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("host", "path", "passed"),
    [
        ("s.p", "/x?y=1", "/x?y=1"),
        ("S.P.example.com:80", "/", "/"),
        ("example.com", "/p/s", "/"),
        ("example.com", "/p/s?y=1", "/?y=1"),
        ("s.p", "/healthz", "/healthz"),
    ],
)
def test_a_service_is_named_by_host_or_path(
    world: World, host: str, path: str, passed: str
) -> None:
    world.tell(world.replica("a").endpoint())
    world.start()
    assert world.http.get(path, headers={"Host": host}).json()["path"] == passed


def test_head_has_no_body_and_expectations_are_met(world: World) -> None:
    world.tell(world.replica("a").endpoint())
    world.start()
    head = world.http.head("/p/s/x")
    assert head.status_code == 200 and head.content == b"" and int(head.headers["Content-Length"])
    with socket.create_connection(("127.0.0.1", world.port)) as line:
        line.sendall(
            b"POST /p/s/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert line.recv(100).startswith(b"HTTP/1.1 100 ")
        line.sendall(b"ok")
        assert line.recv(100).startswith(b"HTTP/1.1 200 ")


def test_limits_and_strangers(world: World) -> None:
    world.env = {"SINGULARITY_BODY_MOST_BYTES": "1000", "SINGULARITY_HEAD_MOST_BYTES": "2048"}
    world.tell(world.replica("a").endpoint())
    world.start()

    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * 400

    told = world.http.post("/p/s/x", content=b"x" * 1001)
    untold = world.http.post("/p/s/x", content=pieces())
    for answer in (told, untold):
        assert answer.status_code == 413 and answer.json()["most_bytes"] == 1000
    assert world.http.get("/p/s/x", headers={"X-Long": "x" * 4000}).status_code == 400
    stranger = world.http.get("/p/other/x")
    assert stranger.status_code == 404 and stranger.json()["type"] == "/problems/not-found"
    assert world.http.post("/p/s/x", content=b"x" * 1000).status_code == 200


# -- what it survives -----------------------------------------------------------------------------


def test_it_works_on_while_the_control_plane_is_away(world: World) -> None:
    world.tell(world.replica("a").endpoint())
    world.start()
    world.plane.silent = True
    until(lambda: any(e["event"] == "no table" for e in world.events()), "it to be noticed")
    assert world.http.get("/p/s/x").status_code == 200
    world.kill()
    world.start()  # even begins without: the last table is kept
    assert world.http.get("/p/s/x").status_code == 200
    world.plane.silent = False
    world.tell(world.replica("b").endpoint(), world.replica("c").endpoint())
    names = {world.http.get("/p/s/x").json()["replica"] for _ in range(20)}
    assert names <= {"b", "c"}


def test_before_its_first_table_it_says_so(world: World) -> None:
    world.plane.silent = True
    world.start(told=False)
    assert world.http.get("/healthz").status_code == 503
    assert world.http.get("/p/s/x").status_code == 503


def test_told_to_stop_it_ends_what_is_running(world: World, hold: Hold) -> None:
    replica = world.replica("a")
    world.tell(replica.endpoint(), concurrency=2)
    world.start()
    held = hold(2)
    until(lambda: replica.state()["held"] == 2, "both to be held")
    assert world.router is not None
    world.router.send_signal(signal.SIGTERM)
    until(lambda: refuses(world.port), "it to take nothing new")
    replica.open("g")
    assert [f.result().status_code for f in held] == [200, 200]
    assert world.router.wait(10) == 0


def test_loads_tell_what_happened(world: World) -> None:
    world.tell(world.replica("a").endpoint(revision=3))
    world.start()
    for _ in range(5):
        world.http.get("/p/s/x")
    world.http.get("/p/s/fail")

    def told(name: str) -> int:
        return sum(getattr(note, name) for x in world.plane.loads for note in x.notes)

    until(lambda: told("arrivals") == 6, "all arrivals to be told")
    assert (told("done"), told("failed"), told("shed")) == (5, 1, 0)
    notes: list[Any] = [note for x in world.plane.loads for note in x.notes]
    assert {note.revision for note in notes} == {3}
    assert sum(sum(note.waits) for note in notes) == 6
    assert sum(sum(note.latencies) for note in notes) == 5

    def uneven() -> bool:  # known from the second whole second on
        world.http.get("/p/s/x")
        return told("jumps") > 0

    until(uneven, "how uneven they come to be told")
