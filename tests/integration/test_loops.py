"""The loops beside the server: one of each leads, whoever is killed or stopped; letters arrive."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from singularity.agent.letterbox import LetterboxProcess
from singularity.api.applier import SqlLedger
from singularity.api.lease import Lease
from singularity.api.loops import Outcome, round_of_scheduling
from singularity.api.outbox import relay
from singularity.cli.servers import Postgres, Valkey
from singularity.primitives.clock import SystemClock
from singularity.primitives.errors import BrokerDown, NotLeader
from singularity.primitives.messages import Register, Sealed
from singularity.primitives.model import Intent, Job, JobId, JobSpec, JobState, Shard
from singularity.primitives.nodes import NodeId
from singularity.primitives.transport import Letterbox, SigningKey, VerifyKey, consume
from singularity.scheduler.plan import Action, Plan, Verb
from singularity.scheduler.policy import Policy

NODE = NodeId("n0")
PATIENCE_S = 60.0  # of the tests with a machine that does other things too
TAKEOVER_S = 5.0


def wait_for(what: Callable[[], object], deadline_s: float = PATIENCE_S) -> None:
    end_s = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < end_s, "did not happen in time"
        time.sleep(0.02)


def register(ledger: SqlLedger) -> None:
    known = ledger.nodes().get(NODE)
    ledger.register(
        Register(
            node=NODE,
            region="eu",
            cluster="c0",
            device="cpu",
            devices=8,
            address="127.0.0.1:1",
            epoch=known.epoch if known else 0,
        ),
        time.time(),
    )


def submit(ledger: SqlLedger, number: int) -> Job:
    spec = JobSpec(name=f"job-{number}", run=("train",))
    job = Job(JobId(f"j{number}"), spec, devices=1, submitted_at_s=time.time())
    ledger.submit(job)
    return job


def place(ledger: SqlLedger, number: int) -> None:
    """Submit a job and wait until some scheduler has placed it."""
    job = submit(ledger, number)
    wait_for(lambda: placed(ledger, job))


def write_letter(ledger: SqlLedger, number: int) -> None:
    """Start a job on the node: one letter in the outbox."""
    job = submit(ledger, number)
    action = Action(Verb.RESUME, job.id, job.version, "test", (Shard(NODE, 1),))
    assert ledger.commit(Plan((action,)), 100.0) == {}


@contextmanager
def process(name: str, database: str, directory: Path, broker: str = "") -> Iterator[int]:
    """One loop as a process of its own, as in production; its pid."""
    env = {
        **os.environ,
        "SINGULARITY_DATABASE_URL": database,
        "SINGULARITY_DATA": str(directory),
        "SINGULARITY_VOLUME": str(directory / "volume"),
        "SINGULARITY_BROKER_URL": broker or "redis://127.0.0.1:1/0",
    }
    argv = [sys.executable, "-m", "singularity.api", "loop", name]
    with (directory / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(argv, env=env, stdout=log, stderr=log)
    try:
        yield child.pid
    finally:
        child.kill()
        child.wait()


def leader(engine: Engine, name: str) -> int | None:
    """The pid of who holds the lease."""
    with engine.connect() as db:
        query = f"SELECT holder FROM lease WHERE name = '{name}' AND expires_at_s > 0"
        holder = db.exec_driver_sql(query).scalar()
    return None if holder is None else int(str(holder).rpartition("/")[2])


def placed(ledger: SqlLedger, job: Job) -> bool:
    return ledger.jobs()[job.id].state is JobState.STARTING


def test_nothing_follows_from_jobs_that_start(engine: Engine) -> None:
    """The loop waits until somebody rings. From an owner's wish more may follow."""
    ledger = SqlLedger(engine)
    register(ledger)

    def rounded() -> Outcome:
        return round_of_scheduling(ledger, Policy(), SystemClock())

    jobs = [submit(ledger, number) for number in range(10)]
    assert rounded() == Outcome(8, follows=False)  # the others do not fit
    assert rounded() == Outcome(0, follows=False)
    ledger.intend(jobs[9].id, Intent.CANCEL, time.time())
    assert rounded() == Outcome(1, follows=True)


