"""What a program of `device_gpu_shim.py` does with the GPU: it knows nothing of a gate."""

from __future__ import annotations

import ctypes
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.standin.ptx_kernels import WORK

RT_US, DEPTH = 50, 16
BLOCKS = 2  # of 1,024 threads, that fill a processor
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
        self._graph = ctypes.c_void_p()

    def capture(self) -> None:
        """From now on `launch_many` launches one graph of so many kernels."""
        made, thread_only = ctypes.c_void_p(), 1
        self._do("cuStreamBeginCapture_v2", self._stream, thread_only)
        self.launch_many()
        self._do("cuStreamEndCapture", self._stream, ctypes.byref(made))
        flags = ctypes.c_ulonglong(0)
        self._do("cuGraphInstantiateWithFlags", ctypes.byref(self._graph), made, flags)

    def launch_many(self) -> None:
        """DEPTH kernels."""
        if self._graph:
            self._do("cuGraphLaunch", self._graph, self._stream)
            return
        for _ in range(DEPTH):
            self.launch()

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
