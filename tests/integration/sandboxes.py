"""What tests of sandboxes share: a network, ranks that are small programs, and patience."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from singularity.agent.runtime.network import Network, open_network
from singularity.agent.runtime.sandbox import RankSpec, Sandbox

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "65534"
PATIENCE_S = 90.0  # a failure takes so long to be believed: imports of torch on a busy machine

# Counts in memory, and says so once a line; ends by itself after line LAST, with code 5.
COUNT = """
import itertools, sys, time
for i in itertools.count():
    print(i, flush=True)
    if i == int(sys.argv[1]):
        sys.exit(5)
    time.sleep(0.005)
"""
FOREVER = "-1"


@contextmanager
def network() -> Iterator[Network]:
    """A bridge of our own where that is possible, and no trace of it afterwards."""
    made = open_network(f"sgt{os.getpid() % 0xFFFFFF:x}", "10.83.0.0/16")
    try:
        yield made
    finally:
        made.destroy()


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """A filesystem that is soon full."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can make a small filesystem")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, f"never happened: {what}"
        time.sleep(0.005)


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code, *arguments)


def spec(directory: Path, argv: tuple[str, ...], log: Path | None = None) -> RankSpec:
    env = {"PATH": os.environ["PATH"], "MARK": "kept"}
    return RankSpec("job", 1, 0, argv, env, directory, log or directory / "log")


def lines(log: Path) -> list[str]:
    """Whole lines only."""
    return log.read_text().split("\n")[:-1] if log.exists() else []


def counts_on(log: Path, more: int = 3) -> None:
    """Wait until the counter has written so many lines more than now."""
    wanted = len(lines(log)) + more
    until(lambda: len(lines(log)) >= wanted, f"line {wanted} of {log.name}")


def ended(sandbox: Sandbox) -> None:
    until(lambda: not sandbox.alive(), "the sandbox ends with its rank")


def as_nobody(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` as nobody, with an interpreter that nobody may start."""
    site = Path(pytest.__file__).parents[1]
    path = os.pathsep.join(map(str, (ROOT, site, Path(__file__).parent)))
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    usable_code = (
        "import subprocess, sys, singularity.agent.checkpoint;"
        "subprocess.run([sys.executable, '-c', ''], check=True)"
    )
    become = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]
    for interpreter in (sys.executable, "/usr/bin/python3"):
        argv = [*become, interpreter, "-c"]
        usable = [*argv, usable_code]
        if (
            subprocess.run(usable, env=env, capture_output=True, cwd="/", check=False).returncode
            == 0
        ):
            return subprocess.run(
                [*argv, code], env=env, capture_output=True, text=True, cwd="/", check=False
            )
    pytest.skip("nobody may start no interpreter that has our packages")
