"""Commands about this machine: boot a planet on it, remember a server, examine it."""

from __future__ import annotations

import json
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Final

import typer

from singularity.primitives.errors import HandFailed

from .client import Client, Json
from .frame import server
from .output import ExitCode, Format, Output, say, show_raw, write
from .session import Session, save

DOCTOR_S: Final = 120.0


def up(
    fleet: Annotated[Path | None, typer.Option(help="Regions, clusters, nodes (YAML).")] = None,
    data: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Of the API.")] = None,
) -> None:
    """Boot a planet on this machine and keep it running until ^C; all data is kept."""
    # Imported here: the servers' packages are not needed, nor paid for, by any other command.
    from .up import main_up

    home = data or Path.home() / ".local" / "share" / "singularity"
    raise typer.Exit(main_up(fleet, home, port))


def login(
    url: Annotated[str, typer.Argument(help="As `singularity up` prints it.")],
    token: Annotated[
        str,
        typer.Option(
            envvar="SINGULARITY_TOKEN", prompt=True, hide_input=True, help="Asked for if not given."
        ),
    ],
) -> None:
    """Check a token against a server, and use both from now on."""
    session = Session(url=url.rstrip("/"), token=token)
    Client(session).get("/v1/regions")
    say(f"kept in {save(session)}")


def dashboard(
    ctx: typer.Context,
    browse: Annotated[bool, typer.Option("--open", help="Open it in a browser here.")] = False,
) -> None:
    """Print a link to the dashboard that signs a browser in as you, once, within two minutes."""
    client = server(ctx)
    url = client.session.url + str(client.post("/v1/logins")["path"])
    write(url + "\n")
    if browse and not webbrowser.open(url):
        say("no browser can be opened here: open the link yourself")


def doctor(output: Output = Format.TABLE) -> None:
    """Say what this machine can do: checkpoints (by taking one), isolation, accelerators."""
    facts = _examine()
    if output in (Format.JSON, Format.YAML):
        show_raw(facts, output)
    else:
        for check in facts["checks"]:
            mark = {"ok": "ok", "missing": "--", "failed": "!!"}[check["verdict"]]
            write(f"{mark}  {check['name']:<12} {check['detail']}\n")
    if any(check["verdict"] == "failed" for check in facts["checks"]):
        raise typer.Exit(ExitCode.ERROR)


def _examine() -> Json:
    argv = [sys.executable, "-m", "singularity.agent", "doctor"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=DOCTOR_S, check=False)
        facts: Json = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise HandFailed(f"the examination did not end within {DOCTOR_S:.0f} s") from None
    except ValueError:
        last = done.stderr.strip().rsplit("\n", 1)[-1] or f"exit code {done.returncode}"
        raise HandFailed(f"the examination failed: {last}") from None
    return facts