def test_of_two_one_leads_and_a_former_leader_writes_nothing(engine: Engine) -> None:
    first, second = Lease(engine, "x", "a", lasts_s=0.2), Lease(engine, "x", "b")
    assert first.hold() and first.hold() and not second.hold()
    ledger = SqlLedger(engine, first)
    register(ledger)
    job = submit(ledger, 1)
    wait_for(second.hold)
    plan = Plan((Action(Verb.RESUME, job.id, job.version, "test", (Shard(NODE, 1),)),))
    with pytest.raises(NotLeader):
        ledger.commit(plan, 1.0)
    assert ledger.jobs()[job.id] == job and ledger.unsent() == []
    assert not first.hold()
    second.release()
    assert first.hold(), "a released lease is free at once"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_another_leader_takes_over(
    how: signal.Signals, engine: Engine, ledger: SqlLedger, database: str, tmp_path: Path
) -> None:
    """Also from one that is stopped, which keeps its connections and would keep any lock."""
    register(ledger)
    with process("schedule", database, tmp_path) as one:
        wait_for(lambda: leader(engine, "schedule") == one)
        place(ledger, 1)
        with process("schedule", database, tmp_path) as other:
            # Python takes a second to start; the takeover is measured from a standby that stands.
            wait_for(lambda: standing_by(engine, 2))
            os.kill(one, how)
            killed_s = time.monotonic()
            place(ledger, 2)
            assert time.monotonic() - killed_s < TAKEOVER_S + 1.0  # and a busy machine's second
            assert leader(engine, "schedule") == other
            if how is signal.SIGSTOP:
                os.kill(one, signal.SIGCONT)
                place(ledger, 3)
                assert leader(engine, "schedule") == other, "it woke up and found itself deposed"


def standing_by(engine: Engine, processes: int) -> bool:
    """Do so many processes listen for wake-ups?"""
    with engine.connect() as db:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        return db.exec_driver_sql(f"{query} AND query LIKE 'LISTEN%%'").scalar() == processes


def test_scheduling_goes_on_when_postgres_comes_back(
    engine: Engine, ledger: SqlLedger, database: str, tmp_path: Path, postgres: Postgres
) -> None:
    register(ledger)
    with process("schedule", database, tmp_path) as pid:
        place(ledger, 1)
        postgres.kill()
        postgres.start()
        engine.dispose()
        place(ledger, 2)
        assert leader(engine, "schedule") == pid, "the same process, not a new one"


def test_a_submitted_job_is_not_waited_for_half_a_second(
    engine: Engine, ledger: SqlLedger, database: str, tmp_path: Path
) -> None:
    """A wake-up is answered at once; the median of some, for the machine has other work."""
    register(ledger)
    with process("schedule", database, tmp_path):
        place(ledger, 0)
        took_s = []
        for number in range(1, 6):
            job, began_s = submit(ledger, number), time.monotonic()
            with psycopg.connect(database, autocommit=True) as db:
                db.execute("NOTIFY singularity_wake")
            wait_for(lambda job=job: placed(ledger, job))
            took_s.append(time.monotonic() - began_s)
    assert sorted(took_s)[2] < 0.4, took_s


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "valkey") as server:
        yield server


def waiting_in(valkey: Valkey, key: VerifyKey) -> list[list[int]]:
    """Places in the log of the letters in the node's queue, message by message, oldest first."""
    import redis

    with redis.Redis.from_url(valkey.url) as client:
        messages = client.lrange(f"node.{NODE}", 0, -1)[::-1]
    bodies = [json.loads(base64.b64decode(json.loads(m)["body"]))[0][0] for m in messages]
    return [[key.open(Sealed.model_validate(x), NODE).seq for x in body] for body in bodies]


def test_letters_wait_in_the_queue_in_order_and_are_repeated_until_acknowledged(
    engine: Engine, ledger: SqlLedger, valkey: Valkey, tmp_path: Path
) -> None:
    key, box = SigningKey.load_or_create(tmp_path / "key"), Letterbox(valkey.url)
    register(ledger)
    for number in range(3):
        write_letter(ledger, number)
    assert relay(engine, box, key, 200.0) == 3
    assert waiting_in(valkey, VerifyKey(key.public)) == [[1, 2, 3]], "in one message"
    assert relay(engine, box, key, 201.0) == 0, "not due yet"
    assert relay(engine, box, key, 202.0) == 3, "not acknowledged: again"
    assert relay(engine, box, key, 205.9) == 0 and relay(engine, box, key, 206.0) == 3
    assert ledger.hear(NODE, 1, 2, 206.0) == 3
    assert relay(engine, box, key, 1e6) == 1, "what was acknowledged is never repeated"
    assert ledger.hear(NODE, 1, 3, 206.0) == 3
    assert relay(engine, box, key, 2e6) == 0


