"""`singularity top`: who is on each device, and what they do to each other, as it changes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final

import typer
from rich.live import Live

from singularity.primitives.clock import SystemClock

from .client import Client
from .frame import server
from .output import Column, Format, Output, console, duration, show_list, show_table, size, slowdown
from .output import table_of as table
from .places import DEVICES
from .views import DeviceView, SharerView


@dataclass(frozen=True)
class Line:
    """A device, or (with `sharer`) a rank on it."""

    device: DeviceView
    sharer: SharerView | None = None


def _who(line: Line) -> str:
    return f"  {line.sharer.who}" if line.sharer else line.device.id


def _memory(line: Line) -> str:
    if line.sharer:
        return f"{size(line.sharer.used_bytes)} of {size(line.sharer.cap_bytes)}"
    return f"{size(line.device.used_bytes)} of {size(line.device.memory_bytes)}"


def _share(line: Line) -> str:
    given = line.sharer or line.device.given
    return f"{given.compute_milli / 10:g}%" if given else "-"


def _busy(line: Line) -> str:
    busy = line.sharer.busy if line.sharer else line.device.utilisation
    return "-" if busy is None else f"{busy:.0%}"


def _note(line: Line) -> str:
    if line.sharer:
        return line.sharer.complaint
    device, reaches = line.device, ""
    if device.links:
        reaches = f", reaches {','.join(map(str, device.links))}"
    told = device.health or f"seen {duration(SystemClock().now_s() - device.seen_s)} ago"
    return told + reaches


def _warm(line: Line) -> str:
    degrees = line.device.temperature_c
    return "" if line.sharer else "-" if degrees is None else f"{degrees} C"


COLUMNS: Final[tuple[Column[Line], ...]] = (
    Column("DEVICE", _who),
    Column("CLASS", lambda x: x.sharer.precedence if x.sharer else x.device.name),
    Column("SHARE", _share),
    Column("MEMORY", _memory),
    Column("BUSY", _busy),
    Column("TEMP", _warm),
    Column("SLOWDOWN", lambda x: slowdown(x.sharer.slowdown) if x.sharer else ""),
    Column("HELD", lambda x: duration(x.sharer.held_s) if x.sharer else ""),
    Column("LOST", lambda x: duration(x.sharer.lost_s) if x.sharer else ""),
    Column("NOTE", _note),
)


def top(
    ctx: typer.Context,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; so it is in a pipe.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show who is on each device: class, memory and its limit, load, how much longer the work of
    each takes than alone, how long it was kept waiting for others (HELD), and how much of that was
    promised to it (LOST). ^C ends it."""
    client = server(ctx)
    if output not in (Format.TABLE, Format.WIDE):
        show_list(client.items("/v1/accelerators"), DEVICES, output)
    elif once or not sys.stdout.isatty():
        show_table(list(_lines(client)), COLUMNS)
    else:
        _follow(client, every)


def _follow(client: Client, every_s: float) -> None:
    pause = threading.Event()
    with suppress(KeyboardInterrupt), Live(console=console(), screen=True) as live:
        while True:
            live.update(table(list(_lines(client)), COLUMNS), refresh=True)
            pause.wait(every_s)


def _lines(client: Client) -> Iterator[Line]:
    for item in client.items("/v1/accelerators"):
        device = DeviceView.model_validate(item)
        yield Line(device)
        for sharer in device.sharers:
            yield Line(device, sharer)
