"""A program that uses a CUDA driver and knows nothing of who shares its device.

    cuda_client.py HOW WHAT [NUMBER ...]

HOW it finds the driver's functions: `dlsym`, `address` (cuGetProcAddress), `thread` (the same, for
per-thread streams), or `hidden`, by an arithmetic that nobody can see. WHAT it does is a function
below. It says `up` when it has begun, and then reads a line where it waits for somebody.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from pathlib import Path

DRIVER = ctypes.CDLL("libcuda.so.1")


def hidden(name: str) -> int:
    """Where a function of the driver is, from its place in the file and where another one is."""
    path = next(
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libcuda" in line
    )
    listed = subprocess.run(["nm", "-D", path], capture_output=True, text=True, check=True).stdout
    at = {
        fields[2]: int(fields[0], 16)
        for line in listed.splitlines()
        if len(fields := line.split()) == 3
    }
    known = ctypes.cast(DRIVER.cuInit, ctypes.c_void_p).value
    assert known is not None
    return known + at[name] - at["cuInit"]


def launcher(how: str):
    if how == "dlsym":
        return DRIVER.cuLaunchKernel
    if how == "hidden":
        return ctypes.CFUNCTYPE(ctypes.c_int)(hidden("cuLaunchKernel"))
    found, flags = ctypes.c_void_p(), 2 if how == "thread" else 0
    code = DRIVER.cuGetProcAddress_v2(
        b"cuLaunchKernel", ctypes.byref(found), 12080, ctypes.c_uint64(flags), None
    )
    assert not code
    return ctypes.CFUNCTYPE(ctypes.c_int)(found.value)


class Stream:
    def __init__(self, how: str, kernel: bytes = b"plain") -> None:
        ok(DRIVER.cuInit(0))
        self._launch = launcher(how)
        self.handle, module, self._kernel = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        ok(DRIVER.cuStreamCreate(ctypes.byref(self.handle), 0))
        if how == "thread":
            self.handle = ctypes.c_void_p()
        ok(DRIVER.cuModuleLoadData(ctypes.byref(module), b"x"))
        ok(DRIVER.cuModuleGetFunction(ctypes.byref(self._kernel), module, kernel))

    def launch(self, blocks: int, wave_us: int, *memory: int) -> None:
        values = [ctypes.c_uint64(value) for value in (wave_us, *memory)]
        kept = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        one, none = ctypes.c_uint(1), ctypes.c_uint(0)
        grid = (ctypes.c_uint(blocks), one, one)
        ok(self._launch(self._kernel, *grid, one, one, one, none, self.handle, kept, None))

    def wait(self) -> None:
        ok(DRIVER.cuStreamSynchronize(self.handle))


def ok(code: int) -> None:
    assert code == 0, f"the driver says {code}"


def train(how: str, depth: int, blocks: int, wave_us: int) -> None:
    """Launch `depth` kernels and wait for them, until a line comes; then say how many in all."""
    stream, launched = Stream(how), 0
    print("up", flush=True)
    import select

    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(depth):
            stream.launch(blocks, wave_us)
        launched += depth
        stream.wait()
    print(launched, flush=True)


def some(how: str, count: int) -> None:
    stream = Stream(how)
    for _ in range(count):
        stream.launch(4, 50)
        stream.wait()
    print("up", flush=True)
    sys.stdin.readline()


def answer(how: str, kernels: int, wave_us: int) -> None:
    """For each line, an inference: say when its first launch had returned and when all had run."""
    stream = Stream(how)
    print("up", flush=True)
    for _ in sys.stdin:
        for number in range(kernels):
            stream.launch(8, wave_us)
            if not number:
                began_ns = time.monotonic_ns()
        stream.wait()
        print(began_ns, time.monotonic_ns(), flush=True)


def memory(how: str) -> None:
    """Say the codes of two allocations of 600,000 bytes, for one kind of memory after another."""
    Stream(how)
    found, size, zero = ctypes.c_uint64(), ctypes.c_size_t(600_000), ctypes.c_ulonglong(0)
    left, total = ctypes.c_size_t(), ctypes.c_size_t()
    kinds = {
        "Alloc_v2": ((), "Free_v2"),
        "AllocManaged": ((ctypes.c_uint(1),), "Free_v2"),
        "AllocAsync": ((None,), "FreeAsync"),
        "Create": ((None, zero), "Release"),
    }
    for kind, (more, free) in kinds.items():
        take = getattr(DRIVER, f"cuMem{kind}")
        codes = [take(ctypes.byref(found), size, *more)]
        first = ctypes.c_uint64(found.value)
        codes.append(take(ctypes.byref(found), size, *more))
        ok(DRIVER.cuMemGetInfo_v2(ctypes.byref(left), ctypes.byref(total)))
        print(kind, *codes, left.value, total.value, flush=True)
        ok(getattr(DRIVER, f"cuMem{free}")(first, *((None,) if free == "FreeAsync" else ())))
    codes = [DRIVER.cuMemAlloc_v2(ctypes.byref(found), size)]
    print("up", *codes, flush=True)
    sys.stdin.readline()


def hold(how: str, count_bytes: int) -> None:
    """Take memory, then launch and ask for as much again, for ever."""
    stream, found, size = Stream(how), ctypes.c_uint64(), ctypes.c_size_t(count_bytes)
    ok(DRIVER.cuMemAlloc_v2(ctypes.byref(found), size))
    print("up", flush=True)
    while True:
        stream.launch(4, 50)
        stream.wait()
        assert DRIVER.cuMemAlloc_v2(ctypes.byref(found), size) == 2
        time.sleep(0.01)


def exact(how: str, blocks: int, wave_us: int) -> None:
    """Launch a grid that can yield and another behind it. On the first line the flag is raised; on
    the second the grid's other blocks are run, past the gate; on the third, say the counts."""
    stream, mender = Stream(how, b"exact"), Stream("hidden", b"exact")
    control, bits = (ctypes.c_uint32 * 2)(), (ctypes.c_uint32 * (blocks // 32 + 1))()
    counts, behind = (ctypes.c_uint32 * blocks)(), (ctypes.c_uint32 * blocks)()
    at = [ctypes.addressof(word) for word in (control, bits, counts)]
    stream.launch(blocks, wave_us, *at)
    stream.launch(blocks, wave_us, 0, 0, ctypes.addressof(behind))
    print("up", flush=True)
    sys.stdin.readline()
    control[0] = 1
    while control[1] + sum(counts) < blocks:
        time.sleep(0.001)
    print(control[1], sum(counts), sum(behind), flush=True)
    sys.stdin.readline()
    control[0] = 2
    mender.launch(blocks, wave_us, *at)
    mender.wait()
    control[0] = 0
    print(min(counts), max(counts), sum(behind), flush=True)
    sys.stdin.readline()
    stream.wait()
    print(min(counts), max(counts), min(behind), max(behind), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[2]](sys.argv[1], *map(int, sys.argv[3:]))
