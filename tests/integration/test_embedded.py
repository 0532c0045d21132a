"""What a planet on one machine owes its owner: nothing lost by a kill, nothing left by a stop.

The control plane and the agents are stand-ins here, the stores and the supervision are real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import psycopg
import pytest
import redis

from singularity.cli import embedded
from singularity.cli.embedded import Planet
from singularity.cli.fleet import Cluster, Fleet, Region
from singularity.cli.processes import Child, Command, Known, started_ticks, wait_until
from singularity.cli.servers import Postgres, Valkey
from singularity.primitives.errors import PlanetBusy, Unavailable

SOON_S = 60.0
FLEET = Fleet(regions={"here": Region(clusters={"a": Cluster(nodes=2)})})
STANDIN = Path(__file__).parent / "standin"


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_PACKAGE_ROOT", STANDIN)
    for name in ("SINGULARITY_DATABASE_URL", "SINGULARITY_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def planet(tmp_path: Path, standin: None) -> Iterator[Planet]:
    with Planet(tmp_path / "data", FLEET) as planet:
        yield planet


def alive(pid: int) -> bool:
    return started_ticks(pid) is not None


def rank_of(planet: Planet, node: str) -> Known:
    text = (planet.node_dir(node) / "sandboxes/job.1.0/state.json").read_text()
    known = Known.read(json.dumps(json.loads(text)["supervisor"]))
    assert known is not None
    return known


def processes_of(planet: Planet) -> dict[str, int]:
    names = ["postgres", "valkey", "api", "schedule", "relay", "watch", "tidy"]
    names += ["agent-a-1", "agent-a-2", "router-here"]
    found = {name: planet.process(name) for name in names}
    return {name: pid for name, pid in found.items() if pid is not None}


# -- the stores ----------------------------------------------------------------------------------


def test_what_postgres_has_committed_survives_kill_and_stop(tmp_path: Path) -> None:
    with Postgres(tmp_path / "pg") as server:
        url = server.url
        with psycopg.connect(url) as db:
            db.execute("CREATE TABLE t (n int)")
            db.execute("INSERT INTO t VALUES (1)")
        server.kill()
        assert not server.answers()
        server.start()
        with psycopg.connect(url) as db:
            db.execute("INSERT INTO t VALUES (2)")
    assert not server.answers()
    with Postgres(tmp_path / "pg") as server, psycopg.connect(url) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_postgres_starts_though_a_backend_of_its_killed_postmaster_lingers(tmp_path: Path) -> None:
    with Postgres(tmp_path / "pg", durable=False) as server:
        with psycopg.connect(server.url) as db:
            backend = db.info.backend_pid
            os.kill(backend, signal.SIGSTOP)  # it cannot notice that its postmaster is gone
            server.kill()
        later = threading.Timer(0.5, os.kill, (backend, signal.SIGKILL))
        later.start()
        server.start()
        later.join()
        assert server.answers()


def test_postgres_lets_nobody_in_without_its_password(tmp_path: Path) -> None:
    with Postgres(tmp_path / "pg", durable=False) as server:
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url.replace(server.password, "guess"))
        assert (tmp_path / "pg" / "server.json").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has somebody else to be")
def test_without_user_namespaces_root_runs_postgres_as_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "")  # no `unshare`
    with pytest.raises(Unavailable, match="--data"):
        Postgres(tmp_path / "pg").start()  # pytest's directories are closed to others
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with Postgres(Path(name) / "pg", durable=False) as server:
            owner = Path(f"/proc/{server.child.pid}").stat().st_uid
            assert owner == (Path(name) / "pg" / "data").stat().st_uid != 0


def test_what_valkey_holds_survives_stop_and_so_do_its_users(tmp_path: Path) -> None:
    with Valkey(tmp_path / "vk") as server:
        with redis.Redis.from_url(server.url) as client:
            client.lpush("letters", "a")
            client.acl_setuser("node", enabled=True, passwords="+secret", keys="n:*")
            client.acl_save()
        with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    with Valkey(tmp_path / "vk") as again, redis.Redis.from_url(again.url) as client:
        assert again.port == server.port
        assert client.lrange("letters", 0, -1) == [b"a"]
        assert "node" in client.acl_users()


def test_a_server_that_a_killed_supervisor_left_running_is_replaced(tmp_path: Path) -> None:
    program = (
        "import sys, os; from pathlib import Path; from singularity.cli.servers import Valkey\n"
        "server = Valkey(Path(sys.argv[1])); server.start()\n"
        "print(server.child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "vk")]
    left = int(subprocess.run(argv, stdout=subprocess.PIPE, check=False).stdout)
    assert alive(left)
    with Valkey(tmp_path / "vk") as server:
        assert not alive(left) and server.answers()


# -- the planet ----------------------------------------------------------------------------------


def test_a_log_begins_anew_while_it_is_written_and_says_what_was_dropped(tmp_path: Path) -> None:
    more = "import sys; print('x' * 99, flush=True); [print(*[line.strip()] * 9, flush=True)"
    argv = [sys.executable, "-c", f"{more} for line in open(sys.argv[1])]", tmp_path / "pipe"]
    os.mkfifo(tmp_path / "pipe")
    child = Child("talker", Command([str(word) for word in argv]), tmp_path)
    child.start()
    with (tmp_path / "pipe").open("w") as pipe:
        assert wait_until(lambda: child.log.stat().st_size == 100, SOON_S)
        child.bound_log(100)
        assert child.log.stat().st_size == 100, "as long as it may be"
        child.bound_log(60)
        told = {"event": "log.rotated", "before": "talker.log.1", "dropped_bytes": 40}
        assert json.loads(child.log.read_text()) == told
        assert (tmp_path / "logs" / "talker.log.1").read_text() == "x" * 59 + "\n"
        pipe.write("later\n")
        pipe.flush()
        assert wait_until(lambda: child.log.read_text().endswith("later later\n"), SOON_S)
    child.bound_log(60)
    assert json.loads(child.log.read_text())["dropped_bytes"] > 60
    child.stop()


def test_everything_that_is_killed_comes_back_where_it_was(planet: Planet) -> None:
    before, url = processes_of(planet), planet.url
    for name in before:
        planet.kill(name)

    def back() -> bool:
        now = processes_of(planet)
        return len(now) == len(before) and all(now[name] != before[name] for name in before)

    assert wait_until(back, SOON_S)

    def answers() -> bool:
        try:
            headers = {"Authorization": f"Bearer {planet.token}"}
            return httpx.get(f"{url}/v1/nodes", headers=headers).is_success
        except httpx.TransportError:
            return False

    assert wait_until(answers, SOON_S)
    kept = json.loads((planet.data / "postgres" / "server.json").read_text())
    dsn = f"postgresql://singularity:{kept['password']}@127.0.0.1:{kept['port']}/singularity"

    def database() -> bool:
        try:
            with psycopg.connect(dsn, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    assert wait_until(database, SOON_S)


def test_a_stop_leaves_no_process_port_or_file_in_memory(planet: Planet) -> None:
    pids = set(processes_of(planet).values())
    pids |= {int((planet.node_dir(n) / "helper").read_text()) for n in ("a-1", "a-2")}
    pids |= {rank_of(planet, n).pid for n in ("a-1", "a-2")}
    assert len(pids) == 14 and all(alive(pid) for pid in pids)
    planet.stop()
    assert not [pid for pid in pids if alive(pid)]
    with pytest.raises(httpx.ConnectError):
        httpx.get(planet.url)
    assert not list(Path("/dev/shm").glob(f"singularity-{planet.id}*"))
    assert not list((planet.data / "pids").glob("*"))


def test_a_second_start_has_the_same_address_secrets_fleet_and_data(
    tmp_path: Path, standin: None
) -> None:
    data = tmp_path / "data"
    with Planet(data, FLEET) as first:
        seen = first.url, first.token, first.nodes, first.router_url("here")
    with Planet(data) as second:
        now = second.url, second.token, second.nodes, second.router_url("here")
        assert now == seen
        assert (data / "admin.token").read_text().strip() == second.token
        for name in ("planet.json", "admin.token"):
            assert (data / name).stat().st_mode & 0o077 == 0


def test_one_data_directory_has_one_planet(planet: Planet) -> None:
    with pytest.raises(PlanetBusy, match="already"):
        Planet(planet.data).start()
    assert len(processes_of(planet)) == 10  # and the one that runs is not disturbed


def test_a_node_without_power_stays_dark_until_it_is_revived(planet: Planet) -> None:
    rank, helper = rank_of(planet, "a-1"), int((planet.node_dir("a-1") / "helper").read_text())
    other = planet.process("agent-a-2")
    planet.kill_node("a-1")
    assert planet.process("agent-a-1") is None
    assert not rank.alive() and wait_until(lambda: not alive(helper), SOON_S)
    assert planet.process("agent-a-2") == other and rank_of(planet, "a-2").alive()
    planet.kill("watch")  # the supervisor goes round: others come back, the node does not
    assert wait_until(lambda: planet.process("watch") is not None, SOON_S)
    assert planet.process("agent-a-1") is None
    planet.revive_node("a-1")
    assert planet.process("agent-a-1") is not None


UP = """
import json, os, sys
from pathlib import Path
from singularity.cli import embedded, up
from singularity.cli.fleet import Fleet
embedded._PACKAGE_ROOT = Path(sys.argv[2])
"""
START_AND_DIE = """
planet = embedded.Planet(Path(sys.argv[1]), Fleet.model_validate_json(sys.argv[3]))
planet.start()
print(planet.process("api"), planet.process("postgres"), planet.url, flush=True)
os.kill(os.getpid(), 9)
"""
UP_AND_STAY = """
sys.exit(up.main_up(Path(sys.argv[3]), Path(sys.argv[1]), None))
"""


def test_what_a_killed_up_left_running_is_taken_over(tmp_path: Path, standin: None) -> None:
    data = tmp_path / "data"
    argv = [sys.executable, "-c", UP + START_AND_DIE, data, STANDIN, FLEET.model_dump_json()]
    said = subprocess.run(argv, stdout=subprocess.PIPE, check=False, text=True).stdout
    api, postgres, url = said.split()
    assert alive(int(api)) and alive(int(postgres))
    planet = Planet(data)
    rank = rank_of(planet, "a-1")
    with planet:
        assert planet.url == url
        assert not alive(int(api)) and not alive(int(postgres))
        assert rank.alive()  # ranks go on: only what watches over them was exchanged
    assert not rank.alive()


@contextmanager
def killed_at_last(process: Popen[Any]) -> Iterator[Popen[Any]]:
    """A failed assertion does not wait for what stays up until it is asked."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_up_says_where_it_is_and_ends_cleanly_when_asked(tmp_path: Path, standin: None) -> None:
    fleet, data = tmp_path / "fleet.yaml", tmp_path / "data"
    fleet.write_text("regions: {here: {clusters: {a: {nodes: 1}}}}")
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    argv = [sys.executable, "-c", UP + UP_AND_STAY, data, STANDIN, fleet]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with killed_at_last(Popen(argv, text=True, env=env, **pipes)) as up:
        assert up.stdout is not None and up.stderr is not None
        assert up.stderr.readline() == "starting the stores\n"
        url = up.stdout.readline().strip()
        session = json.loads((tmp_path / "singularity" / "session.json").read_text())
        assert session == {"url": url, "token": (data / "admin.token").read_text().strip()}
        left = [json.loads(path.read_text())["pid"] for path in (data / "pids").glob("*")]
        assert len(left) == 9
        up.send_signal(signal.SIGTERM)
        assert up.wait(SOON_S) == 0
    assert not [pid for pid in left if alive(pid)]


def test_an_interrupted_start_leaves_nothing(tmp_path: Path, standin: None) -> None:
    fleet, data = tmp_path / "fleet.yaml", tmp_path / "data"
    fleet.write_text("regions: {here: {clusters: {a: {nodes: 1}}}}")
    argv = [sys.executable, "-c", UP + UP_AND_STAY, data, STANDIN, fleet]
    with killed_at_last(Popen(argv, stderr=subprocess.DEVNULL)) as up:
        assert wait_until((data / "pids" / "postgres").exists, SOON_S)
        postgres = json.loads((data / "pids" / "postgres").read_text())["pid"]
        up.send_signal(signal.SIGINT)
        assert up.wait(SOON_S) == 1
    assert not alive(postgres) and not list((data / "pids").glob("*"))


def test_a_taken_port_is_refused_before_anything_runs(planet: Planet, tmp_path: Path) -> None:
    taken = int(planet.url.rsplit(":", 1)[1])
    with pytest.raises(Unavailable, match="--port"):
        Planet(tmp_path / "other", FLEET, port=taken).start()
    assert not list((tmp_path / "other").glob("pids/*"))
