"""Two processes on one GPU, each with what an agent would load into it: how much longer a real-time
kernel takes beside best-effort ones, how much of its pace those keep, and whether each of their
blocks ran once; and whether one that was preempted a thousand times has computed, to the bit, what
it does alone. The programs know nothing of each other, nor of the gate.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from device_gpu_program import DEPTH, RT_US, Program
from device_model import quantile

sys.path.insert(0, str(Path(__file__).parents[1]))

from singularity.agent.shim.build import built
from singularity.agent.shim.page import Class, ControlPage, Mode, complaint

LINE_S = 120.0
YIELD, YIELD_MOST_US, GATE_MOST_US = "gate, blocks yield", 25, 15
SHM = "/dev/shm"  # the kernel lets no driver keep pages of files on disks


def best_effort(kernel_us: int, waves: int, graph: int = 0) -> None:
    """Launch and wait, until a line comes; then kernels a second, and blocks that are off."""
    program, launched = Program(kernel_us, waves), 0
    program.launch()
    program.wait()
    if graph:
        program.capture()
    print("up", flush=True)
    began_s = time.monotonic()
    while not select.select([sys.stdin], [], [], 0)[0]:
        program.launch_many()
        program.wait()
        launched += DEPTH
    took_s = time.monotonic() - began_s
    wrong = program.ran() - (launched + 1) * program.blocks if program.counts else 0
    print(json.dumps({"rate": launched / took_s, "wrong": wrong}), flush=True)


def learn(block_us: int, blocks: int, threads: int, steps: int) -> None:
    """Learn for so many steps, or, for 0, until a line comes; then how many, and a digest of what
    has come of them."""
    program, step = Program(1, 1), 0
    learner = program.learner(blocks or 8 * program.blocks, threads)
    print("up", flush=True)
    while step != steps or not steps:
        if not steps and select.select([sys.stdin], [], [], 0)[0]:
            break
        for _ in range(min(DEPTH, steps - step) if steps else DEPTH):
            step += 1
            learner.step(step, block_us)
        program.wait()
    print(json.dumps({"steps": step, "digest": learner.digest()}), flush=True)


def real_time(times: int) -> None:
    """Microseconds of each of so many kernels, from the call to the end."""
    program, took, draw = Program(RT_US, 1), [], random.Random(5)
    program.launch()
    program.wait()
    print("up", flush=True)
    sys.stdin.readline()
    for _ in range(times):
        time.sleep(0.002 + draw.random() * 0.002)
        began_ns = time.perf_counter_ns()
        program.launch()
        program.wait()
        took.append((time.perf_counter_ns() - began_ns) / 1e3)
    print(json.dumps(took), flush=True)


@contextmanager
def running(role: str, *words: object, env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, __file__, role, *map(str, words)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(argv, env={**os.environ, **env}, **pipes)  # type: ignore[call-overload]
    try:
        if line(process) != "up":
            raise SystemExit(f"the {role} program does not start")
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], LINE_S)[0]:
        raise SystemExit(f"a program says nothing for {LINE_S:g} s: the GPU may hang")
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@dataclass
class Sharing:
    """Of two processes with the shim, at `page`; or without it. With `graph` the best-effort one
    launches its kernels as graphs."""

    page: ControlPage | None
    graph: bool = False

    def env(self, slot: int, kind: Class) -> Mapping[str, str]:
        if self.page is None:
            return {}
        self.page.sweep()  # one that was killed may have left the gate closed
        return self.page.admit(slot, kind)

    def alone(self, kernel_us: int, waves: int, seconds: float) -> float:
        words = kernel_us, waves, int(self.graph)
        with running("be", *words, env=self.env(0, Class.BE)) as process:
            time.sleep(seconds)
            tell(process)
            return float(json.loads(line(process))["rate"])

    def real_time_alone(self, times: int) -> list[float]:
        with running("rt", times, env=self.env(1, Class.RT)) as process:
            tell(process)
            return [float(v) for v in json.loads(line(process))]

    def beside(self, kernel_us: int, waves: int, times: int) -> tuple[list[float], float, int]:
        """Microseconds of the real-time kernels, the others' rate, and what is wrong with them."""
        words = kernel_us, waves, int(self.graph)
        with (
            running("be", *words, env=self.env(0, Class.BE)) as learner,
            running("rt", times, env=self.env(1, Class.RT)) as answerer,
        ):
            tell(answerer)
            took = [float(v) for v in json.loads(line(answerer))]
            tell(learner)
            found = json.loads(line(learner))
            return took, float(found["rate"]), int(found["wrong"])


