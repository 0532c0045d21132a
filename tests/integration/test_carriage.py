"""What cannot be carried is found in real processes before anything is dumped, is named, and the
job goes on; what looks dangerous and is not, is carried."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from nodes import JOB, planet
from sandboxes import counts_on, lines, network, python, spec, until

from singularity.agent.checkpoint import CriuCheckpointer
from singularity.agent.proof import find_criu, probe
from singularity.agent.runtime.network import Network
from singularity.agent.runtime.sandbox import Sandbox
from singularity.primitives.errors import CannotCarry, CheckpointFailed

DEADLINE_S = 20.0
CRIU = find_criu(os.environ.get("SINGULARITY_CRIU", ""))
COUNT = """
import itertools, time
for i in itertools.count():
    print(i, flush=True)
    time.sleep(0.01)
"""
SYSCALLS = {"io_uring_setup": 425, "userfaultfd": 323, "perf_event_open": 298}  # of x86-64

Make = Callable[[str], Sandbox]


@pytest.fixture(scope="module")
def criu() -> CriuCheckpointer:
    verdict = probe(CRIU)
    if not verdict.ok or CRIU is None:
        pytest.skip(f"this machine cannot checkpoint: {verdict.reason}")
    return CriuCheckpointer(CRIU)


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def make(tmp_path: Path, net: Network) -> Iterator[Make]:
    made: list[Sandbox] = []

    def create(name: str) -> Sandbox:
        made.append(Sandbox.create(tmp_path / name, net))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.remove()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Path]:
    """A service of this machine, on a unix socket: the daemon of a tool, say."""
    path = tmp_path / "service"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        accepting = threading.Thread(target=_accept, args=(server,), daemon=True)
        accepting.start()
        yield path
        server.shutdown(socket.SHUT_RDWR)
        accepting.join()


def _accept(server: socket.socket) -> None:
    connections = []
    with suppress(OSError):  # it was shut down
        while True:
            connections.append(server.accept())
    for connection, _ in connections:
        connection.close()


def refused(criu: CriuCheckpointer, make: Make, directory: Path, code: str) -> str:
    """Start a rank that does `code` and then counts; why its dump is refused. It counts on."""
    log, images = directory / "log", directory / "images"
    sandbox = make("rank")
    sandbox.launch(spec(directory, python(code + COUNT)))
    counts_on(log)
    with pytest.raises(CheckpointFailed) as caught:
        criu.dump(sandbox, images)
    assert not list(images.iterdir()), "it was refused before anything was written"
    counts_on(log)
    return caught.value.detail


def through_syscall(name: str, arguments: str) -> str:
    if os.uname().machine != "x86_64":
        pytest.skip("the number of this system call is that of x86-64")
    call = f"ctypes.CDLL(None, use_errno=True).syscall({SYSCALLS[name]}, {arguments})"
    return (
        f"import ctypes, os, sys\nb = ctypes.create_string_buffer(120)\nfd = {call}\n"
        "if fd < 0: sys.exit(7)\n"
    )


def test_a_connection_to_outside_is_refused(
    criu: CriuCheckpointer, make: Make, net: Network, tmp_path: Path
) -> None:
    """To a server in another sandbox: for this one, the world."""
    serve = "import socket\nserver = socket.create_server(('', 7007))\nc = []\nprint('up')\n"
    world = make("world")
    forever = "while True: c.append(server.accept())"
    world.launch(spec(tmp_path, python("import sys\n" + serve + "sys.stdout.flush()\n" + forever)))
    until(lambda: lines(tmp_path / "log") == ["up"], "the server listens")
    (tmp_path / "log").unlink()
    address = world.address or "127.0.0.1"
    code = f"import socket\ns = socket.create_connection(('{address}', 7007))\n"
    reason = refused(criu, make, tmp_path, code)
    assert f"has a TCP connection to {address}:7007" in reason


def test_connections_among_processes_of_the_job_are_told_apart(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    code = """
import os, socket
server = socket.create_server(("127.0.0.1", 0))
if os.fork() == 0:
    connection = socket.create_connection(server.getsockname())
    while True: connection.recv(1)
