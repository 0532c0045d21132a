"""The shim as a library: compiled here by the machine's own compiler, once for each version."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from singularity.agent.device.prologue import (
    ARENA,
    BITMAP,
    BLOCKS_MOST,
    PROLOGUE,
    TICKET,
    YIELDS,
    Form,
)
from singularity.agent.device.ptx import REFUSALS
from singularity.primitives.errors import DeviceUnavailable

_SOURCES: Final = Path(__file__).parent
_FLAGS: Final = ("-shared", "-fPIC", "-O2", "-std=gnu11", "-fvisibility=hidden", "-Wall")
_LIBRARIES: Final = ("-ldl", "-lpthread")


def home(first: Path, second: Path) -> Path:
    """`first`, unless nothing can be run from its file system: many mount /run so."""
    first.mkdir(parents=True, exist_ok=True)
    return second if os.statvfs(first).f_flag & os.ST_NOEXEC else first


def built(directory: Path) -> Path:
    """The library, named by what it was made of; compiled first if it is not there yet.

    Atomic: agents of one machine may race. Raises DeviceUnavailable without a C compiler, or with
    one that fails.
    """
    files, header = sorted(_SOURCES.glob("*.[ch]")), _header().encode()
    content = b"\0".join([header, *(path.read_bytes() for path in files)])
    digest = hashlib.sha256(content).hexdigest()[:12]
    target = directory / f"libsingularity-{digest}.so"
    if target.exists():
        return target
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise DeviceUnavailable("sharing a GPU needs a C compiler on the node, and there is none")
    directory.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f"{target.name}.{os.getpid()}")
    sources = [str(path) for path in files if path.suffix == ".c"]
    with tempfile.TemporaryDirectory() as included:
        Path(included, "prologue.h").write_bytes(header)
        command = [compiler, *_FLAGS, "-I", included, "-o", str(made), *sources, *_LIBRARIES]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise DeviceUnavailable(f"the shim does not compile here: {done.stderr[-500:]}")
    made.replace(target)
    return target


def _header() -> str:
    """What inject.c must know of the prologue, so that it is written down once."""
    numbers = {"ARENA": ARENA, "BITMAP": BITMAP, "BLOCKS_MOST": BLOCKS_MOST}
    words = {"TICKET": TICKET, "YIELDS": YIELDS}
    said = {**numbers, **words}
    defines = [f"#define {name} {json.dumps(value)}" for name, value in said.items()]
    rows = [", ".join(json.dumps(word) for word in row) for row in REFUSALS]
    return "\n".join(
        [
            *defines,
            f"static const char prologue_text[] = {json.dumps(PROLOGUE[Form.EXACT])};",
            "static const struct { const char *begins, *unless, *why; } refusals[] = {",
            *(f"    {{{row}}}," for row in rows),
            "};\n",
        ]
    )
