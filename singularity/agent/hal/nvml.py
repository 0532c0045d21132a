"""NVIDIA's management library: which GPUs there are and how they are. Loaded when it is asked."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from singularity.primitives.errors import DeviceUnavailable

from .faces import DeviceFacts

_LIBRARY: Final = "libnvidia-ml.so.1"
_NEEDED: Final = (
    "nvmlInit_v2",
    "nvmlShutdown",
    "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
)
_TEXT_BYTES: Final = 96
_SHARING_LEAST: Final = 525  # the first that lets any stream wait for a word of memory
_YIELD_LEAST: Final = 550  # CUDA 12.4: cuFuncGetParamInfo
_GPU_TEMPERATURE: Final = 0
_UNCORRECTED, _SINCE_BOOT = 1, 0  # of memory errors
_PROCESSES: Final = 256  # on one device, of whom it is asked
_NOT_TOLD: Final = (1 << 64) - 1
_READ: Final = 0  # of what one device may do with another's memory


def release(driver: str) -> int | None:
    """The number that a driver's version begins with; None for a version that is like no other."""
    first = driver.partition(".")[0]
    return int(first) if first.isascii() and first.isdigit() else None


def unfit(driver: str) -> str:
    """Why GPUs cannot be shared by a driver of that version, "" where they can."""
    if (found := release(driver)) is None:
        return f"the NVIDIA driver calls itself {driver!r}, which is no version that is known"
    if found < _SHARING_LEAST:
        return f"the NVIDIA driver {driver} lets no stream wait; sharing needs {_SHARING_LEAST}"
    return ""


def unyielding(driver: str) -> str:
    """Why kernels cannot be left block by block on a driver of that version that shares; "" where
    they can."""
    if (release(driver) or 0) < _YIELD_LEAST:
        return (
            f"SINGULARITY_SHARE_YIELD needs driver {_YIELD_LEAST} or later: {driver} does not say "
            "where the parameters of a kernel lie; update it, or unset that"
        )
    return ""


class _Memory(ctypes.Structure):
    _fields_ = (*((n, ctypes.c_ulonglong) for n in ("total", "free", "used")),)


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("instances", ctypes.c_uint * 2),
    )


class _Utilisation(ctypes.Structure):
    _fields_ = (*((n, ctypes.c_uint) for n in ("gpu", "memory")),)


class Nvml:
    """An open session. What a device does not tell is None or empty; it is never guessed."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def devices(self) -> tuple[DeviceFacts, ...]:
        count = ctypes.c_uint()
        if code := self._library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            raise DeviceUnavailable(f"NVML does not count the GPUs: error {code}")
        handles = [self._handle(index) for index in range(count.value)]
        return tuple(self._facts(index, handles) for index in range(len(handles)))

    def driver(self) -> str:
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        code = self._library.nvmlSystemGetDriverVersion(text, _TEXT_BYTES)
        return "" if code else text.value.decode(errors="replace")

    def held(self, index: int) -> Mapping[int, int]:
        """Bytes of a device that each process has, by its id; those of whom it is told."""
        found, count = (_Process * _PROCESSES)(), ctypes.c_uint(_PROCESSES)
        name = "GetComputeRunningProcesses_v3"
        if self._call(name, self._handle(index), ctypes.byref(count), found):
            return {}
        told = (p for p in found[: count.value] if p.used_bytes != _NOT_TOLD)
        return {p.pid: p.used_bytes for p in told}

    def _handle(self, index: int) -> ctypes.c_void_p:
        found = ctypes.c_void_p()
        if code := self._library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(found)):
            raise DeviceUnavailable(f"NVML does not open GPU {index}: error {code}", index=index)
        return found

    def _facts(self, index: int, handles: list[ctypes.c_void_p]) -> DeviceFacts:
        handle, memory, use = handles[index], _Memory(), _Utilisation()
        uuid, name = self._text("GetUUID", handle), self._text("GetName", handle)
        degrees = ctypes.c_uint()
        if self._call("GetMemoryInfo", handle, ctypes.byref(memory)):
            raise DeviceUnavailable(f"NVML does not tell the memory of GPU {index}", index=index)
        busy = self._call("GetUtilizationRates", handle, ctypes.byref(use))
        warm = self._call("GetTemperature", handle, _GPU_TEMPERATURE, ctypes.byref(degrees))
        return DeviceFacts(
            index=index,
            uuid=uuid,
            name=name,
            memory_bytes=memory.total,
            used_bytes=memory.used,
            utilisation=None if busy else min(1.0, use.gpu / 100),
            temperature_c=None if warm else degrees.value,
            health=self._health(handle),
            links=tuple(i for i, o in enumerate(handles) if i != index and self._reach(handle, o)),
        )

    def _health(self, handle: ctypes.c_void_p) -> str:
        errors = ctypes.c_ulonglong()
        asked = (_UNCORRECTED, _SINCE_BOOT, ctypes.byref(errors))
        if self._call("GetTotalEccErrors", handle, *asked) or not errors.value:
            return ""
        return f"{errors.value} uncorrected memory errors since the last boot"

    def _reach(self, one: ctypes.c_void_p, other: ctypes.c_void_p) -> bool:
        status = ctypes.c_uint(1)
        return not self._call("GetP2PStatus", one, other, _READ, ctypes.byref(status)) and (
            status.value == 0
        )

    def _text(self, what: str, handle: ctypes.c_void_p) -> str:
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        return (
            ""
            if self._call(what, handle, text, _TEXT_BYTES)
            else text.value.decode(errors="replace")
        )

    def _call(self, what: str, *arguments: object) -> int:
        function = getattr(self._library, f"nvmlDevice{what}", None)
        return int(function(*arguments)) if function else -1


@contextmanager
def open_nvml(library: str = "") -> Iterator[Nvml]:
    """Raises DeviceUnavailable without NVIDIA's driver, or where it does not start."""
    try:
        loaded = ctypes.CDLL(library or _LIBRARY)
    except OSError as error:
        raise DeviceUnavailable("no NVIDIA driver is installed here, so no GPUs") from error
    if missing := [name for name in _NEEDED if not hasattr(loaded, name)]:
        raise DeviceUnavailable(f"the NVIDIA driver is too old: its NVML has no {missing[0]}")
    if code := loaded.nvmlInit_v2():
        raise DeviceUnavailable(f"the NVIDIA driver does not answer: NVML error {code}")
    try:
        yield Nvml(loaded)
    finally:
        loaded.nvmlShutdown()