connection = server.accept()
"""
    reason = refused(criu, make, tmp_path, code)
    assert "within the job" in reason
    assert "ranks: N" in reason


def test_a_service_on_a_unix_socket_is_refused(
    criu: CriuCheckpointer, make: Make, listener: Path, tmp_path: Path
) -> None:
    """CRIU would dump it, and fail to restore it."""
    code = f"import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({str(listener)!r})\n"
    assert "unix socket of a process outside" in refused(criu, make, tmp_path, code)


def test_unix_sockets_within_the_job_are_carried(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    """Connected, not accepted yet, and left by their other end: as a DataLoader has them."""
    code = """
import os, socket
one, other = socket.socketpair()
left, _ = socket.socketpair()
_.close()
server = socket.socket(socket.AF_UNIX)
server.bind(f"\\0carried-{os.getpid()}")
server.listen()
if os.fork() == 0:
    server.close()
    one.close()
    while True: other.send(other.recv(1))
waiting = socket.socket(socket.AF_UNIX)
waiting.connect(server.getsockname())
import itertools
for i in itertools.count():
    one.send(b"x")
    assert one.recv(1) == b"x"
    print(i, flush=True)
"""
    log, images = tmp_path / "log", tmp_path / "images"
    first, second = make("first"), make("second")
    first.launch(spec(tmp_path, python(code)))
    counts_on(log)
    criu.dump(first, images)
    first.kill()
    criu.restore(second, images, DEADLINE_S)
    counts_on(log)
    counted = lines(log)  # once: it counts on
    assert counted == [str(i) for i in range(len(counted))]


def test_a_pipe_to_outside_is_refused(criu: CriuCheckpointer, make: Make, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        reason = refused(criu, make, tmp_path, f"f = open({str(fifo)!r}, 'w')\n")
    finally:
        os.close(reader)
    assert f"the pipe {fifo} open for writing; what reads it is outside" in reason


@pytest.mark.parametrize(
    ("name", "arguments"), [("io_uring_setup", "8, b"), ("userfaultfd", "os.O_CLOEXEC")]
)
def test_what_lives_in_this_kernel_only_is_refused(
    criu: CriuCheckpointer, make: Make, tmp_path: Path, name: str, arguments: str
) -> None:
    code = through_syscall(name, arguments)
    tried = make("tried")
    tried.launch(spec(tmp_path, python(code), tmp_path / "tried.log"))
    until(lambda: tried.exit() is not None, "the call is tried")
    ended = tried.exit()
    assert ended is not None
    if ended.code == 7:
        pytest.skip(f"this kernel lets nobody call {name}")
    assert name.partition("_setup")[0] in refused(criu, make, tmp_path, code)


def test_a_file_that_lives_on_under_another_name_is_refused(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    code = "import os\nf = open('one', 'w')\nos.link('one', 'two')\nos.unlink('one')\n"
    assert "lives on under another" in refused(criu, make, tmp_path, code)


def test_a_semaphore_that_programs_share_by_name_is_refused_with_what_to_do(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    """As between a process and the workers that it spawns, and does not fork."""
    script = tmp_path / "spawns.py"
    script.write_text(
        "import multiprocessing, time\n"
        "def wait(lock): lock.acquire()\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    lock = context.Lock()\n"
        "    lock.acquire()\n"
        "    context.Process(target=wait, args=(lock,), daemon=True).start()\n"
        "    for i in range(100_000):\n"
        "        print(i, flush=True)\n"
        "        time.sleep(0.01)\n"
    )
    log = tmp_path / "log"
    sandbox = make("rank")
    sandbox.launch(spec(tmp_path, (sys.executable, str(script))))
    counts_on(log)
    with pytest.raises(CannotCarry) as caught:
        criu.dump(sandbox, tmp_path / "images")
    assert "shares a semaphore by name" in caught.value.detail
    assert "workers that are forked can be carried" in caught.value.detail
    counts_on(log)


def test_a_child_that_has_another_part_of_a_file_where_its_parent_has_one_is_refused(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    """CRIU would restore it with its parent's part, and say that all went well."""
    (tmp_path / "parts").write_bytes(b"1" * 4096 + b"2" * 4096)
    code = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (*(ctypes.c_void_p, ctypes.c_size_t), *(ctypes.c_int,) * 3, ctypes.c_long)
fd = os.open("parts", os.O_RDONLY)
place = libc.mmap(None, 4096, 1, 2, fd, 0)
heard, said = os.pipe()
if os.fork() == 0:
    assert libc.mmap(place, 4096, 1, 2 | 16, fd, 4096) == place
    os.write(said, b"x")
    while True: time.sleep(1)
