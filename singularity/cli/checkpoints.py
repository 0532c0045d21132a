"""`singularity ckpt …`: the cuts a job can come back from."""

from __future__ import annotations

from typing import Annotated

import typer

from singularity.primitives.clock import SystemClock
from singularity.primitives.errors import NotFound

from .client import Client, Json, path_of
from .frame import CONTEXT, Commands, server
from .jobs import JOBS, JobName
from .output import (
    Column,
    ExitCode,
    Format,
    Output,
    Sheet,
    duration,
    say,
    show_list,
    show_one,
    show_raw,
    size,
    write,
)
from .submit import finished
from .views import CheckpointView, JobView, VerifyView

ckpt = typer.Typer(
    cls=Commands, context_settings=CONTEXT, no_args_is_help=True, help="The cuts of a job."
)
CHECKPOINTS = Sheet(
    CheckpointView.model_validate,
    (
        Column[CheckpointView]("CHECKPOINT", lambda c: c.name),
        Column("STEP", lambda c: str(c.step)),
        Column("ENGINE", lambda c: c.engine or "-"),
        Column("AGE", lambda c: duration(SystemClock().now_s() - c.at_s)),
        Column("SIZE", lambda c: size(c.raw_bytes)),
        Column("NEW", lambda c: size(c.new_bytes)),
    ),
    lambda c: c.name,
)


@ckpt.command("ls")
def ls(ctx: typer.Context, job: JobName, output: Output = Format.TABLE) -> None:
    """List the checkpoints that count, newest first."""
    show_list(server(ctx).items(path_of(job, "checkpoints")), CHECKPOINTS, output)


@ckpt.command("create")
def create(ctx: typer.Context, job: JobName, output: Output = Format.TABLE) -> None:
    """Take a checkpoint now; the job goes on running."""
    show_one(server(ctx).post(path_of(job, "checkpoints")), JOBS, output)


@ckpt.command("verify")
def verify(
    ctx: typer.Context,
    job: JobName,
    checkpoint: Annotated[str | None, typer.Argument(help="As `ls` names it; else newest.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Restore it aside, let it run so many, compare.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Read every chunk of a checkpoint and check its hash; with --steps, also see that what comes
    back from it does the same as the job itself."""
    client = server(ctx)
    if checkpoint is None:
        found = client.items(path_of(job, "checkpoints"), limit=1)
        if not found:
            raise NotFound(f"{job} has no checkpoint", hint=f"singularity ckpt create {job}")
        checkpoint = CheckpointView.model_validate(found[0]).name
    if steps is not None:
        _aside(client, job, {"checkpoint": checkpoint, "steps": steps}, output)
        return
    body = client.get(path_of(job, "checkpoints", checkpoint, "verify"))
    view = VerifyView.model_validate(body)
    if output in (Format.JSON, Format.YAML):
        show_raw(body, output)
    else:
        verdict = "good" if view.ok else "DAMAGED"
        write(f"{checkpoint}  {verdict}  {view.chunks} chunks, {size(view.bytes)}\n")
    for fault in view.faults:
        say(fault)
    if not view.ok:
        raise typer.Exit(ExitCode.ERROR)


@ckpt.command("restore")
def restore(
    ctx: typer.Context,
    job: JobName,
    checkpoint: Annotated[str, typer.Argument(help="As `ls` names it.")],
    output: Output = Format.TABLE,
) -> None:
    """Let a job go back to one of its checkpoints; what it did since is given up."""
    show_one(server(ctx).post(path_of(job, "checkpoints", checkpoint, "restore")), JOBS, output)


@ckpt.command("preflight")
def preflight(
    ctx: typer.Context,
    job: JobName,
    steps: Annotated[int | None, typer.Option(min=1, help="How many to compare.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Take a checkpoint now, restore it aside and compare: can this job be moved at all?"""
    _aside(server(ctx), job, {} if steps is None else {"steps": steps}, output)


def _aside(client: Client, job: str, asked: Json, output: Format) -> None:
    """Ask, wait for the end, and show the certificate. ^C detaches: it goes on."""
    body = client.post(path_of(job, "verifications"), asked)
    shadow = JobView.model_validate(body).id
    try:
        ended = finished(client, shadow)
    except KeyboardInterrupt:
        say(f"detached: it goes on; `singularity describe {shadow}`")
        raise typer.Exit(0) from None
    if output in (Format.JSON, Format.YAML):
        show_raw(client.get(path_of(shadow)), output)
    found = ended.certificate
    finding, reason = (found.finding, found.reason) if found else ("incomparable", ended.message)
    if output not in (Format.JSON, Format.YAML):
        write(f"{finding}  {reason}\n")
    if finding != "identical":
        raise typer.Exit(ExitCode.ERROR)
