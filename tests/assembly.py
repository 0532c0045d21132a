"""PTX to machine code by NVIDIA's assembler, where there is one: what a kernel takes of a unit."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from singularity.primitives.errors import DeviceUnavailable, InvalidSpec

_PACKAGES: Final = ("nvidia", "triton")  # that bring an assembler of their own
_KERNEL: Final = re.compile(r"Compiling entry function '([^']+)'")
_SPILLED: Final = re.compile(r"(\d+) bytes spill stores")
_USED: Final = re.compile(r"Used (\d+) registers")
_SHARED: Final = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one kernel: registers of a thread, and bytes."""

    registers: int
    spilled_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Assembly:
    cubin: bytes
    kernels: Mapping[str, Usage]


@lru_cache
def tool(name: str) -> Path | None:
    """A program of CUDA's: of an installed package, which may be newer, or on the path."""
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            for path in sorted(Path(place).glob(f"**/bin/{name}")):
                return path
    found = shutil.which(name)
    return Path(found) if found else None


def assembler() -> Path | None:
    return tool("ptxas")


def assemble(text: str, arch: str, program: Path | None = None) -> Assembly:
    """Assemble for `arch`, as in sm_90.

    Raises DeviceUnavailable where there is no assembler, InvalidSpec with its words when it
    refuses the text.
    """
    program = program or assembler()
    if program is None:
        raise DeviceUnavailable("there is no ptxas here (package nvidia-cuda-nvcc has one)")
    with tempfile.TemporaryDirectory() as name:
        source, cubin = Path(name, "module.ptx"), Path(name, "module.cubin")
        source.write_text(text)
        argv = [str(program), "-v", f"-arch={arch}", "-o", str(cubin), str(source)]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        if done.returncode:
            raise InvalidSpec(f"ptxas refuses it: {done.stderr.strip()[:500]}", arch=arch)
        return Assembly(cubin.read_bytes(), _read(done.stderr))


def _read(said: str) -> Mapping[str, Usage]:
    found = {}
    for name, part in zip(_KERNEL.findall(said), _KERNEL.split(said)[2::2], strict=True):
        numbers = [pattern.search(part) for pattern in (_USED, _SPILLED, _SHARED)]
        found[name] = Usage(*(int(number.group(1)) if number else 0 for number in numbers))
    return found
