"""`singularity admin`: what must not be lost of a planet, into a file and out of it; its schema.

The control plane's own program does it (singularity/api/upkeep.py), on the planet of `--data` or,
where SINGULARITY_DATA names the directory of a control plane of your own, with its environment.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from singularity.primitives.errors import HandFailed

from .client import Json, error_of
from .frame import CONTEXT, Commands
from .homes import PACKAGE_ROOT, Kept, founded, opened, python, settled
from .output import Format, Output, say, show_raw, size, write

_MISSING: Final = 2  # of `migrate --check`, as of `plan`: something would be otherwise
_DEPLOYED: Final = "SINGULARITY_DATA"
Data = Annotated[
    Path | None, typer.Option(help="Of the planet, as for `up`; else SINGULARITY_* say which.")
]

admin = typer.Typer(
    cls=Commands,
    context_settings=CONTEXT,
    no_args_is_help=True,
    help="Save a planet, bring it back on another machine, bring its schema forward.",
)


@admin.command()
def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="In a directory it is named.")],
    data: Data = None,
    with_store: Annotated[
        bool, typer.Option("--with-store", help="Also checkpoints and logs; the planet must rest.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Save all that is needed to begin again elsewhere: tables, keys, settings. While all runs.

    Checkpoints and what jobs printed lie in the volume (and SINGULARITY_STORE): copy those with
    tools of your own, or add --with-store. The file holds keys: whoever reads it can read them all.
    """
    home = _home(data)
    arguments = ["backup", str(target.absolute()), *(["--with-store"] if with_store else [])]
    with _control(home, at_rest=with_store) as env:
        found = _asked(arguments, env, home)
    if output in (Format.JSON, Format.YAML):
        show_raw(found, output)
        return
    write(f"{found['path']}\n")
    say(f"{size(found['size_bytes'])}, {found['rows']} rows of schema {found['revision']}")
    if with_store:
        say(f"with {found['files']} files of the volume and the store")
    else:
        store = env.get("SINGULARITY_STORE")
        places = env["SINGULARITY_VOLUME"] + (f" and {store}" if store else "")
        say(f"not in it: checkpoints and logs, in {places}; copy those too, or add --with-store")
    say("keys are in it: keep it as you would keep them")


@admin.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="What `backup` wrote.")],
    data: Data = None,
    output: Output = Format.TABLE,
) -> None:
    """Bring a planet back out of a backup: into a new --data, or an empty database of your own.

    The one that was saved must not run any more. Jobs go on from their last checkpoint in the
    backup, where the store has it; nodes register anew by themselves.
    """
    home = _home(data)
    arguments = ["restore", str(source.absolute())]
    if home is None:
        with _control(None, at_rest=False) as env:
            found = _asked(arguments, env, None)
    else:
        fresh = Kept()
        with founded(home) as env:
            env["SINGULARITY_ADMIN_TOKEN"] = fresh.admin_token
            found = _asked(arguments, env, home)
            settled(home, fresh)
    if output in (Format.JSON, Format.YAML):
        show_raw(found, output)
        return
    at = datetime.fromtimestamp(found["made_at_s"], UTC)
    say(f"as it was at {at:%Y-%m-%d %H:%M:%S} UTC: {found['rows']} rows, {found['jobs']} jobs live")
    if found["elsewhere"]:
        where = home / "volume" if home else os.environ.get("SINGULARITY_VOLUME", "the volume")
        say(f"checkpoints and logs did not come along: copy them from {found['elsewhere']}")
        say(f"  to {where} before anything starts; a job without them begins anew")
    for warning in found["warnings"]:
        say(f"warning: {warning}")
    say("tokens and nodes that were revoked since then are good again: revoke them again")
    say(f"now: singularity up --data {home}" if home else "now start the control plane")


@admin.command()
def migrate(
    data: Data = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what is missing.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Bring the schema of the database to that of this release, as `up` does at each start.

    With --check nothing is changed: exits with 0 where nothing is missing, with 2 where something
    is, with 4 where the database is of a later release.
    """
    home = _home(data)
    with _control(home, at_rest=False) as env:
        found = _asked(["migrate", *(["--check"] if check else [])], env, None)
    lacking = found["migrations"]
    if output in (Format.JSON, Format.YAML):
        show_raw(found, output)
    else:
        for number, what in lacking:
            write(f"{number}  {what}\n")
        before, head = found["before"] or "nothing", found["head"]
        if not lacking:
            say(f"up to date: {head}")
        else:
            say(f"is at {before}, to be {head}" if check else f"from {before} to {head}")
    if check and lacking:
        raise typer.Exit(_MISSING)


def _home(data: Path | None) -> Path | None:
    """None for a control plane of one's own, which the environment describes."""
    if data is None and os.environ.get(_DEPLOYED):
        return None
    return (data or Path.home() / ".local" / "share" / "singularity").absolute()


@contextmanager
def _control(home: Path | None, *, at_rest: bool) -> Iterator[dict[str, str]]:
    """The environment for its program. Raises NotFound, PlanetBusy."""
    if home is None:
        yield {**os.environ, "PYTHONPATH": _path()}
        return
    with opened(home, at_rest=at_rest) as env:
        yield env


def _path() -> str:
    return os.pathsep.join((str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))


def _asked(arguments: Sequence[str], env: Mapping[str, str], home: Path | None) -> Json:
    """What the program answers. Raises the error that it tells of, and HandFailed."""
    argv = [*python(), *arguments, *(["--home", str(home)] if home else [])]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, cwd="/", check=False)
    try:
        found: Json = json.loads(done.stdout.rstrip().rsplit("\n", 1)[-1])
    except ValueError:
        last = done.stderr.strip() or f"exit code {done.returncode}"
        raise HandFailed(f"{arguments[0]} failed: {last[-2000:]}") from None
    if done.returncode:
        raise error_of(found, int(found.get("status", 500)))
    return found
