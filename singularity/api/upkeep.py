"""What an operator does to a planet as a whole, as `python -m singularity.api` does it: what goes
in are settings and paths, what comes out is JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from sqlalchemy.exc import OperationalError

from singularity.primitives.errors import Unavailable

from .backup import backup
from .database import make_engine
from .restoring import restore
from .schema import head, migrate, missing, revision_of
from .settings import Settings

_OF_A_HOME: Final = ("planet.json",)


def save(settings: Settings, target: Path, home: Path | None, with_store: bool) -> dict[str, Any]:
    """Raises what backup.backup raises."""
    found = [home / name for name in _OF_A_HOME] if home else []
    kept = {path.name: path.read_bytes() for path in found if path.exists()}
    return asdict(backup(settings, target, kept, with_store=with_store))


def bring_back(settings: Settings, source: Path, home: Path | None) -> dict[str, Any]:
    """Raises what restoring.restore raises."""
    return asdict(restore(settings, source, home))


def bring_up(settings: Settings, *, check: bool) -> dict[str, Any]:
    """The schema that there was, and the migrations that were missing; with `check` they still are.
    Raises SchemaNewer, Unavailable."""
    engine = make_engine(settings)
    try:
        with engine.connect() as db:
            before = revision_of(db)
        lacking = missing(before)
        if lacking and not check:
            migrate(engine)
    except OperationalError as error:
        raise Unavailable(f"the database does not answer: {error.orig}") from error
    finally:
        engine.dispose()
    return {"before": before, "head": head(), "migrations": lacking, "done": not check}
