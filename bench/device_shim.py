"""The shim over the stand-in driver: how soon a device is free, and a torn grid that is repaired.

Kernels are of 3 waves of 400 us; a best-effort program launches 64 and waits for them, again and
again. The gate is closed at some moment; the device is free when the last wave has ended. Then the
same with kernels in PTX, of 20 waves, which the stand-in carries out, with a prologue and without:
what counts is the time for which the device is the best-effort program's still, in waves. Last,
memory over a cap, by each call that gives any.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import device_plot
from device_model import quantile

from singularity.agent.shim.build import built
from singularity.agent.shim.page import Class, ControlPage, Mode
from singularity.primitives.errors import InvalidSpec

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.standin.cuda import Client, compiler, stand_in

WAVE_US, WAVES, UNITS, DEPTH = 400, 3, 8, 64
SETTLE_S = 0.06  # more than a window of 16 takes to run out
CASES = {
    "window 16": (Mode.WINDOW, 16, 1),
    "window 4": (Mode.WINDOW, 4, 1),
    "window 2": (Mode.WINDOW, 2, 1),
    "gate": (Mode.STALL, 0, 1),
    "gate, every 4th launch": (Mode.STALL, 0, 4),
    "window 16 and gate": (Mode.WINDOW | Mode.STALL, 16, 1),
}


CAP_BYTES, OUT_OF_MEMORY = 1_000_000, "2"
LONG_WAVES = 20  # of a kernel in PTX
YIELDING = {
    "gate, 20 waves": Mode.STALL,
    "gate and yield, 20 waves": Mode.STALL | Mode.YIELD,
    "yield alone, 20 waves": Mode.YIELD,
}


@contextmanager
def program(
    directory: Path, mode: Mode, *arguments: object
) -> Iterator[tuple[ControlPage, Client]]:
    page = ControlPage.create(directory / "page", built(directory))
    client = Client(directory, "be", list(arguments), page.admit(0, Class.BE))
    page.rule(mode)
    try:
        client.line()
        yield page, client
    finally:
        client.end()


def free_after_us(
    directory: Path, case: tuple[Mode, int, int], times: int, *arguments: object
) -> list[float]:
    mode, window, every = case
    took, draw = [], random.Random(3)
    with program(directory, mode, "dlsym", *arguments) as (page, client):
        page.rule(mode, window=window or 4, gate_every=every)
        for _ in range(times):
            time.sleep(0.03 + draw.random() * 0.01)
            asked_ns = time.monotonic_ns()
            page.close_gate()
            time.sleep(SETTLE_S)
            took.append(max(0, client.ended_ns - asked_ns) / 1e3)
            page.open_gate()
    return took


def repaired(directory: Path, seconds: float) -> list[str]:
    """Close and open the gate at random, often amid a repair; count what became of it."""
    draw, closed = random.Random(7), 0
    mode, arguments = Mode.STALL | Mode.YIELD, ("dlsym", "work", 8, UNITS * 10, WAVE_US * 1000)
    with program(directory, mode, *arguments) as (page, client):
        until_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < until_s or (
            page.slot(0).mended <= 10 and now_s < until_s + 60  # on a machine that is busy
        ):
            page.close_gate()
            time.sleep(draw.random() * 0.004)
            page.open_gate()
            time.sleep(draw.choice([0.0005, 0.002, 0.008]) * draw.random() * 2)
            closed += 1
        client.tell()
        launched, early, wrong = map(int, client.line())
        slot = page.slot(0)
    print(
        f"{closed} times closed over {launched} kernels of {UNITS * 10} blocks: {slot.mended} were"
        f" torn, {slot.left} blocks had left; {slot.repairs} repairs, {slot.repairs - slot.mended}"
        f" of them taken back; {early} numbers seen too early, {wrong} wrong in the end"
    )
    laws = {
        "grids are torn, and repairs taken back": slot.mended > 10 < slot.repairs - slot.mended,
        "nothing behind a torn grid begins before it is whole": not early,
        "each block of a torn grid runs once": not wrong,
    }
    return [law for law, holds in laws.items() if not holds]


def capped(directory: Path) -> list[str]:
    """Two allocations of 600,000 bytes by each road there is, under a cap of 1,000,000."""
    page = ControlPage.create(directory / "page", built(directory))
    environment, wrong, refused = page.admit(0, Class.BE, CAP_BYTES), list[str](), list[str]()
    client = Client(directory, "capped", ["dlsym", "memory"], environment)
    try:
        while (words := client.line())[0] != "up":
            kind, first, second, left, total = words
            if (first, second, total) != ("0", OUT_OF_MEMORY, str(CAP_BYTES)) or int(left) < 0:
                wrong.append(f"cu{kind} keeps to the cap and refuses as the driver does")
            refused.append(kind)
        try:
            page.cap(0, CAP_BYTES // 2)
            wrong.append("no cap is set below what is held")
        except InvalidSpec as error:
            print(f"a cap of half as much: {error.detail}")
    finally:
        client.end()
    print(f"over the cap, refused as out of memory: {', '.join(refused)}")
    return wrong


def shim(times: int, plot: Path | None = None) -> list[str]:
    if compiler() is None:
        print("left out: there is no C compiler here")
        return []
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = stand_in(Path(name))
        short = ("train", DEPTH, UNITS * WAVES, WAVE_US)
        long = ("work", 16, UNITS * LONG_WAVES, WAVE_US * 1000)
        for title, case in CASES.items():
            took[title] = free_after_us(directory, case, times, *short)
        for title, mode in YIELDING.items():
            took[title] = free_after_us(directory, (mode, 0, 1), times, *long)
        for title, us in took.items():
            p50, p99 = statistics.median(us), quantile(us, 0.99)
            print(f"{title}: free after p50 {p50:.0f}, p99 {p99:.0f} us")
        wrong = repaired(directory, times / 6) + capped(directory)
    rows = {
        title: (statistics.median(us) / 1e3, quantile(us, 0.99) / 1e3) for title, us in took.items()
    }
    device_plot.pairs(plot, rows, ("p50", "p99"), "ms until the device is free, stand-in driver")
    p50_us = {title: statistics.median(us) for title, us in took.items()}
    curve = [p50_us[title] for title in ("window 16", "window 4", "window 2", "gate")]
    if curve != sorted(curve, reverse=True):
        wrong.append("a smaller window frees the device sooner, and the gate the soonest")
    if p50_us["gate"] > WAVE_US * WAVES:
        wrong.append("the gate frees the device within one kernel, at the median")
    if p50_us["gate and yield, 20 waves"] * 3 > p50_us["gate, 20 waves"]:
        wrong.append("kernels of 20 waves that yield free the device at least three times as soon")
    return wrong
