"""Builds the stand-in for the CUDA driver and starts programs on it."""

from __future__ import annotations

import mmap
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
CLIENT = HERE / "cuda_client.py"
TRACE_BYTES = 64
LINE_S = 20.0


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


def stand_in(directory: Path) -> Path:
    """Compile it; the directory is one for LD_LIBRARY_PATH."""
    made = directory / "libcuda.so.1"
    parts = ("libcuda_streams", "libcuda_graphs", "ptx_parse", "ptx_run")
    sources = [str(HERE / f"{name}.c") for name in parts]
    found = compiler()
    assert found is not None
    flags = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-O1", "-Wl,-Bsymbolic"]
    subprocess.run([found, *flags, "-o", str(made), *sources, "-lpthread", "-ldl"], check=True)
    return directory


def management(directory: Path) -> Path:
    """The library of NVIDIA's management, compiled."""
    made, found = directory / "libnvidia-ml.so.1", compiler()
    assert found is not None
    argv = [found, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(made)]
    subprocess.run([*argv, str(HERE / "libnvml.c")], check=True)
    return made


def compiling(directory: Path) -> tuple[Path, Path]:
    """The library that compiles programs as they run, and one that is linked with it."""
    made, linked, found = directory / "libnvrtc.so.99", directory / "liblinked.so", compiler()
    assert found is not None
    argv = [found, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", str(HERE / "libnvrtc.c")]
    subprocess.run([*argv, "-Wl,-soname,libnvrtc.so.99", "-o", str(made)], check=True)
    subprocess.run([*argv, "-DLINKED", "-o", str(linked), str(made)], check=True)
    return made, linked


class Client:
    """One program, and what its device has done."""

    def __init__(
        self, directory: Path, name: str, arguments: list[object], environment: Mapping[str, str]
    ) -> None:
        trace = directory / f"{name}.trace"
        trace.write_bytes(bytes(TRACE_BYTES))
        with trace.open("r+b") as file:
            self._trace = memoryview(mmap.mmap(file.fileno(), TRACE_BYTES)).cast("Q")
        self.process = subprocess.Popen(
            [sys.executable, str(CLIENT), *map(str, arguments)],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(directory),
                "STANDIN_TRACE": str(trace),
                **environment,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._said = b""

    @property
    def begun_ns(self) -> int:
        return self._trace[0]

    @property
    def ended_ns(self) -> int:
        return self._trace[1]

    @property
    def waves(self) -> int:
        return self._trace[2]

    def line(self) -> list[str]:
        """What it says next, in words."""
        assert self.process.stdout is not None
        while b"\n" not in self._said:
            ready, _, _ = select.select([self.process.stdout], [], [], LINE_S)
            assert ready, "it says nothing"
            more = os.read(self.process.stdout.fileno(), 4096)
            assert more, f"it ended: {self.process.communicate()[1]!r}"
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line.decode().split()

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
