"""Two processes on one GPU, each with what an agent would load into it: how much longer a real-time
kernel takes beside best-effort ones, how much of its pace those keep, and whether each of their
blocks ran once; and whether one that was preempted a thousand times has computed, to the bit, what
it does alone. The programs know nothing of each other, nor of the gate.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
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
from typing import Any

from device_model import quantile

sys.path.insert(0, str(Path(__file__).parents[1]))

from singularity.agent.shim.build import built
from singularity.agent.shim.page import Class, ControlPage, Mode, complaint
from tests.standin.ptx_kernels import WORK

RT_US, DEPTH, LINE_S = 50, 16, 120.0
YIELD, YIELD_MOST_US = "gate, blocks yield", 25
BLOCKS = 2  # of 1,024 threads, that fill a processor
SHM = "/dev/shm"  # the kernel lets no driver keep pages of files on disks
# Spins for so many microseconds; the first thread of each block then adds one.
SPIN = """
.version 7.0
.target sm_70
.address_size 64
.visible .entry spin(.param .u64 us, .param .u64 counter)
{
	.reg .pred %p<3>;
	.reg .b32 %r<2>;
	.reg .b64 %d<7>;
	ld.param.u64 %d0, [us];
	mul.lo.u64 %d1, %d0, 1000;
	mov.u64 %d2, %globaltimer;
	add.u64 %d3, %d2, %d1;
$again:
	mov.u64 %d4, %globaltimer;
	setp.lt.u64 %p0, %d4, %d3;
	@%p0 bra $again;
	mov.u32 %r0, %tid.x;
	setp.ne.u32 %p1, %r0, 0;
	@%p1 bra $end;
	ld.param.u64 %d5, [counter];
	red.global.add.u64 [%d5], 1;
$end:
	ret;
}
"""


class Program:
    """A kernel that spins, on a stream of this process's own."""

    def __init__(self, kernel_us: int, waves: int) -> None:
        self._cuda: Any = ctypes.CDLL("libcuda.so.1")
        device, context, units = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
        self._stream, module, self._spin = (ctypes.c_void_p() for _ in range(3))
        self._counter, name = ctypes.c_uint64(), ctypes.create_string_buffer(64)
        self._do("cuInit", 0)
        self._do("cuDeviceGet", ctypes.byref(device), 0)
        self._do("cuDeviceGetName", name, 64, device)
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._do("cuCtxSetCurrent", context)
        self._do("cuDeviceGetAttribute", ctypes.byref(units), 16, device)
        self._do("cuStreamCreate", ctypes.byref(self._stream), 1)
        self._do("cuModuleLoadData", ctypes.byref(module), SPIN.encode())
        self._do("cuModuleGetFunction", ctypes.byref(self._spin), module, b"spin")
        self._do("cuMemAlloc_v2", ctypes.byref(self._counter), ctypes.c_size_t(8))
        self.counts = name.value != b"stand-in"  # that runs no code
        if self.counts:
            self._do("cuMemsetD32_v2", self._counter, 0, ctypes.c_size_t(2))
        self.blocks = BLOCKS * units.value * waves
        values = ctypes.c_uint64(kernel_us), self._counter
        self._arguments = (ctypes.c_void_p * 2)(*map(ctypes.addressof, values))
        self._kept = values

    def launch(self) -> None:
        grid, threads = (self.blocks, 1, 1), (1024, 1, 1)
        self._do(
            "cuLaunchKernel", self._spin, *grid, *threads, 0, self._stream, self._arguments, None
        )

    def wait(self) -> None:
        self._do("cuStreamSynchronize", self._stream)

    def ran(self) -> int:
        """Blocks, by their own count."""
        found = ctypes.c_uint64()
        self._do("cuMemcpyDtoH_v2", ctypes.byref(found), self._counter, ctypes.c_size_t(8))
        return found.value

    def learner(self, blocks: int, threads: int) -> Learner:
        """On the same stream."""
        module, learn, numbers = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
        size = ctypes.c_size_t(4 * blocks * threads)
        self._do("cuModuleLoadData", ctypes.byref(module), WORK.encode())
        self._do("cuModuleGetFunction", ctypes.byref(learn), module, b"work")
        self._do("cuMemAlloc_v2", ctypes.byref(numbers), size)
        self._do("cuMemsetD8Async", numbers, 0, size, self._stream)
        return Learner(self, learn, numbers, blocks, threads)

    def launch_learn(self, learner: Learner, step: int, block_ns: int) -> None:
        values = learner.numbers, ctypes.c_uint32(step), ctypes.c_uint32(block_ns)
        arguments = (ctypes.c_void_p * 3)(*map(ctypes.addressof, values))
        grid, threads = (learner.blocks, 1, 1), (learner.threads, 1, 1)
        self._do("cuLaunchKernel", learner.learn, *grid, *threads, 0, self._stream, arguments, None)

    def read(self, learner: Learner) -> bytes:
        found = ctypes.create_string_buffer(4 * learner.blocks * learner.threads)
        size = ctypes.c_size_t(len(found))
        self._do("cuMemcpyDtoHAsync_v2", found, learner.numbers, size, self._stream)
        self.wait()
        return found.raw

    def _do(self, name: str, *arguments: object) -> None:
        if code := getattr(self._cuda, name)(*arguments):
            raise SystemExit(f"{name} ended with {code}")


def best_effort(kernel_us: int, waves: int) -> None:
    """Launch and wait, until a line comes; then kernels a second, and blocks that are off."""
    program, launched = Program(kernel_us, waves), 0
    program.launch()
    program.wait()
    print("up", flush=True)
    began_s = time.monotonic()
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(DEPTH):
            program.launch()
        program.wait()
        launched += DEPTH
    took_s = time.monotonic() - began_s
    wrong = program.ran() - (launched + 1) * program.blocks if program.counts else 0
    print(json.dumps({"rate": launched / took_s, "wrong": wrong}), flush=True)


@dataclass
class Learner:
    """A program's numbers, and the kernel that changes them."""

    program: Program
    learn: ctypes.c_void_p
    numbers: ctypes.c_uint64
    blocks: int
    threads: int

    def step(self, step: int, block_us: int) -> None:
        self.program.launch_learn(self, step, block_us * 1000)

    def digest(self) -> str:
        return hashlib.sha256(self.program.read(self)).hexdigest()


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
    """Of two processes with the shim, at `page`; or without it."""

    page: ControlPage | None

    def env(self, slot: int, kind: Class) -> Mapping[str, str]:
        if self.page is None:
            return {}
        self.page.sweep()  # one that was killed may have left the gate closed
        return self.page.admit(slot, kind)

    def alone(self, kernel_us: int, waves: int, seconds: float) -> float:
        with running("be", kernel_us, waves, env=self.env(0, Class.BE)) as process:
            time.sleep(seconds)
            tell(process)
            return float(json.loads(line(process))["rate"])

    def real_time_alone(self, times: int) -> list[float]:
        with running("rt", times, env=self.env(1, Class.RT)) as process:
            tell(process)
            return [float(v) for v in json.loads(line(process))]

    def beside(self, kernel_us: int, waves: int, times: int) -> tuple[list[float], float, int]:
        """Microseconds of the real-time kernels, the others' rate, and what is wrong with them."""
        with (
            running("be", kernel_us, waves, env=self.env(0, Class.BE)) as learner,
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
    if p99[YIELD] > kernel[0] + YIELD_MOST_US:
        wrong.append(
            f"T {kernel[0]}, {kernel[1]} waves: where blocks yield, p99 is one block and"
            f" {YIELD_MOST_US} us at most"
        )
    return wrong


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
