"""How answers are printed: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Generic, TypeVar

import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from singularity.primitives.errors import (
    NotFound,
    Rejected,
    SingularityError,
    Unauthenticated,
    Unavailable,
)

from .session import HOW_TO_LOG_IN

View = TypeVar("View")
# A pipe has no width: wide enough that no cell is ever cut for whoever reads it.
PIPE_COLUMNS: Final = 400


class ExitCode:
    """What our own failures exit with; `run --wait` exits with the job's code instead."""

    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNAVAILABLE = 5


class Format(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


Output = Annotated[Format, typer.Option("-o", "--output", help="How to print the answer.")]


# No slots: a subscripted generic (Column[JobView]) could not be called with them on Python 3.11.
@dataclass(frozen=True)
class Column(Generic[View]):
    """One column of a table; `wide` ones show only with `-o wide`."""

    title: str
    cell: Callable[[View], str]
    wide: bool = False


@dataclass(frozen=True)
class Sheet(Generic[View]):
    """How one kind of thing is listed: its typed view, its columns, and its short name."""

    parse: Callable[[dict[str, Any]], View]
    columns: tuple[Column[View], ...]
    name: Callable[[View], str]


def console() -> Console:
    """stdout as it is now (tests and pipes replace it)."""
    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)


def say(text: str) -> None:
    """Tell the person something that is not data."""
    print(text, file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Print data as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show_list(items: Sequence[dict[str, Any]], sheet: Sheet[View], output: Format) -> None:
    if output in (Format.JSON, Format.YAML):
        show_raw({"items": list(items)}, output)
        return
    views = [sheet.parse(item) for item in items]
    if output is Format.NAME:
        write("".join(f"{sheet.name(view)}\n" for view in views))
        return
    show_table(views, [c for c in sheet.columns if output is Format.WIDE or not c.wide])


def show_one(item: dict[str, Any], sheet: Sheet[View], output: Format) -> None:
    if output in (Format.JSON, Format.YAML):
        show_raw(item, output)
    else:
        show_list([item], sheet, output)


def show_raw(body: dict[str, Any], output: Format) -> None:
    """The server's own words, for programs."""
    if output is Format.YAML:
        write(yaml.safe_dump(body, sort_keys=False, allow_unicode=True))
    else:
        write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")


def show_table(views: Sequence[View], columns: Sequence[Column[View]]) -> None:
    console().print(table_of(views, columns))


def table_of(views: Sequence[View], columns: Sequence[Column[View]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.title, no_wrap=True)
    for view in views:
        # Text, not markup: a job's name or message must not be able to style the terminal.
        table.add_row(*(Text(printable(column.cell(view))) for column in columns))
    return table


def printable(text: str) -> str:
    """`text` on one line without control characters: what a job says may not drive a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def exit_code(error: SingularityError) -> int:
    match error:
        case NotFound():
            return ExitCode.NOT_FOUND
        case Rejected():
            return ExitCode.REFUSED
        case Unavailable():
            return ExitCode.UNAVAILABLE
    return ExitCode.ERROR


def explain(error: SingularityError) -> None:
    """One line that says what is wrong, and one with the way out when there is a known one."""
    say(f"error: {printable(error.detail)}")
    if found := hint(error):
        say(f"hint: {printable(found)}")


def hint(error: SingularityError) -> str:
    near = error.facts.get("near")
    if isinstance(near, list) and near:
        return "did you mean " + " or ".join(str(n) for n in near) + "?"
    if given := error.facts.get("hint"):
        return str(given)
    if isinstance(error, Unauthenticated):
        return "" if HOW_TO_LOG_IN in error.detail else HOW_TO_LOG_IN
    if isinstance(error, Unavailable):
        return f"is it running? {HOW_TO_LOG_IN}; `singularity doctor` examines this machine"
    return ""


def duration(seconds: float) -> str:
    """Seconds for people: 0.4s, 12s, 3m20s, 4h05m, 2d03h."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def slowdown(times: float | None) -> str:
    """How many times as long work takes as alone."""
    return "-" if times is None else f"{times:.2f}x"


def size(count: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
