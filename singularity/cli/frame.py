"""What every command stands on: the server to speak to, and one place where errors become exits."""

from __future__ import annotations

from typing import Any, Final

import typer
from typer.core import TyperGroup

from singularity.primitives.errors import SingularityError

from .client import Client
from .output import exit_code, explain
from .session import current

CONTEXT: Final = {"help_option_names": ["-h", "--help"]}


class Commands(TyperGroup):
    """A group whose commands may raise SingularityError: one clear line, and a stable exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SingularityError as error:
            explain(error)
            raise typer.Exit(exit_code(error)) from error
        except BrokenPipeError:
            # The reader of our output (head, less) has seen enough: that is its right.
            raise typer.Exit(0) from None


def server(ctx: typer.Context) -> Client:
    """The server of this invocation; opened at first use, so that local commands need none."""
    if not isinstance(ctx.obj, Client):
        ctx.obj = Client(current())
    return ctx.obj
