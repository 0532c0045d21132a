"""What a rank of a job runs on this node: its `run`, or the script behind a launcher of torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from singularity.primitives.errors import InvalidSpec, SandboxFailed
from singularity.primitives.launcher import Program, torchrun_of, unwrap
from singularity.primitives.messages import Start

_FIRST_LINE_MOST = 4096  # bytes; what the kernel reads is less


def program(start: Start, rank: int, env: Mapping[str, str]) -> Program:
    """The program of `rank`, in whose environment `env` it will be looked up.

    Raises SandboxFailed when the launcher asks for what cannot be done; the door refuses such
    jobs, but letters are not trusted to have passed it.
    """
    torchrun = torchrun_of(start.run)
    try:
        return unwrap(
            start.run,
            start.world,
            env,
            local_rank=start.ranks.index(rank),
            python=_interpreter(torchrun, env.get("PATH", os.defpath)) if torchrun else "",
        )
    except InvalidSpec as error:
        raise SandboxFailed(error.detail) from error


def _interpreter(script: str, path: str) -> str:
    """The Python that runs `script`, as its first line says; "python" where it says nothing."""
    found = shutil.which(script, path=path)
    if found is None:
        raise SandboxFailed(f"{script} is not installed on this node")
    with open(found, "rb") as file:
        line = file.readline(_FIRST_LINE_MOST)
    words = line.removeprefix(b"#!").decode(errors="replace").split()
    if not line.startswith(b"#!") or not words or "python" not in words[-1]:
        return "python"
    return words[-1] if os.path.basename(words[0]) == "env" else words[0]
