"""Pairs of kernels made one grid in the background: fused here, compiled by the driver, which keeps
on disk what it has compiled.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from singularity.agent.device.fuser import Side, fuse
from singularity.agent.device.kernels import Footprint
from singularity.primitives.errors import DeviceFailed

_SHARED, _LOCAL, _REGISTERS = 1, 3, 4  # attributes of a function
_NAME: Final = "reef_fused"
Names = tuple[str, str]  # of the real-time and the best-effort kernel


@dataclass(frozen=True, slots=True)
class Pair:
    """A function of a loaded module, launched as device/fuser.py says."""

    function: int
    threads: int
    rt_parameters: int
    footprint: Footprint


class Pairs:
    """`call` calls the driver and raises DeviceFailed; `context` is where modules are loaded."""

    def __init__(self, call: Callable[..., None], context: ctypes.c_void_p) -> None:
        self._call = call
        self._pool = ThreadPoolExecutor(
            1, "fuser", initializer=call, initargs=("cuCtxSetCurrent", context)
        )
        self._begun: dict[Names, Future[Pair | None]] = {}
        self.made: dict[Names, Pair] = {}

    def begin(self, names: Names, rt: Side, be: Side) -> None:
        self._begun[names] = self._pool.submit(self._make, rt, be)

    def heard(self) -> Iterator[tuple[Names, Pair | None]]:
        """What has come out since last time; None: these two cannot be one grid, or not without
        memory in place of registers."""
        for names in [names for names, future in self._begun.items() if future.done()]:
            made = self._begun.pop(names).result()
            if made is not None:
                self.made[names] = made
            yield names, made

    def slice_of(self, kernel: str) -> Pair | None:
        """Any pair with this best-effort kernel: with a split of 0 it runs a part of that alone."""
        return next((pair for (_, be), pair in self.made.items() if be == kernel), None)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _make(self, rt: Side, be: Side) -> Pair | None:
        fused, _ = fuse(rt, be, _NAME)
        if fused is None:
            return None
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            image = ctypes.c_char_p(fused.text.encode())
            self._call("cuModuleLoadData", ctypes.byref(module), image)
            self._call("cuModuleGetFunction", ctypes.byref(function), module, _NAME.encode())
            if self._attribute(function, _LOCAL):
                return None
            registers = self._attribute(function, _REGISTERS) * fused.threads
            shared = self._attribute(function, _SHARED)
        except DeviceFailed:
            return None  # what the driver does not compile is not padded
        takes = Footprint(fused.threads, registers, shared)
        return Pair(function.value or 0, fused.threads, fused.parameters[0], takes)

    def _attribute(self, function: ctypes.c_void_p, which: int) -> int:
        value = ctypes.c_int()
        self._call("cuFuncGetAttribute", ctypes.byref(value), which, function)
        return value.value
