"""Nodes join once, each with credentials of its own, and are shut out; on a real Postgres and
Valkey, with the consumer that agents run."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from singularity.api.brokers import BrokerUsers
from singularity.api.enrolment import broker_passwords
from singularity.cli.processes import wait_until
from singularity.cli.servers import Valkey
from singularity.primitives.messages import Admission, Envelope, Sealed, Stop
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId
from singularity.primitives.transport import Letterbox, SigningKey, keys_of, queue_of
from tests.integration.api_client import JOIN, Agent, Api, Json, open_api

A, B = NodeId("east-1"), NodeId("east-1.b")  # one name begins with the other
SOON_S = 60.0
MARK = "0badcafe"
CONSUME = """
import os, sys
from singularity.primitives.transport import consume
consume(sys.argv[1], sys.argv[2], lambda letter: print(letter.body, flush=True))
"""


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def planet(
    database: str, tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Api]:
    monkeypatch.setenv("SINGULARITY_BROKER_URL", valkey.url)
    with open_api(database, tmp_path / "data") as found:
        yield found


def ticket(api: Api, **asked: object) -> str:
    return str(api.ok("POST", "/v1/join-tokens", asked)["token"])


def joins(api: Api, node: str, token: str, **more: object) -> tuple[int, Json]:
    body = {
        **{"node": node, "region": "us-east", "cluster": "us-east-a", "device": "cpu"},
        **{"devices": 4, "address": f"{node}:7000", **more},
    }
    return api.call("POST", "/v1/agent/register", body, token=token)


def letter(node: NodeId, seq: int, key: SigningKey) -> Sealed:
    command = Stop(job=JobId("j"), node=node, incarnation=1)
    return key.seal(Envelope(node=node, epoch=1, seq=seq, command=command))


def test_a_ticket_lets_one_node_join_once(planet: Api) -> None:
    good = ticket(planet, node="east-1", within="10m")
    assert joins(planet, "east-2", good)[0] == 403, "it is another's"
    status, answer = joins(planet, "east-1", good)
    assert status == 200 and answer["token"]
    assert joins(planet, "east-1", good)[0] == 401, "it is used up"
    assert joins(planet, "east-3", ticket(planet))[0] == 200, "of no name, it is for any"
    withdrawn = planet.ok("POST", "/v1/join-tokens", {"within": "1m"})
    (listed,) = planet.ok("GET", "/v1/join-tokens")["items"]
    assert listed["id"] == withdrawn["id"] and "hash" not in listed
    planet.ok("DELETE", f"/v1/join-tokens/{withdrawn['id']}")
    late = ticket(planet, within="0.05s")
    threading.Event().wait(0.1)
    for bad in (withdrawn["token"], late, good[:-1], "sgj_.", "sgj_x.y"):
        assert joins(planet, "east-4", bad)[0] == 401
    for role in ("viewer", "submitter"):
        assert planet.call("POST", "/v1/join-tokens", {}, token=planet.token(role))[0] == 403
    assert planet.call("GET", "/v1/jobs", token=ticket(planet))[0] == 403, "it is for nothing else"


def test_a_node_sees_its_own_queue_and_no_other(planet: Api, valkey: Valkey) -> None:
    urls = {node: Agent(planet, node).admission.broker_url for node in (A, B)}
    assert valkey.password not in urls[A] and urls[A] != urls[B]
    with redis.Redis.from_url(valkey.url) as all_:
        for node in (A, B):
            all_.rpush(queue_of(node), "secret")
    with redis.Redis.from_url(urls[A]) as mine:
        assert mine.brpop(queue_of(A), timeout=1) is not None
        for key in (queue_of(B), *keys_of(B), f"{queue_of(B)}:unacked", "unacked", "else"):
            for command in (("LLEN", key), ("BRPOP", key, 1), ("LPUSH", key, "x"), ("DEL", key)):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    mine.execute_command(*command)
        for command in ("ACL LIST", "CONFIG GET *", "KEYS *", "FLUSHALL", "SUBSCRIBE x"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                mine.execute_command(*command.split())
    place = urlsplit(valkey.url)
    with (
        redis.Redis(host=place.hostname or "", port=place.port or 0) as nobody,
        pytest.raises(redis.AuthenticationError),
    ):
        nobody.ping()


def test_letters_come_with_a_node_s_own_credentials(planet: Api, valkey: Valkey) -> None:
    """By the consumer that agents run, and by the next one when it was killed."""
    url, key = Agent(planet, A).admission.broker_url, planet.serving.key
    box = Letterbox(valkey.url)
    for number in (1, 2):
        argv = [sys.executable, "-c", CONSUME, url, A]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(argv, text=True, **pipes) as consumer:
            box.publish(A, [letter(A, number, key)])
            alarm = threading.Timer(SOON_S, consumer.kill)
            alarm.start()
            assert consumer.stdout is not None
            said = next((x for x in consumer.stdout if f'"seq":{number}' in x), "")
            alarm.cancel()
            consumer.kill()
        assert said, "the letter has come"


def test_a_node_that_is_revoked_is_out_until_it_is_given_a_ticket(
    planet: Api, valkey: Valkey
) -> None:
    agent = Agent(planet, A)
    with redis.Redis.from_url(agent.admission.broker_url) as mine:
        assert mine.llen(queue_of(A)) == 0
        planet.ok("POST", f"/v1/nodes/{A}/revoke", {"reason": "stolen"})
        with pytest.raises(redis.RedisError):
            mine.llen(queue_of(A))
    assert planet.call("GET", "/v1/agent/letters?epoch=1", token=agent.token)[0] == 401
    status, told = joins(planet, A, JOIN)
    assert status == 403 and "nodes token" in told["detail"], "though it knows the shared token"
    told = planet.ok("GET", "/v1/operations")["items"][0]
    assert (told["verb"], told["target"], told["reason"]) == ("revoke", f"node/{A}", "stolen")
    status, answer = joins(planet, A, ticket(planet, node=A), epoch=agent.admission.epoch)
    assert status == 200
    admission = Admission.model_validate(answer)
    assert admission.broker_url != agent.admission.broker_url
    with redis.Redis.from_url(admission.broker_url) as mine:
        assert mine.llen(queue_of(A)) == 0
    assert planet.call("POST", "/v1/nodes/nobody/revoke")[0] == 404


def test_credentials_are_exchanged_with_the_next_heartbeat_and_jobs_do_not_notice(
    planet: Api,
) -> None:
    agent = Agent(planet, A)
    planet.ok("POST", f"/v1/nodes/{A}/rotate")
    assert not agent.beat()["admitted"], "so it registers"
    epoch = agent.admission.epoch
    for _ in range(2):  # the first answer may be lost: what it had is good yet
        status, answer = joins(planet, A, agent.token, epoch=epoch)
        assert status == 200 and answer["token"] not in (None, agent.token)
        assert answer["epoch"] == epoch, "it is no other life of the node"
    agent.token = answer["token"]
    assert agent.beat()["admitted"]
    assert joins(planet, A, agent.token, epoch=epoch)[1]["token"] is None, "and not again"


def test_users_that_a_broker_lost_are_made_again_and_strangers_go(
    planet: Api, valkey: Valkey
) -> None:
    url = Agent(planet, A).admission.broker_url
    serving = planet.serving
    mark = serving.key.mark
    users = BrokerUsers(valkey.url, mark)

    def wanted() -> dict[NodeId, str]:
        return dict(broker_passwords(serving.engine, serving.key))

    assert users.keep(wanted) == 0
    with redis.Redis.from_url(valkey.url) as all_:
        all_.execute_command("ACL", "DELUSER", f"node.{mark}.{A}")
        for name in (f"node.{mark}.gone", "node.0badcafe.theirs"):
            all_.execute_command("ACL", "SETUSER", name, "on", ">word", "~*", "+@all")
        assert users.keep(wanted) == 2
        mine_and_theirs = {f"node.{mark}.{A}", "node.0badcafe.theirs"}
        assert set(all_.acl_users()) == {"default", "singularity"} | mine_and_theirs
    with redis.Redis.from_url(url) as mine:
        assert mine.llen(queue_of(A)) == 0
    valkey.stop()
    valkey.start()
    with redis.Redis.from_url(url) as mine:  # the embedded one keeps them in a file
        assert wait_until(lambda: mine.llen(queue_of(A)) == 0, SOON_S)


def test_a_broker_that_has_no_users_for_us_is_shared_as_before(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(valkey.url) as all_:
        rules = ("on", ">word", "~*", "&*", "+@all", "-acl")
        all_.execute_command("ACL", "SETUSER", "plain", *rules)
    place = urlsplit(valkey.url)
    shared = f"redis://plain:word@{place.hostname}:{place.port}/0"
    users = BrokerUsers(shared, MARK)
    for _ in range(2):
        assert users.admit(A, "word") == shared
    (told,) = [r for r in caplog.records if "make users" in r.message]
    assert "acl" in told.message
    assert users.keep(lambda: {A: "word"}) == 0
    users.dismiss(A)
    for other in ("memory://", "redis+socket:///tmp/x"):
        assert BrokerUsers(other, MARK).admit(A, "word") == other
    assert BrokerUsers(valkey.url, MARK, wanted=False).admit(A, "word") == valkey.url
    valkey.stop()
    away = BrokerUsers(valkey.url, MARK).admit(A, "word")
    assert away != valkey.url and f"node.{MARK}.{A}:word@" in away, (
        "nobody is given the keys of all"
    )
