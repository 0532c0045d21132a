"""Examines this machine for what an agent needs, by doing it where doing is the only proof.

The answer is a plain JSON object: `engine` (how ranks of this machine are taken out of memory),
`kernel`, and `checks`, each {name, verdict, detail}. A verdict is `ok`; `missing`, where something
optional is absent and what follows from that is said; or `failed`, where something is here and
does not work.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from singularity.primitives.errors import DeviceUnavailable, SandboxFailed

from . import gpu
from .fitness import Check, dirty_tracking, fitness
from .hal.cpu import CpuManager
from .hal.faces import DeviceFacts
from .hal.nvml import open_nvml, release, unfit, unyielding
from .proof import find_criu, probe
from .runtime.cgroup import Limits, make_cgroup, preempts
from .runtime.network import HostNetwork, Network, open_network
from .runtime.sandbox import Sandbox
from .shim.build import built

_PROBE_BYTES: Final = 64 << 20  # a limit to set, far above what nothing uses
_SHARED_MEMORY_LEAST_BYTES: Final = 1 << 30
_SUBNET: Final = "10.254.0.0/16"  # of a bridge nothing else is on, for a moment
_DRIVER: Final = Path("/proc/driver/nvidia/version")
# The first driver whose checkpoint moves a process from one GPU to another.
_DRIVER_LEAST: Final = 570


def examine() -> dict[str, object]:
    """All that is known about this machine; takes some seconds, leaves nothing behind."""
    devices = map(_device, CpuManager().devices())
    checks = [*_host(), *fitness(), *devices, *_gpu()]
    engine = next(check for check in checks if check.name == "checkpoint")
    return {
        "engine": "criu" if engine.verdict == "ok" else "in-place",
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "root": os.geteuid() == 0,
        "checks": [asdict(check) for check in checks],
    }


def _host() -> Iterator[Check]:
    yield Check("kernel", "ok", f"Linux {platform.release()} on {platform.machine()}")
    yield _namespaces()
    yield _network()
    yield _cgroup()
    yield _checkpoint()
    if (criu := find_criu(os.environ.get("SINGULARITY_CRIU", ""))) is not None:
        yield dirty_tracking(criu)
    yield _shared_memory()


def _checkpoint() -> Check:
    criu = find_criu(os.environ.get("SINGULARITY_CRIU", ""))
    if criu is None:
        detail = "no CRIU (`make criu` gets one): jobs run, but cannot be suspended or moved"
        return Check("checkpoint", "missing", detail)
    began_s = time.monotonic()
    verdict = probe(criu)
    took_s = time.monotonic() - began_s
    if not verdict.ok:
        detail = (
            f"CRIU {verdict.version or '?'}: {verdict.reason}; jobs cannot be suspended or moved"
        )
        return Check("checkpoint", "failed", detail)
    done = f"CRIU {verdict.version} dumped, killed and restored a process here"
    return Check("checkpoint", "ok", f"{done}, in {took_s:.1f} s")


def _namespaces() -> Check:
    with tempfile.TemporaryDirectory(prefix="singularity-doctor-") as scratch:
        try:
            sandbox = Sandbox.create(Path(scratch).resolve() / "s", HostNetwork("doctor"))
        except SandboxFailed as error:
            return Check("namespaces", "failed", f"no sandbox can be made: {error.detail}")
        try:
            how = "in a user namespace" if sandbox.rootless else "as root"
            return Check("namespaces", "ok", f"a sandbox (pid, mount, ipc) was made {how}")
        finally:
            sandbox.remove()


def _network() -> Check:
    network: Network = open_network(f"sgd{uuid.uuid4().hex[:6]}", _SUBNET)
    try:
        if isinstance(network, HostNetwork):
            detail = f"{network.reason}: ranks share this machine's network"
            return Check("network", "missing", detail)
        return Check("network", "ok", "ranks get an address of their own, on a bridge")
    finally:
        network.destroy()


def _cgroup() -> Check:
    group, reason = make_cgroup(
        f"singularity-doctor-{uuid.uuid4().hex[:8]}", Limits(memory_bytes=_PROBE_BYTES)
    )
    if group is None:
        return Check("cgroup", "missing", f"{reason}: ranks run without limits")
    version = "v2" if group.unified else "v1"
    group.remove()
    shares = "real-time shares too" if preempts() else "best-effort shares only (cpu.idle)"
    told = f"{version}: memory, processors and processes can be limited, devices shared; {shares}"
    return Check("cgroup", "ok", told)


def _shared_memory() -> Check:
    try:
        room = os.statvfs("/dev/shm")
    except OSError as error:
        return Check("shm", "missing", f"/dev/shm: {error.strerror}; images are dumped to disk")
    free_bytes = room.f_bavail * room.f_frsize
    gib = f"{free_bytes / (1 << 30):.1f} GiB free in /dev/shm"
    if free_bytes < _SHARED_MEMORY_LEAST_BYTES:
        return Check("shm", "missing", f"only {gib}: data loaders may want more")
    return Check("shm", "ok", gib)


def _gpu() -> Iterator[Check]:
    """What a job on GPUs needs; on a machine without any, the first line is all there is to say."""
    if not _DRIVER.exists():
        yield Check("gpu-driver", "missing", "no NVIDIA driver is loaded: CPU devices only")
    else:
        yield Check("gpu-driver", "ok", _DRIVER.read_text().split("\n")[0].strip())
    yield from _nvml()
    yield _sharing()
    yield _yielding()
    yield _moves_off_gpus()


def _nvml() -> Iterator[Check]:
    """The driver's version, and a line for each GPU."""
    try:
        with open_nvml() as nvml:
            driver, found = nvml.driver(), nvml.devices()
    except DeviceUnavailable as error:
        yield Check("gpu-nvml", "missing", f"{error.detail}: GPUs cannot be counted")
        return
    seen = f"{len(found)} GPUs, driver {driver}"
    if (number := release(driver)) is None:
        yield Check("gpu-nvml", "failed", f"{seen}, which is no version that is known")
    elif number < _DRIVER_LEAST:
        detail = f"{seen}: checkpoints of GPU jobs need driver {_DRIVER_LEAST} or later"
        yield Check("gpu-nvml", "failed", detail)
    else:
        yield Check("gpu-nvml", "ok", seen)
    yield from map(_device, found)


