"""The shim over the stand-in driver: how soon a device is free, and a torn grid that is repaired.

Kernels are of 3 waves of 400 us; a best-effort program launches 64 and waits for them, again and
again. The gate is closed at some moment; the device is free when the last wave has ended.
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

from device_model import quantile

from singularity.agent.shim.build import built
from singularity.agent.shim.page import Class, ControlPage, Mode

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


@contextmanager
def program(directory: Path, *arguments: object) -> Iterator[tuple[ControlPage, Client]]:
    page = ControlPage.create(directory / "page", built(directory))
    client = Client(directory, "be", list(arguments), page.admit(0, Class.BE))
    page.rule(Mode.STALL)
    try:
        client.line()
        yield page, client
    finally:
        client.end()


def free_after_us(directory: Path, case: tuple[Mode, int, int], times: int) -> list[float]:
    mode, window, every = case
    took, draw = [], random.Random(3)
    with program(directory, "dlsym", "train", DEPTH, UNITS * WAVES, WAVE_US) as (page, client):
        page.rule(mode, window=window or 4, gate_every=every)
        for _ in range(times):
            time.sleep(0.03 + draw.random() * 0.01)
            asked_ns = time.monotonic_ns()
            page.close_gate()
            time.sleep(SETTLE_S)
            took.append(max(0, client.ended_ns - asked_ns) / 1e3)
            page.open_gate()
    return took


def repaired(directory: Path, times: int) -> list[str]:
    wrong, left = [], 0
    for _ in range(times):
        with program(directory, "dlsym", "exact", UNITS * 10, 5000) as (page, client):
            while client.waves < 3:
                time.sleep(0.0005)
            page.close_gate()
            client.tell()
            noted, _, early = map(int, client.line())
            client.tell()
            early += int(client.line()[2])
            page.open_gate()
            client.tell()
            if client.line() != ["1"] * 4 or early:
                wrong.append("each block of a torn grid runs once, and nothing behind it earlier")
            left += noted
    print(f"{times} torn grids of {UNITS * 10} blocks: {left} blocks left, all run once afterwards")
    return wrong


def shim(times: int) -> list[str]:
    if compiler() is None:
        print("left out: there is no C compiler here")
        return []
    p50_us: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = stand_in(Path(name))
        for title, case in CASES.items():
            took = free_after_us(directory, case, times)
            p50_us[title] = statistics.median(took)
            print(f"{title}: free after p50 {p50_us[title]:.0f}, p99 {quantile(took, 0.99):.0f} us")
        wrong = repaired(directory, 10)
    curve = [p50_us[title] for title in ("window 16", "window 4", "window 2", "gate")]
    if curve != sorted(curve, reverse=True):
        wrong.append("a smaller window frees the device sooner, and the gate the soonest")
    if p50_us["gate"] > WAVE_US * WAVES:
        wrong.append("the gate frees the device within one kernel, at the median")
    return wrong
