"""A real Postgres for the tests that ask for one: one server a session, one database a test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from sqlalchemy import Engine, create_engine, make_url

from singularity.api.applier import SqlLedger
from singularity.api.schema import migrate
from singularity.cli.servers import Postgres

settings.register_profile("busy", deadline=None)  # how long an example takes is no law
settings.load_profile("busy")

_TEMPLATE = "migrated"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The server; restartable by tests that say so."""
    with Postgres(_open(tmp_path_factory.mktemp("postgres")), durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def new_database(postgres: Postgres) -> Callable[[], str]:
    """Makes databases that have been migrated, and returns their URLs."""
    _create(postgres, _TEMPLATE, "template0")
    engine = create_engine(_sqlalchemy_url(_at(postgres, _TEMPLATE)))
    migrate(engine)
    engine.dispose()  # a template must have no connections

    def make() -> str:
        name = f"test{next(_numbers)}"
        _create(postgres, name, _TEMPLATE)
        return _at(postgres, name)

    return make


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    """The libpq URL of a fresh, migrated database."""
    return new_database()


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    made = create_engine(_sqlalchemy_url(database), pool_size=12)
    yield made
    made.dispose()


@pytest.fixture
def ledger(engine: Engine) -> SqlLedger:
    return SqlLedger(engine)


def _sqlalchemy_url(url: str) -> str:
    """A libpq URL, for SQLAlchemy."""
    found = make_url(url).set(drivername="postgresql+psycopg")
    return found.render_as_string(hide_password=False)


def _open(directory: Path) -> Path:
    """pytest closes its directories to others; a server that may not be root has to get in."""
    for path in (directory, directory.parent, directory.parent.parent):
        path.chmod(path.stat().st_mode | 0o011)
    return directory


def _create(server: Postgres, name: str, template: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as db:
        db.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')


def _at(server: Postgres, name: str) -> str:
    return server.url.rpartition("/")[0] + f"/{name}"
