"""A program that uses a CUDA driver and knows nothing of who shares its device.

    cuda_client.py HOW WHAT [NUMBER ...]

HOW it finds the driver's functions: `dlsym`, `address` (cuGetProcAddress), `thread` (the same, for
per-thread streams), or `hidden`, by an arithmetic that nobody can see. WHAT it does is a function
below. It says `up` when it has begun, and then reads a line where it waits for somebody.
"""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from ptx_kernels import CHECK, WORK, after

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
    def __init__(self, how: str, image: bytes = b"x") -> None:
        ok(DRIVER.cuInit(0))
        self._launch, self._how = launcher(how), how
        self.handle, self._module = ctypes.c_void_p(), ctypes.c_void_p()
        ok(DRIVER.cuStreamCreate(ctypes.byref(self.handle), 0))
        if how == "thread":
            self.handle = ctypes.c_void_p()
        self._kernel = kernel(image)

    def launch(self, blocks: int, wave_us: int) -> None:
        self.start(self._kernel, (blocks, 1, 1), 1, ctypes.c_uint64(wave_us))

    def start(self, function, grid: tuple[int, ...], threads: int, *values) -> None:
        kept = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        shape = [ctypes.c_uint(number) for number in (*grid, threads, 1, 1, 0)]
        ok(self._launch(function, *shape, self.handle, kept, None))

    def wait(self) -> None:
        ok(DRIVER.cuStreamSynchronize(self.handle))


def kernel(image: bytes, name: bytes = b"plain") -> ctypes.c_void_p:
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    ok(DRIVER.cuModuleLoadData(ctypes.byref(module), image))
    ok(DRIVER.cuModuleGetFunction(ctypes.byref(function), module, name))
    return function


def ok(code: int) -> None:
    assert code == 0, f"the driver says {code}"