def test_the_relay_delivers_to_a_consumer_and_outlives_the_broker(
    engine: Engine, ledger: SqlLedger, database: str, valkey: Valkey, tmp_path: Path
) -> None:
    register(ledger)
    taken = tmp_path / "taken"
    with process("relay", database, tmp_path, valkey.url), consumer(valkey.url, taken):
        write_letter(ledger, 1)
        wait_for(lambda: 1 in seqs(taken, tmp_path))
        valkey.kill()
        write_letter(ledger, 2)
        valkey.start()
        wait_for(lambda: 2 in seqs(taken, tmp_path))


def test_nothing_but_letters_comes_out_of_a_letterbox(
    engine: Engine,
    ledger: SqlLedger,
    valkey: Valkey,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key, got = SigningKey.load_or_create(tmp_path / "key"), list[Sealed]()
    register(ledger)
    write_letter(ledger, 1)
    assert relay(engine, Letterbox(valkey.url), key, 200.0) == 1
    consumer = LetterboxProcess(NODE, got.append)
    consumer.restart(valkey.url)
    try:
        wait_for(lambda: got)
    finally:
        consumer.stop()
    wait_for(lambda: "letterbox" not in {thread.name for thread in threading.enumerate()})
    assert [VerifyKey(key.public).open(letter, NODE).seq for letter in got] == [1]
    assert "letterbox.garbled" not in caplog.text


@contextmanager
def consumer(broker: str, taken: Path) -> Iterator[None]:
    """A node's letter-box process, which writes what it gets to a file."""
    argv = [sys.executable, __file__, broker, str(taken)]
    child = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.kill()
        child.wait()


def seqs(taken: Path, directory: Path) -> list[int]:
    """The places in the log of the letters that arrived, signatures checked."""
    if not taken.exists():
        return []
    key = VerifyKey(SigningKey.load_or_create(directory / "signing.key").public)
    lines = taken.read_text().splitlines()
    return [key.open(Sealed.model_validate_json(line), NODE).seq for line in lines]


def test_a_broker_that_hangs_keeps_nobody_waiting(
    engine: Engine, ledger: SqlLedger, tmp_path: Path
) -> None:
    """Heartbeats and commits must get through while a letter is being published, or nodes would
    fence themselves because the broker is ill."""
    key = SigningKey.load_or_create(tmp_path / "key")
    publishing, go_on = threading.Event(), threading.Event()

    class Hanging(Letterbox):
        def publish(self, node: NodeId, letters: object) -> None:
            publishing.set()
            assert go_on.wait(PATIENCE_S)
            raise BrokerDown("it hangs")

    register(ledger)
    write_letter(ledger, 1)
    failed: list[BrokerDown] = []

    def work() -> None:
        try:
            relay(engine, Hanging("redis://127.0.0.1:1/0"), key, 200.0)
        except BrokerDown as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert publishing.wait(PATIENCE_S)
        options = {"options": "-c lock_timeout=500"}  # milliseconds
        impatient = SqlLedger(create_engine(engine.url, connect_args=options, poolclass=NullPool))
        write_letter(impatient, 2)
        assert impatient.hear(NODE, 1, 1, 200.0) == 2
    finally:
        go_on.set()
        thread.join()
    assert failed
    assert [letter.seq for letter in ledger.unsent()] == [2]


def test_what_a_broker_refused_is_due_at_once(
    engine: Engine, ledger: SqlLedger, valkey: Valkey, tmp_path: Path
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = Letterbox(f"redis://127.0.0.1:{unused.getsockname()[1]}/0")
        key = SigningKey.load_or_create(tmp_path / "key")
        register(ledger)
        write_letter(ledger, 1)
        with pytest.raises(BrokerDown):
            relay(engine, nobody, key, 200.0)
    assert relay(engine, Letterbox(valkey.url), key, 200.0) == 1


if __name__ == "__main__":  # the consumer's process
    file = Path(sys.argv[2])

    def keep(letter: Sealed) -> None:
        with file.open("a") as out:
            out.write(letter.model_dump_json() + "\n")

    consume(sys.argv[1], NODE, keep)