def two_processes(times: int, seconds: float, preemptions: int) -> list[str]:
    """Print the table; return what does not hold."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(dir=SHM) as name, tempfile.TemporaryDirectory() as library:
        page = ControlPage.create(Path(name) / "page", built(Path(library)))
        plain, gated = Sharing(None), Sharing(page)
        page.rule(Mode.STALL)
        for kernel_us in (50, 200, 1000):
            bare = plain.alone(kernel_us, 1, seconds)
            for every in (8, 1):
                page.rule(Mode.STALL, gate_every=every)
                shimmed = gated.alone(kernel_us, 1, seconds)
                told = f"T {kernel_us} us alone: {bare:.0f} kernels/s, with a wait before every"
                print(f"{told} {every}th launch {shimmed:.0f} ({shimmed / bare - 1:+.1%})")
            page.rule(Mode.STALL | Mode.YIELD)
            able = gated.alone(kernel_us, 1, seconds)
            print(f"T {kernel_us} us alone, able to yield: {able:.0f} ({able / bare - 1:+.1%})")
            if shimmed < 0.97 * bare and kernel_us >= 200:
                wrong.append(f"T {kernel_us}: alone it is 3 % slower with the shim, at most")
        slot = page.slot(0)
        print(
            f"launches {slot.launched}, behind the gate {slot.gated}; {complaint(slot) or 'well'}"
        )
        if not slot.gated:
            wrong.append("this driver lets a stream wait for a word of registered memory")
        base_us = statistics.median(gated.real_time_alone(times))
        for kernel_us, waves in ((50, 8), (200, 1), (200, 8), (1000, 1)):
            wrong += _compare(page, base_us, (kernel_us, waves), times)
        for kernel_us in (50, 200):
            wrong += _graphs(page, base_us, kernel_us, times)
        wrong += preempted(page, preemptions, 200)
    return wrong


def preempted(
    page: ControlPage, times: int, block_us: int, blocks: int = 0, threads: int = 1024
) -> list[str]:
    """Preempt a program so many times, at moments drawn from a seed; what does not hold of it."""
    page.rule(Mode.STALL | Mode.YIELD)
    shape, draw, wrong = (block_us, blocks, threads), random.Random(6), list[str]()
    with running("learn", *shape, 0, env=Sharing(page).env(0, Class.BE)) as process:
        before, most_s = page.slot(0).mended, time.monotonic() + LINE_S
        while (found := page.slot(0).mended - before) < times and time.monotonic() < most_s:
            page.close_gate()
            time.sleep(draw.uniform(0.0, 4e-6 * block_us))
            page.open_gate()
            time.sleep(draw.uniform(0.0, 16e-6 * block_us))
        tell(process)
        there = json.loads(line(process))
    with running("learn", *shape, there["steps"], env={}) as process:
        alone = json.loads(line(process))
    same = "the same" if there == alone else "not the same"
    print(f"{there['steps']} steps, torn and whole again {found} times: {same} to the bit as alone")
    if found < times:
        wrong.append(f"a program is preempted {times} times within {LINE_S:g} s ({found})")
    if there != alone:
        wrong.append("a preempted program computes what it does alone")
    return wrong


def _compare(page: ControlPage, base_us: float, kernel: tuple[int, int], times: int) -> list[str]:
    wrong, p99 = [], dict[str, float]()
    cases: dict[str, Sharing] = {"plain": Sharing(None)}
    every = {f"gate, every {n}": n for n in (8, 4, 2, 1)}
    cases |= {title: Sharing(page) for title in (*every, YIELD)}
    for title, sharing in cases.items():
        mode = Mode.STALL | Mode.YIELD if title == YIELD else Mode.STALL
        page.rule(mode, gate_every=every.get(title, 1))
        took, rate, off = sharing.beside(*kernel, times)
        p99[title] = quantile(took, 0.99) - base_us
        told = f"two processes, T {kernel[0]} us, {kernel[1]} waves, {title}:"
        print(
            f"{told} + p50 {statistics.median(took) - base_us:.0f}, p99 {p99[title]:.0f} us;"
            f" {rate:.0f} kernels/s beside"
        )
        if off:
            wrong.append(f"{told} each block runs once ({off:+d})")
    if p99["gate, every 1"] >= p99["plain"]:
        wrong.append(f"T {kernel[0]}, {kernel[1]} waves: the gate is better than plain sharing")
    if p99["gate, every 1"] > kernel[0] * kernel[1] + GATE_MOST_US:
        wrong.append(
            f"T {kernel[0]}, {kernel[1]} waves: the gate's p99 is one kernel and"
            f" {GATE_MOST_US} us at most"
        )
    if p99[YIELD] > kernel[0] + YIELD_MOST_US:
        wrong.append(
            f"T {kernel[0]}, {kernel[1]} waves: where blocks yield, p99 is one block and"
            f" {YIELD_MOST_US} us at most"
        )
    return wrong


def _graphs(page: ControlPage, base_us: float, kernel_us: int, times: int) -> list[str]:
    """Graphs of DEPTH kernels: what the waits in them cost, and when they let others pass."""
    page.rule(Mode.STALL)
    plain, gated = Sharing(None, graph=True), Sharing(page, graph=True)
    p99, alone = dict[str, float](), dict[str, float]()
    for title, sharing in {"plain": plain, "gate": gated}.items():
        alone[title] = sharing.alone(kernel_us, 1, 1.0)
        took, rate, _ = sharing.beside(kernel_us, 1, times)
        p99[title] = quantile(took, 0.99) - base_us
        print(
            f"graphs of {DEPTH} kernels of {kernel_us} us, {title}: alone {alone[title]:.0f}"
            f" kernels/s; beside, + p50 {statistics.median(took) - base_us:.0f},"
            f" p99 {p99[title]:.0f} us, {rate:.0f} kernels/s"
        )
    if p99["gate"] > kernel_us + GATE_MOST_US:
        return [f"graphs of {kernel_us} us: p99 is one kernel and {GATE_MOST_US} us at most"]
    return []


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("be", "rt", "learn"))
    parser.add_argument("numbers", type=int, nargs="+")
    args = parser.parse_args()
    if args.role == "be":
        best_effort(*args.numbers)
    elif args.role == "learn":
        learn(*args.numbers)
    else:
        real_time(*args.numbers)


if __name__ == "__main__":
    main()