def train(how: str, depth: int, blocks: int, wave_us: int) -> None:
    """Launch `depth` kernels and wait for them, until a line comes; then say how many in all."""
    stream, launched = Stream(how), 0
    print("up", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(depth):
            stream.launch(blocks, wave_us)
        launched += depth
        stream.wait()
    print(launched, flush=True)


def graph(how: str, depth: int, blocks: int, wave_us: int) -> None:
    """The same, with the `depth` kernels captured once and launched as one graph."""
    stream, launched, made, whole = Stream(how), 0, ctypes.c_void_p(), ctypes.c_void_p()
    ok(DRIVER.cuStreamBeginCapture_v2(stream.handle, 0))
    for _ in range(depth):
        stream.launch(blocks, wave_us)
    ok(DRIVER.cuStreamEndCapture(stream.handle, ctypes.byref(made)))
    ok(DRIVER.cuGraphInstantiateWithFlags(ctypes.byref(whole), made, ctypes.c_ulonglong(0)))
    print("up", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        ok(DRIVER.cuGraphLaunch(whole, stream.handle))
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
    """Say the codes of two allocations of 600,000 bytes, for one kind of memory after another, and
    what is left; then what is free again when the device is reset."""
    Stream(how)
    found, size, zero = ctypes.c_uint64(), ctypes.c_size_t(600_000), ctypes.c_ulonglong(0)
    left, total, whole = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_size_t()
    one, pitch = ctypes.c_uint(1), ctypes.c_size_t()
    rows = (ctypes.byref(pitch), ctypes.c_size_t(1000), ctypes.c_size_t(585), one)  # of 1,024
    flat, deep = shape(6000, 100), shape(600, 100, 10)
    kinds = {
        "MemAlloc_v2": ((size,), "MemFree_v2"),
        "MemAllocManaged": ((size, one), "MemFree_v2"),
        "MemAllocPitch_v2": (rows, "MemFree_v2"),
        "MemAllocAsync": ((size, None), "MemFreeAsync"),
        "MemAllocFromPoolAsync": ((size, ctypes.byref(size), None), "MemFreeAsync"),
        "MemCreate": ((size, None, zero), "MemRelease"),
        "ArrayCreate_v2": ((flat,), "ArrayDestroy"),
        "Array3DCreate_v2": ((deep,), "ArrayDestroy"),
        "MipmappedArrayCreate": ((deep, one), "MipmappedArrayDestroy"),
    }
    for kind, (more, free) in kinds.items():
        take = getattr(DRIVER, f"cu{kind}")
        codes = [take(ctypes.byref(found), *more)]
        first = ctypes.c_uint64(found.value)
        codes.append(take(ctypes.byref(found), *more))
        ok(DRIVER.cuMemGetInfo_v2(ctypes.byref(left), ctypes.byref(total)))
        print(kind, *codes, left.value, total.value, flush=True)
        ok(getattr(DRIVER, f"cu{free}")(first, *((None,) if free == "MemFreeAsync" else ())))
    ok(DRIVER.cuDeviceTotalMem_v2(ctypes.byref(whole), 0))
    codes = [DRIVER.cuMemAlloc_v2(ctypes.byref(found), size), DRIVER.cuDevicePrimaryCtxReset_v2(0)]
    codes.append(DRIVER.cuMemAlloc_v2(ctypes.byref(found), size))
    host = (ctypes.c_int * 4)(1, 0, 2, 0)  # pinned, on the host
    codes.append(DRIVER.cuMemCreate(ctypes.byref(found), size, host, zero))
    print("up", *codes, whole.value, flush=True)
    sys.stdin.readline()


def keep(how: str, count_bytes: int) -> None:
    """For each line take so much memory, or, for `fork`, have a child take it, which then ends; say
    the code, and what is left."""
    Stream(how)
    print("up", flush=True)
    for line in sys.stdin:
        if line.strip() == "fork" and (child := os.fork()):
            os.waitpid(child, 0)
            continue
        found, left, total = ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_size_t()
        code = DRIVER.cuMemAlloc_v2(ctypes.byref(found), ctypes.c_size_t(count_bytes))
        ok(DRIVER.cuMemGetInfo_v2(ctypes.byref(left), ctypes.byref(total)))
        print(code, left.value, total.value, flush=True)
        if line.strip() == "fork":
            os._exit(0)


def shape(*size: int) -> ctypes.Array[ctypes.c_size_t]:
    """Of an array of bytes with one channel."""
    return (ctypes.c_size_t * (len(size) + 2))(*size, 1 | 1 << 32)


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


# WORK, as a program for NVRTC: a block sleeps, then changes its numbers.
SOURCE = """
extern "C" __global__ void work(unsigned *numbers, unsigned number, unsigned ns) {
    unsigned row = blockIdx.z * gridDim.y + blockIdx.y;
    unsigned at = (row * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;
    __nanosleep(ns);
    __syncthreads();
    numbers[at] = 5 * numbers[at] + number;
}
"""


def made_by_nvrtc(arch: str) -> bytes:
    """SOURCE as $CLIENT_NVRTC compiles it: machine code for sm_80, PTX for compute_80. The stand-in
    takes PTX for source. $CLIENT_LINKED is a library that asks for the code in our stead."""
    nvrtc, made = ctypes.CDLL(os.environ["CLIENT_NVRTC"]), ctypes.c_void_p()
    linked, size = os.environ.get("CLIENT_LINKED"), ctypes.c_size_t()
    text = (WORK if "99" in os.environ["CLIENT_NVRTC"] else SOURCE).encode()
    ok(nvrtc.nvrtcCreateProgram(ctypes.byref(made), text, b"work.cu", 0, None, None))
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture={arch}".encode())
    ok(nvrtc.nvrtcCompileProgram(made, 1, options))
    kind = "CUBIN" if arch.startswith("sm") else "PTX"
    ok(getattr(nvrtc, f"nvrtcGet{kind}Size")(made, ctypes.byref(size)))
    found = ctypes.create_string_buffer(size.value)
    take = ctypes.CDLL(linked).linked if linked else getattr(nvrtc, f"nvrtcGet{kind}")
    ok(take(made, found))
    return found.raw


def work(how: str, depth: int, blocks: int, wave_ns: int, threads: int = 4) -> None:
    toil(how, kernel(WORK.encode(), b"work"), (depth, blocks, wave_ns, threads))


def work_of_library(how: str, depth: int, blocks: int, wave_ns: int, by_kernel: int) -> None:
    """As CUDA's own runtime has its kernels since version 12, or by their handle in a context."""
    library, found, of_context = (ctypes.c_void_p() for _ in range(3))
    image, none = WORK.encode(), ctypes.c_uint(0)
    ok(DRIVER.cuLibraryLoadData(ctypes.byref(library), image, None, None, none, None, None, none))
    ok(DRIVER.cuLibraryGetKernel(ctypes.byref(found), library, b"work"))
    ok(DRIVER.cuKernelSetAttribute(8, 0, found, 0))
    ok(DRIVER.cuKernelGetFunction(ctypes.byref(of_context), found))
    toil(how, found if by_kernel else of_context, (depth, blocks, wave_ns, 4))
    ok(DRIVER.cuLibraryUnload(library))


def work_of_code(how: str, depth: int, blocks: int, wave_ns: int) -> None:
    toil(how, kernel(made_by_nvrtc("sm_80"), b"work"), (depth, blocks, wave_ns, 4))


def work_of_text(how: str, depth: int, blocks: int, wave_ns: int) -> None:
    toil(how, kernel(made_by_nvrtc("compute_80"), b"work"), (depth, blocks, wave_ns, 4))


def toil(how: str, working: ctypes.c_void_p, shape: tuple[int, int, int, int]) -> None:
    """Until a line comes, launch `depth` kernels that change numbers in place, each with one behind
    it that cannot yield and looks whether all of it has run; then say how many were launched, how
    many numbers that one found wrong, and how many are wrong in the end."""
    depth, blocks, wave_ns, threads = shape
    stream, launched, grid = Stream(how), 0, (blocks // 2 or 1, 2, 1)
    numbers, wrong = (ctypes.c_uint32 * (grid[0] * 2 * threads))(), ctypes.c_uint32()
    at, sum_at = (
        ctypes.c_uint64(ctypes.addressof(numbers)),
        ctypes.c_uint64(ctypes.addressof(wrong)),
    )
    checking = kernel(CHECK.encode(), b"check")
    print("up", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(depth):
            launched += 1
            values = (at, ctypes.c_uint32(launched), ctypes.c_uint32(wave_ns))
            stream.start(working, grid, threads, *values)
            goal = ctypes.c_uint32(after(launched))
            stream.start(checking, grid, threads, at, goal, sum_at)
        stream.wait()
    left = sum(number != after(launched) for number in numbers)
    print(launched, wrong.value, left, flush=True)


if __name__ == "__main__":
    globals()[sys.argv[2]](sys.argv[1], *map(int, sys.argv[3:]))
