"""Whether this machine can checkpoint, found out by doing it; and what that depends on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from singularity.primitives.errors import CheckpointFailed, HandFailed, RestoreFailed

from .checkpoint import Checkpointer, CriuCheckpointer
from .runtime.network import HostNetwork
from .runtime.sandbox import RankSpec, Sandbox

_PROBE_S: Final = 10.0  # for each step of a probe that takes a fraction of a second
_COUNT: Final = """
import itertools, time
for i in itertools.count():
    print(i)
    time.sleep(0.005)
"""


def find_criu(configured: str = "") -> Path | None:
    """The program: as configured, else from this project's own prefix, else from PATH."""
    if configured:
        return Path(configured)
    own = Path(__file__).resolve().parents[2] / ".criu" / "criu"
    if os.access(own, os.X_OK):
        return own
    found = shutil.which("criu") or shutil.which("criu", path="/usr/sbin:/sbin:/usr/local/sbin")
    return Path(found) if found else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether this machine can checkpoint; `reason` is what stands in the way."""

    ok: bool
    reason: str
    version: str


def probe(criu: Path | None) -> Verdict:
    """Find out by doing it: dump a small process, kill it, restore it, watch it count on."""
    if criu is None:
        return Verdict(False, "CRIU is not installed", "")
    version, complaint = _started(criu)
    if not version:
        return Verdict(False, f"{criu} does not start: {complaint}", "")
    with tempfile.TemporaryDirectory(prefix="singularity-probe-") as scratch:
        try:
            _there_and_back(CriuCheckpointer(criu), Path(scratch).resolve())
        except HandFailed as error:
            return Verdict(False, error.detail, version)
    return Verdict(True, "", version)


def _there_and_back(checkpointer: CriuCheckpointer, scratch: Path) -> None:
    network, log, images = HostNetwork("a probe talks to nobody"), scratch / "log", scratch / "i"
    argv = (sys.executable, "-I", "-S", "-u", "-c", _COUNT)
    first = Sandbox.create(scratch / "first", network)
    second = Sandbox.create(scratch / "second", network)
    try:
        first.launch(RankSpec("probe", 0, 0, argv, {}, scratch, log))
        _await_lines(first, log, 3)
        dump = checkpointer.dump(first, images)
        _await_lines(first, log, log.read_bytes().count(b"\n") + 1)
        first.kill()
        checkpointer.restore(second, images, _PROBE_S)
        _await_lines(second, log, log.read_bytes()[: dump.files[str(log)]].count(b"\n") + 3)
        counted = log.read_text().split("\n")[:-1]
        if counted != [str(i) for i in range(len(counted))]:
            raise RestoreFailed("a restored process did not go on where it had been")
    finally:
        first.kill()
        second.kill()


def _await_lines(sandbox: Sandbox, log: Path, lines: int) -> None:
    deadline_s = time.monotonic() + _PROBE_S
    while not log.exists() or log.read_bytes().count(b"\n") < lines:
        if time.monotonic() > deadline_s or not sandbox.alive():
            raise CheckpointFailed("a small process did not run on")
        time.sleep(0.005)


def described(checkpointer: Checkpointer) -> dict[str, str]:
    """What a finding on checkpoints depends on."""
    found = {"kernel": platform.release(), "processor": processor()}
    if isinstance(checkpointer, CriuCheckpointer):
        return {**found, "engine": f"CRIU {version_of(checkpointer.criu)}"}
    return {**found, "engine": "in place"}


def processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def version_of(criu: Path) -> str:
    """ "" when it does not start."""
    return _started(criu)[0]


def _started(criu: Path) -> tuple[str, str]:
    """Its version, or "" and what it says instead."""
    try:
        said = subprocess.run([criu, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        return "", str(error)
    return said.stdout.partition("Version:")[2].split("\n")[0].strip(), said.stderr.strip()
