"""What the managed runs are compared with: the same job under plain torchrun, never touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

# gloo of torch 2.13 aborts so in about 1 of 40 short runs, as it is torn down.
_ABORTED = "terminate called without an active exception"


def run_plain(out: Path, ranks: int, *argv: str) -> None:
    """Run `argv` (a script and its arguments) on `ranks` ranks, or on its own for 1; `out` is where
    it writes, made anew for each try."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *(launcher if ranks > 1 else []), *argv]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(3):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode == 0 or _ABORTED not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