def _device(facts: DeviceFacts) -> Check:
    """One accelerator as it is now."""
    gib = 1 << 30
    used, total = facts.used_bytes / gib, facts.memory_bytes / gib
    said = [facts.name, f"{used:.1f} of {total:.1f} GiB in use"]
    if facts.utilisation is not None:
        said.append(f"{facts.utilisation:.0%} busy")
    if facts.temperature_c is not None:
        said.append(f"{facts.temperature_c} C")
    if facts.links:
        said.append(f"reaches {', '.join(map(str, facts.links))}")
    if facts.health:
        return Check(f"device-{facts.uuid}", "failed", f"{facts.health}; {', '.join(said)}")
    return Check(f"device-{facts.uuid}", "ok", ", ".join(said))


def _sharing() -> Check:
    """Can several processes share a GPU here? What is loaded into them is compiled on the node."""
    with tempfile.TemporaryDirectory(prefix="singularity-doctor-") as scratch:
        try:
            built(Path(scratch))
            with suppress(DeviceUnavailable), open_nvml() as nvml:  # without one, _nvml has said so
                if reason := unfit(nvml.driver()):
                    return Check("gpu-sharing", "missing", f"{reason}: each GPU to one process")
        except DeviceUnavailable as error:
            return Check("gpu-sharing", "missing", f"{error.detail}: each GPU to one process")
    return Check("gpu-sharing", "ok", "what is loaded before the CUDA driver compiles here")


def _yielding() -> Check:
    """May an agent here be told to let best-effort kernels leave a GPU block by block?"""
    try:
        with open_nvml() as nvml:
            driver = nvml.driver()
    except DeviceUnavailable as error:
        return Check("gpu-yield", "missing", f"{error.detail}: nothing that could yield")
    if reason := unfit(driver) or unyielding(driver):
        return Check("gpu-yield", "missing", reason)
    how = "can leave a shared GPU block by block (SINGULARITY_SHARE_YIELD=true)"
    return Check("gpu-yield", "ok", f"best-effort kernels that exist as PTX {how}")


def _moves_off_gpus() -> Check:
    """Does the driver take a process off its GPU and put it back? Found out by doing it."""
    try:
        took_s = gpu.prove(gpu.CudaDriver.open())
    except gpu.DriverRefused as error:
        return Check("gpu-checkpoint", "missing", f"{error}: no checkpoints of GPU jobs")
    return Check("gpu-checkpoint", "ok", f"a process was off its GPU and back in {took_s:.2f} s")