os.read(heard, 1)
"""
    assert f"a part of {tmp_path / 'parts'} just where" in refused(criu, make, tmp_path, code)


def test_a_watch_on_files_is_carried_and_still_watches(
    criu: CriuCheckpointer, make: Make, tmp_path: Path
) -> None:
    """inotify: CRIU takes it along, so nobody refuses it."""
    watched, log, images = tmp_path / "watched", tmp_path / "log", tmp_path / "images"
    watched.mkdir()
    code = f"""
import ctypes, os
libc = ctypes.CDLL(None)
fd = libc.inotify_init1(os.O_NONBLOCK)
assert libc.inotify_add_watch(fd, {str(watched).encode()!r}, 0x100) > 0
import time
while True:
    try:
        print("seen" if b"news" in os.read(fd, 4096) else "something", flush=True)
    except BlockingIOError:
        print("nothing", flush=True)
    time.sleep(0.01)
"""
    first, second = make("first"), make("second")
    first.launch(spec(tmp_path, python(code)))
    counts_on(log)
    criu.dump(first, images)
    first.kill()
    criu.restore(second, images, DEADLINE_S)
    counts_on(log)
    assert "seen" not in lines(log)
    (watched / "news").touch()
    until(lambda: "seen" in lines(log), "the watch sees the new file")


def test_the_owner_is_told_and_the_job_ends_as_if_nothing_had_been(
    criu: CriuCheckpointer, listener: Path, tmp_path: Path
) -> None:
    root = tmp_path / "planet"
    root.mkdir()
    code = (
        f"import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({str(listener)!r})\n"
        "import time\nfor i in range(200):\n    print(i, flush=True)\n    time.sleep(0.01)\n"
    )
    with planet(root, f"sgk{os.getpid() % 0xFFFFFF:x}") as world:
        node = world.node("a")
        start = world.start({"a": (0,)}, 1, 0)["a"]
        node.send(start.model_copy(update={"run": (sys.executable, "-S", "-c", code)}))
        assert node.report().phase == "running"
        log = node.layout.log(JOB, 0)
        counts_on(log)
        node.cut(1, 1, keep_running=False)
        report = node.report()
        assert (report.phase, report.cut, report.image) == ("running", 1, None)
        assert "rank 0: it cannot be carried, and runs on: process " in report.reason
        assert "a unix socket of a process outside the job" in report.reason
        while (report := node.report()).phase == "running":
            pass
        assert (report.phase, report.exit_code) == ("exited", 0)
        assert lines(log) == [str(i) for i in range(200)]


@pytest.mark.parametrize("times", [1, 2])
def test_what_criu_says_once_may_have_been_the_moment(
    criu: CriuCheckpointer, make: Make, tmp_path: Path, times: int
) -> None:
    """A rank that was stopped while CRIU was at it failed its dump, and its job was said for good
    to be one that cannot be carried."""
    befalls = tmp_path / "criu"
    befalls.write_text(f"""#!/bin/sh
echo again >>{tmp_path}/asked
[ $(wc -l <{tmp_path}/asked) -gt {times} ] && exec {criu.criu} "$@"
while [ "$1" != --images-dir ]; do shift; done
touch "$2/half.img"
echo "Error (criu/parasite-syscall.c:94): 1000 was stopped by 5 unexpectedly" >"$2/dump.log"
exit 1
""")
    befalls.chmod(0o755)
    rank, log, images = make("first"), tmp_path / "log", tmp_path / "images"
    rank.launch(spec(tmp_path, python(COUNT), log))
    counts_on(log)
    if times == 2:
        with pytest.raises(CannotCarry, match="stopped by 5 unexpectedly"):
            CriuCheckpointer(befalls).dump(rank, images)
        counts_on(log)
        return
    images.mkdir()
    (images / "note.json").touch()
    CriuCheckpointer(befalls).dump(rank, images)
    names = {path.name for path in images.iterdir()}
    assert "note.json" in names and "half.img" not in names, "nothing of the first try is left"
    rank.kill()
    criu.restore(make("second"), images, DEADLINE_S)
    counts_on(log)
    told = lines(log)
    assert told == [str(n) for n in range(len(told))]
