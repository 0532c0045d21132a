"""The directory that a planet of this machine lives in, also while nobody runs it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from singularity.primitives.errors import InvalidSpec, NotEmpty, NotFound, PlanetBusy

from .fleet import Fleet, default_fleet
from .routers import RouterPlace
from .servers import Postgres, write_secret

PACKAGE_ROOT: Final = Path(__file__).resolve().parents[2]
LEASE_S: Final = 4.0  # of its nodes, which are only processes


class Kept(BaseModel):
    """What a planet remembers from start to start, secrets included."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(default_factory=lambda: secrets.token_hex(3))
    port: int = 0
    join_token: str = Field(default_factory=lambda: f"sgj_{secrets.token_urlsafe(32)}")
    admin_token: str = Field(
        default_factory=lambda: f"sgl_{secrets.token_hex(6)}.{secrets.token_urlsafe(32)}"
    )
    fleet: Fleet = Field(default_factory=default_fleet)
    routers: dict[str, RouterPlace] = Field(default_factory=dict)

    def save(self, home: Path) -> None:
        write_secret(home / "planet.json", self.model_dump_json(indent=1))


def recall(home: Path) -> Kept:
    """What was kept there; of a planet that is new, what it will be. Raises InvalidSpec."""
    path = home / "planet.json"
    with suppress(FileNotFoundError):
        try:
            return Kept.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InvalidSpec(f"{path} is damaged: {error.errors()[0]['msg']}") from error
    return Kept()


def hold(home: Path) -> IO[bytes]:
    """The lock of the planet there, until it is closed; made where there is none. Raises PlanetBusy
    while somebody has it, InvalidSpec where nothing can be kept."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("wb")
    except OSError as error:
        raise InvalidSpec(
            f"nothing can be kept in {home}: {error.strerror}; name another --data"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise PlanetBusy(
            f"a planet runs on {home} already: stop it, or name another --data"
        ) from None
    return lock


@contextmanager
def opened(home: Path, *, at_rest: bool) -> Iterator[dict[str, str]]:
    """The environment in which `python -m singularity.api` works on the planet of `home`. Its
    Postgres is started for that if nobody runs it, which with `at_rest` must be so.

    Raises NotFound where there is none, PlanetBusy.
    """
    if not (home / "planet.json").exists():
        raise NotFound(
            f"there is no planet in {home}: name another --data, or set SINGULARITY_DATABASE_URL,"
            " _DATA and _VOLUME as for the control plane"
        )
    try:
        lock = hold(home)
    except PlanetBusy:
        if at_rest:
            raise
        yield _environment(home, _url() or _running(home))
        return
    with lock, _database(home) as url:
        yield _environment(home, url)


@contextmanager
def founded(home: Path) -> Iterator[dict[str, str]]:
    """The same for a planet that is to come, in a home that nobody has lived in. What was begun is
    removed if it fails. Raises NotEmpty, PlanetBusy."""
    strange = [path.name for path in home.iterdir()] if home.is_dir() else []
    if found := sorted(set(strange) - {"lock", "logs", "pids"}):
        raise NotEmpty(
            f"{home} is not empty ({', '.join(found[:5])}): name a new directory with --data"
        )
    with hold(home):
        try:
            with _database(home, new=True) as url:
                yield _environment(home, url)
        except BaseException:
            for name in ("postgres", "state", "volume", "planet.json", "logs", "pids"):
                path = home / name
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            raise


def settled(home: Path, fresh: Kept) -> None:
    """Give a planet that was restored to `home` what only belongs to one: names of its own on this
    machine, lest it and the one that was saved take each other's bridge down. One that was saved
    where there was no home becomes `fresh`."""
    kept = recall(home) if (home / "planet.json").exists() else fresh
    kept.model_copy(update={"id": fresh.id}).save(home)


def _url() -> str:
    return os.environ.get("SINGULARITY_DATABASE_URL", "")


def _running(home: Path) -> str:
    """Where the Postgres of a planet that runs is."""
    try:
        kept = json.loads((home / "postgres" / "server.json").read_text())
    except FileNotFoundError:
        raise _not_here(home) from None
    server = Postgres(home / "postgres", home)
    server.port, server.password = int(kept["port"]), str(kept["password"])
    return server.url


@contextmanager
def _database(home: Path, *, new: bool = False) -> Iterator[str]:
    if url := _url():
        yield url
        return
    if not new and not (home / "postgres" / "data").exists():
        raise _not_here(home)
    with Postgres(home / "postgres", home) as server:
        yield server.url


def _not_here(home: Path) -> NotFound:
    return NotFound(
        f"the database of {home} is not there: set SINGULARITY_DATABASE_URL as for `singularity up`"
    )


def _environment(home: Path, url: str) -> dict[str, str]:
    """As `up` gives it to the control plane."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("SINGULARITY_")}
    paths = [str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **ours,
        "PYTHONPATH": os.pathsep.join(paths),
        "SINGULARITY_DATABASE_URL": url,
        "SINGULARITY_DATA": str(home / "state"),
        "SINGULARITY_VOLUME": str(home / "volume"),
        "SINGULARITY_HEARTBEAT_EVERY_S": str(LEASE_S / 4),
        "SINGULARITY_LEASE_S": str(LEASE_S),
    }


def python() -> tuple[str, ...]:
    """How the control plane is called."""
    return (sys.executable, "-m", "singularity.api")
