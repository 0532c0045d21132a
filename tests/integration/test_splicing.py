"""Equal pages of two processes become one, and come apart on a write. It is the kernel of this
machine that does it; its settings are put back afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandboxes import until

from singularity.agent.runtime import splicing

KSM = Path("/sys/kernel/mm/ksm")
MERGED_BYTES = 32 << 20

pytestmark = pytest.mark.skipif(
    not os.access(KSM / "run", os.W_OK), reason="same-page merging is not ours to turn on here"
)
# Fills memory with what nobody else has, then writes and reads on request.
PROGRAM = f"""
import random, sys
data = bytearray(random.Random(7).randbytes({MERGED_BYTES}))
print("filled", flush=True)
for line in sys.stdin:
    if line == "write\\n":
        data[::4096] = b"x" * len(data[::4096])
    print(data.count(b"x" * 1, 0, 4096), hash(bytes(data)), flush=True)
"""
# The calling process must not be merged for the rest of its life: another one begins.
BEGIN = (
    "import os, sys; from singularity.agent.runtime import splicing; "
    "assert not splicing.begin(); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@pytest.fixture
def kernel() -> Iterator[None]:
    before = {name: (KSM / name).read_text() for name in ("run", "pages_to_scan")}
    (KSM / "pages_to_scan").write_text("20000")
    yield
    for name, value in before.items():
        (KSM / name).write_text(value)


@pytest.fixture
def pair(kernel: None) -> Iterator[list[subprocess.Popen[str]]]:
    argv = [sys.executable, "-c", BEGIN, "-S", "-c", PROGRAM]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    made = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(2)
    ]
    yield made
    for process in made:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str], what: str) -> str:
    assert process.stdin and process.stdout
    process.stdin.write(f"{what}\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_equal_pages_are_one_until_somebody_writes(pair: list[subprocess.Popen[str]]) -> None:
    one, other = pair
    for process in pair:
        assert process.stdout and process.stdout.readline() == "filled\n"
    known = ask(one, "read")
    assert ask(other, "read") == known
    until(
        lambda: splicing.merged_bytes([one.pid, other.pid]) >= 2 * MERGED_BYTES * 9 // 10,
        "nine tenths of both are merged",
    )
    assert ask(other, "read") == known
    assert ask(one, "write") != known
    until(lambda: splicing.merged_bytes([one.pid]) < MERGED_BYTES // 10, "it has its own again")
    assert ask(other, "read") == known, "nobody else sees what one writes"


def test_processes_that_are_gone_share_nothing() -> None:
    assert splicing.merged_bytes([2**22 + 1]) == 0
