"""`singularity run`: a job or service from a file, from the command line, or from both."""

from __future__ import annotations

import hashlib
import threading
import uuid
from pathlib import Path
from typing import Annotated, Final

import typer

from singularity.primitives.clock import SystemClock
from singularity.primitives.errors import Unavailable

from . import services
from .client import PATIENCE_S, Client, Json, path_of
from .documents import at_home, read
from .frame import server
from .jobs import JOBS, TERMINAL, follow_logs
from .output import ExitCode, Format, Output, duration, say, show_list, show_one
from .views import JobView

SPEC_SUFFIXES: Final = (".yaml", ".yml", ".json")
POLL_S: Final = 0.3
SUBMIT_ATTEMPTS: Final = 3


def run(
    ctx: typer.Context,
    what: Annotated[
        list[str], typer.Argument(metavar="SPEC.yaml | -- COMMAND…", help="`-` reads stdin.")
    ],
    name: Annotated[str | None, typer.Option(help="The job's name.")] = None,
    project: Annotated[str | None, typer.Option(help="Whose quota it uses.")] = None,
    tier: Annotated[str | None, typer.Option(help="premium, standard or basic.")] = None,
    kind: Annotated[str | None, typer.Option(help="train, batch or serve.")] = None,
    devices: Annotated[str | None, typer.Option(help="As in cpu:4.")] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Processes: the world size.")] = None,
    elastic: Annotated[str | None, typer.Option(metavar="MIN:MAX", help="Devices.")] = None,
    share: Annotated[
        str | None, typer.Option(metavar="MEMORY,COMPUTE[,CLASS]", help="As in 8GiB,50%,rt.")
    ] = None,
    region: Annotated[list[str] | None, typer.Option(help="Allowed; repeat for more.")] = None,
    env: Annotated[list[str] | None, typer.Option("-e", "--env", metavar="NAME=VALUE")] = None,
    workdir: Annotated[str | None, typer.Option(help="Where the ranks start.")] = None,
    every: Annotated[str | None, typer.Option(help="Between checkpoints: 30s, 5m.")] = None,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Restore its first steps aside, and compare.")
    ] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency key: submit at most once.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Exit as the job does, or when the service answers.")
    ] = False,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Print rank 0's output.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Submit a job or a service. Options override the file. ^C detaches: it goes on."""
    client = server(ctx)
    spec, command = _read(what)
    key = key or str(uuid.uuid4())
    if command:
        spec["name"] = _name_of(what, key)
    spec = at_home(spec, client.session, workdir)
    plain = {"name": name, "project": project, "tier": tier, "kind": kind, "devices": devices}
    spec |= {k: v for k, v in plain.items() if v is not None}
    if ranks is not None:
        spec["ranks"] = ranks
    if elastic is not None:
        spec["elastic"] = _range(elastic)
    if share is not None:
        spec["share"] = _share(share)
    if region:
        spec["place"] = {**spec.get("place", {}), "regions": region}
    if env:
        spec["env"] = {**spec.get("env", {}), **dict(_pair(text) for text in env)}
    if every is not None:
        spec["checkpoint"] = {**spec.get("checkpoint", {}), "every": every}
    if preflight:
        spec["checkpoint"] = {**spec.get("checkpoint", {}), "preflight": True}
    if spec.get("kind") == "serve":
        services.start(client, spec, key, output, wait=wait)
        return
    jobs = _submit(client, spec, key)
    if not (wait or follow):
        _show(jobs, output)
        return
    say("submitted " + " ".join(job["id"] for job in jobs))
    raise typer.Exit(_attend(client, [job["id"] for job in jobs], follow))


def _read(what: list[str]) -> tuple[Json, bool]:
    """The spec to start from, and whether it came as a command."""
    first = what[0]
    if len(what) > 1 or not (first == "-" or first.endswith(SPEC_SUFFIXES)):
        return {"run": what}, True
    return read(first), False


def _name_of(command: list[str], key: str) -> str:
    """A name for a job that was given none: its script, or its program, and a part of `key`, so
    that the same submission has the same name."""
    scripts = [word for word in command if word.endswith(".py")]
    stem = Path((scripts or command)[0]).stem.lower()
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in stem).strip("-")
    return f"{plain[:40] or 'job'}-{hashlib.sha256(key.encode()).hexdigest()[:4]}"


def _range(text: str) -> Json:
    low, _, high = text.partition(":")
    if not (low.isdigit() and high.isdigit()):
        raise typer.BadParameter(f"--elastic {text}: give MIN:MAX, as in 1:4")
    return {"min": int(low), "max": int(high)}


def _share(text: str) -> Json:
    """Of each rank's device; the server judges the parts."""
    parts = text.split(",")
    if not 2 <= len(parts) <= 3:
        raise typer.BadParameter(f"--share {text}: give MEMORY,COMPUTE[,CLASS], as in 8GiB,50%,rt")
    return dict(zip(("memory", "compute", "class"), parts, strict=False))


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not (found and name):
        raise typer.BadParameter(f"--env {text}: give NAME=VALUE")
    return name, value


def _submit(client: Client, spec: Json, key: str) -> list[Json]:
    """The jobs made. The key makes it safe to ask again when an answer was lost."""
    for attempt in range(1, SUBMIT_ATTEMPTS + 1):
        try:
            answer = client.post("/v1/jobs", spec, key)
            break
        except Unavailable:
            if attempt == SUBMIT_ATTEMPTS:
                raise
            threading.Event().wait(POLL_S * attempt)
    many: list[Json] = answer.get("items", [answer])
    return many


def _show(jobs: list[Json], output: Format) -> None:
    if len(jobs) == 1:
        show_one(jobs[0], JOBS, output)
    else:
        show_list(jobs, JOBS, output)


def _attend(client: Client, jobs: list[str], follow: bool) -> int:
    """Wait for all `jobs`; the exit code of the first that did not end well, else 0."""
    code = 0
    try:
        for job in jobs:
            if follow:
                follow_logs(client, job, rank=0, tail=None)
            code = code or _code(finished(client, job))
    except KeyboardInterrupt:
        rest = " ".join(jobs)
        say(f"detached: {rest} goes on; `singularity logs -f JOB`, `singularity cancel JOB`")
        return 0
    return code


def finished(client: Client, job: str) -> JobView:
    """The job's last view. A server that is away meanwhile is waited for, PATIENCE_S at most."""
    clock, pause = SystemClock(), threading.Event()
    state, heard_s = "", clock.now_s()
    while True:
        try:
            view = JobView.model_validate(client.get(path_of(job)))
        except Unavailable as error:
            if clock.now_s() - heard_s > PATIENCE_S:
                raise
            if state:
                say(f"{error.detail}; waiting for it, {job} goes on")
                state = ""
        else:
            heard_s = clock.now_s()
            if view.state != state:
                state = view.state
                where = f" in {view.region} on {view.held} devices" if view.placement else ""
                since = duration(heard_s - view.submitted_at_s)
                say(f"{since:>7}  {view.name}: {state}{where}  {view.message}".rstrip())
            if view.state in TERMINAL:
                return view
        pause.wait(POLL_S)


def _code(view: JobView) -> int:
    """What a shell is told: the job's own code; 128 + n when signal n ended it."""
    if view.exit_code is None:
        return 0 if view.state == "succeeded" else ExitCode.ERROR
    return view.exit_code if view.exit_code >= 0 else 128 - view.exit_code
