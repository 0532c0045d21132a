"""Real sandboxes: what a rank sees, how its end is told, and who may die without it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sandboxes import (
    COUNT,
    FOREVER,
    NOBODY,
    ROOT,
    as_nobody,
    counts_on,
    ended,
    lines,
    network,
    python,
    spec,
    until,
)

from singularity.agent.runtime.cgroup import Limits
from singularity.agent.runtime.lease import RunLease
from singularity.agent.runtime.network import HostNetwork, Network, open_network
from singularity.agent.runtime.processes import Identity, children, descendants
from singularity.agent.runtime.sandbox import Sandbox
from singularity.primitives.errors import SandboxFailed


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def sandbox(tmp_path: Path, net: Network) -> Iterator[Sandbox]:
    try:
        made = Sandbox.create(tmp_path / "sandbox", net)
    except SandboxFailed as error:
        pytest.skip(error.detail)
    yield made
    made.remove()


def test_what_a_rank_finds(sandbox: Sandbox, tmp_path: Path) -> None:
    """Its own pids from 1000 on, a session, no stdin, no signal blocked or ignored, its log."""
    code = """
import os, sys
print(os.getpid(), os.getsid(0), os.readlink("/proc/self/fd/0"), os.environ["MARK"])
status = dict(l.split(":", 1) for l in open("/proc/self/status"))
ignored = int(status["SigIgn"], 16) & ~(1 << 12 | 1 << 24)  # Python's own: SIGPIPE, SIGXFSZ
ignored &= ~(1 << 31 | 1 << 32)  # 32 and 33 are the C library's: no program can set them
print(int(status["SigBlk"], 16), ignored, len(os.listdir("/proc/self/fd")), os.getcwd())
print("to stderr", file=sys.stderr)
"""
    sandbox.launch(spec(tmp_path, python(code)))
    ended(sandbox)
    found = lines(tmp_path / "log")
    assert "1000 1000 /dev/null kept" in found
    assert f"0 0 4 {tmp_path}" in found
    assert "to stderr" in found


def test_no_process_beside_a_rank_knows_what_is_the_agents(
    tmp_path: Path, net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor had the join token in its environment, for every rank to read."""
    monkeypatch.setenv("SINGULARITY_JOIN_TOKEN", "join-secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "store-secret")
    code = """
import glob
for path in glob.glob("/proc/[0-9]*/environ"):
    print(path, open(path, "rb").read())
"""
    made = Sandbox.create(tmp_path / "sandbox", net)
    try:
        made.launch(spec(tmp_path, python(code)))
        ended(made)
        beside = made.run(["cat", "/proc/self/environ"]).stdout
    finally:
        made.remove()
    found = (tmp_path / "log").read_text()
    assert "/proc/1/environ" in found and "PATH=" in found
    assert "secret" not in found + beside


def test_a_rank_ignores_no_signal_that_the_agent_ignores(tmp_path: Path, net: Network) -> None:
    """As under nohup, or in the background of a shell that has no job control."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGHUP)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        made = Sandbox.create(tmp_path / "sandbox", net)
        made.launch(spec(tmp_path, python(code)))
    finally:
        signal.signal(signal.SIGHUP, before)
    ended(made)
    record = made.exit()
    made.remove()
    assert record is not None
    assert record.signal == signal.SIGHUP


@pytest.mark.parametrize(
    ("argv", "code", "number"),
    [
        (("sh", "-c", "exit 3"), 3, None),
        (("sh", "-c", "kill -9 $$"), None, 9),
        (("sh", "-c", "true"), 0, None),
    ],
)
def test_how_a_rank_ended_is_told(
    sandbox: Sandbox, tmp_path: Path, argv: tuple[str, ...], code: int | None, number: int | None
) -> None:
    sandbox.launch(spec(tmp_path, argv))
    until(lambda: sandbox.exit() is not None, "an exit record")
    record = sandbox.exit()
    assert record is not None
    assert (record.pid, record.code, record.signal) == (sandbox.inner_pid, code, number)
    ended(sandbox)
    adopted = Sandbox.adopt(sandbox.directory)
    assert adopted is not None, "the record is worth adopting"
    assert adopted.exit() == record
    assert adopted.pid is None


def test_a_program_that_does_not_exist_is_not_found(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.launch(spec(tmp_path, ("no-such-program",)))
    ended(sandbox)
    record = sandbox.exit()
    assert record is not None
    assert record.code == 127
    assert "no-such-program" in (tmp_path / "log").read_text()


def test_a_kill_leaves_nothing_not_even_daemons(sandbox: Sandbox, tmp_path: Path) -> None:
    family = "(setsid sleep 1000 &) ; sleep 1000 & echo up; wait"
    sandbox.launch(spec(tmp_path, ("sh", "-c", family)))
    until(lambda: lines(tmp_path / "log"), "the rank has forked")
    found = [Identity.of(pid) for pid in descendants(sandbox.supervisor.pid)]
    assert len(found) == 3
    sandbox.kill()
    assert not any(one.alive() for one in found if one is not None)
    assert sandbox.exit() is None, "it did not end by itself"
    sandbox.kill()
    assert Sandbox.adopt(sandbox.directory) is None
    assert not sandbox.directory.exists()


def test_ranks_outlive_the_agent_and_are_found_again(tmp_path: Path) -> None:
    """The agent is another process here, and dies by SIGKILL right after the launch."""
    log = tmp_path / "log"
    agent = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from sandboxes import COUNT, FOREVER, python, spec
from singularity.agent.runtime.lease import RunLease
from singularity.agent.runtime.network import HostNetwork
from singularity.agent.runtime.sandbox import Sandbox
here = Path({str(tmp_path)!r})
Sandbox.create(here / "idle", HostNetwork(""))
sandbox = Sandbox.create(here / "busy", HostNetwork(""))
sandbox.launch(spec(here, python(COUNT, FOREVER), here / "log"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", agent], env=env, capture_output=True, check=False)
    if b"SandboxFailed" in done.stderr:
        pytest.skip(done.stderr.decode().splitlines()[-1])
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    busy = Sandbox.adopt(tmp_path / "busy")
    assert busy is not None
    try:
        counts_on(log)
        assert busy.inner_pid == 1000
        assert busy.pid is not None
        assert busy.run(["cat", "/proc/1000/comm"]).returncode == 0
        until(lambda: Sandbox.adopt(tmp_path / "idle") is None, "a sandbox without a use leaves")
    finally:
        busy.remove()
    assert busy.pid is None


def test_each_has_an_address_and_the_machine_notices_nothing(net: Network, tmp_path: Path) -> None:
    if not net.isolated:
        pytest.skip(getattr(net, "reason", ""))
    before = os.listdir("/sys/class/net")
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda i: Sandbox.create(tmp_path / str(i), net), range(4)))
    try:
        addresses = [one.address for one in made]
        assert len(set(addresses)) == len(made)
        assert os.listdir("/sys/class/net") == before
        listen = f"""
import socket
server = socket.create_server(("{addresses[0]}", 7000))
print("listening", flush=True)
print(server.accept()[1][0], flush=True)
"""
        call = f'import socket; socket.create_connection(("{addresses[0]}", 7000), 10)'
        made[0].launch(spec(tmp_path, python(listen), tmp_path / "heard"))
        until(lambda: "listening" in lines(tmp_path / "heard"), "the server listens")
        made[1].launch(spec(tmp_path, python(call), tmp_path / "called"))
        until(lambda: addresses[1] in lines(tmp_path / "heard"), "the call comes through")
    finally:
        for one in made:
            one.remove()


def test_a_network_that_cannot_be_had_is_the_machines_own_with_a_reason() -> None:
    for bridge, subnet in (("", "10.83.0.0/16"), ("a-name-too-long", "10.83.0.0/16")):
        made = open_network(bridge, subnet)
        assert isinstance(made, HostNetwork)
        assert made.reason
    small = open_network("sgt-small", "10.83.0.0/24", node_index=1)
    assert isinstance(small, HostNetwork)
    assert "/16" in small.reason or os.geteuid() != 0


def test_limits_hold_or_say_why_not(tmp_path: Path) -> None:
    limits = Limits(memory_bytes=64 << 20, cpus=0.5, processes=50)
    made = Sandbox.create(tmp_path / "sandbox", HostNetwork(""), limits)
    try:
        if made.unlimited:
            pytest.skip(made.unlimited)
        usage = made.usage()
        assert usage is not None
        assert usage.memory_bytes < 64 << 20
        made.launch(spec(tmp_path, python("b = bytearray(1 << 30)")))
        ended(made)
        record = made.exit()
        assert record is not None
        assert record.signal == signal.SIGKILL
    finally:
        made.remove()
    assert made.usage() is None


def test_frozen_ranks_stand_still(sandbox: Sandbox, tmp_path: Path) -> None:
    log = tmp_path / "log"
    sandbox.launch(spec(tmp_path, python(COUNT, FOREVER)))
    counts_on(log)
    sandbox.freeze()
    state = Path(f"/proc/{sandbox.pid}/stat")
    until(lambda: state.read_text().split()[2] == "T", "the rank stops")
    sandbox.thaw()
    counts_on(log)


@contextmanager
def leased(tmp_path: Path, net: Network) -> Iterator[tuple[Sandbox, RunLease]]:
    """A sandbox whose ranks may run for an hour, and the lease that says so."""
    with closing(RunLease(tmp_path / "lease")) as lease:
        lease.extend(time.monotonic() + 3600.0)
        try:
            sandbox = Sandbox.create(tmp_path / "sandbox", net, lease=tmp_path / "lease")
        except SandboxFailed as error:
            pytest.skip(error.detail)
        try:
            yield sandbox, lease
        finally:
            sandbox.remove()


def test_ranks_of_an_agent_that_is_dead_stop_when_its_lease_is_over(
    tmp_path: Path, net: Network
) -> None:
    """Else they would run on beside another life of their job."""
    with leased(tmp_path, net) as (sandbox, lease):
        sandbox.launch(spec(tmp_path, python(COUNT, FOREVER)))
        counts_on(tmp_path / "log")
        assert not lease.extend(time.monotonic() - 60.0), "so far nobody was stopped"
        state = Path(f"/proc/{sandbox.pid}/stat")
        until(lambda: state.read_text().split()[2] == "T", "the rank stops")
        assert lease.extend(time.monotonic() + 3600.0), "whoever is heard again lets them go on"
        sandbox.thaw()
        counts_on(tmp_path / "log")
        opened = {os.readlink(fd) for fd in Path(f"/proc/{sandbox.pid}/fd").iterdir()}
        assert str(tmp_path / "lease") not in opened, "a rank could not be carried with it"


def test_a_rank_that_leaves_orphans_all_the_time_stops_as_well(
    tmp_path: Path, net: Network
) -> None:
    """Its supervisor is never done reaping them, and looks at the lease all the same."""
    code = """
import itertools, os, time
for i in itertools.count():
    print(i, flush=True)
    if os.fork() == 0:
        os.fork()
        os._exit(0)
    os.wait()
    time.sleep(0.005)
"""
    with leased(tmp_path, net) as (sandbox, lease):
        sandbox.launch(spec(tmp_path, python(code)))
        counts_on(tmp_path / "log")
        lease.extend(time.monotonic() - 60.0)
        state = Path(f"/proc/{sandbox.pid}/stat")
        until(lambda: state.read_text().split()[2] == "T", "the rank stops")


def test_who_came_in_to_dump_a_rank_is_not_stopped_with_it(tmp_path: Path, net: Network) -> None:
    """Nobody would let it go on: a dump that was under way when contact was lost never ended."""
    with leased(tmp_path, net) as (sandbox, lease):
        sandbox.launch(spec(tmp_path, ("sh", "-c", "sleep 1000 & exec sleep 2000")))
        until(lambda: sandbox.pid, "the rank")
        argv = sandbox.command(["sh", "-c", "echo in; read _; echo done"])
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as guest:
            assert guest.stdin and guest.stdout and guest.stdout.readline() == "in\n"
            lease.extend(time.monotonic() - 60.0)
            state = Path(f"/proc/{sandbox.pid}/stat")
            until(lambda: state.read_text().split()[2] == "T", "the rank stops")
            assert guest.communicate("\n")[0] == "done\n"
            states = [Path(f"/proc/{p}/stat") for p in descendants(sandbox.supervisor.pid)]
            assert [s.read_text().split()[2] for s in states] == ["T", "T"], "and what it started"


def test_a_sandbox_dies_though_who_sent_somebody_in_is_stopped(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """The kernel waits for a parent outside to take note of its child's end."""
    sandbox.launch(spec(tmp_path, ("sleep", "1000")))
    argv = sandbox.command(["sleep", "3000"])
    with subprocess.Popen(argv) as guest:
        until(lambda: children(guest.pid), "somebody to be in")
        guest.send_signal(signal.SIGSTOP)
        sandbox.kill()
        assert not sandbox.alive()
        assert guest.wait() == -signal.SIGKILL


def test_an_ordinary_user_has_sandboxes_too(tmp_path: Path) -> None:
    """Through a user namespace, as somebody without any right."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become somebody else")
    done = as_nobody(
        """
import os, sys, tempfile
from pathlib import Path
from sandboxes import ended, lines, python, spec
from singularity.agent.runtime.lease import RunLease
from singularity.agent.runtime.network import open_network
from singularity.agent.runtime.sandbox import Sandbox
from singularity.primitives.errors import SandboxFailed
with tempfile.TemporaryDirectory() as name:
    here = Path(name)
    try:
        sandbox = Sandbox.create(here / "sandbox", open_network("sgt-none", "10.84.0.0/16"))
    except SandboxFailed as error:
        sys.exit(f"skip: {error}")
    sandbox.launch(spec(here, python("import os; print(os.getpid())")))
    ended(sandbox)
    print(os.geteuid(), lines(here / "log"), repr(sandbox.address), sandbox.exit().code)
    sandbox.remove()
"""
    )
    if "skip: " in done.stderr:
        pytest.skip(done.stderr.partition("skip: ")[2])
    assert done.stdout.split("\n")[0] == f"{NOBODY} ['1000'] '' 0", done.stderr
