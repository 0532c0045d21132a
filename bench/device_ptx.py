"""What a prologue and a fused grid cost in machine code, by NVIDIA's assembler: registers, spills
and instructions. Kernels are Triton's where it is installed, else the three that tests have.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from singularity.agent.device.fuser import Side, fuse
from singularity.agent.device.kernels import Footprint
from singularity.agent.device.padding import occupancy
from singularity.agent.device.prologue import Form, inject

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.assembly import Usage, assemble, assembler, tool
from tests.standin.ptx_kernels import OPPOSITE, SUM, WORK

ARCHES = (80, 90)
REGISTERS_MOST = 8  # that a prologue may add
SM = {
    80: Footprint(threads=2048, registers=65536, shared_bytes=164 << 10, blocks=32),
    90: Footprint(threads=2048, registers=65536, shared_bytes=228 << 10, blocks=32),
}


@dataclass(frozen=True, slots=True)
class Made:
    usage: Usage
    instructions: int | None  # None where there is no disassembler


def kernels(arch: int) -> Mapping[str, tuple[str, int, int]]:
    try:
        from triton_kernels import compiled
    except ImportError:
        return {"work": (WORK, 128, 0), "opposite": (OPPOSITE, 128, 0), "sums": (SUM, 96, 384)}
    return compiled(arch)


def made(text: str, name: str) -> Made:
    target = re.search(r"\.target\s+(sm_\w+)", text)
    found = assemble(text, target.group(1) if target else "sm_80")
    return Made(found.kernels[name], instructions(found.cubin))


def instructions(cubin: bytes) -> int | None:
    if (program := tool("cuobjdump")) is None:
        return None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        argv = [program, "-sass", file.name]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    lines = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", said, re.MULTILINE)
    return sum(
        not line.split()[-1].startswith("NOP") and "BRA `(.L_x" not in line for line in lines
    )


def prologues(arch: int, found: Mapping[str, tuple[str, int, int]]) -> list[str]:
    wrong = []
    more: dict[Form, list[tuple[int, int]]] = {form: [] for form in Form}
    for name, (text, *_) in found.items():
        plain, line = made(text, name), [f"sm_{arch} {name}"]
        line.append(f"{plain.usage.registers} registers, {plain.instructions or '?'} instructions")
        for form in Form:
            injected = inject(text, form)
            if injected.refused:
                line.append(f"{form}: {injected.refused[name]}")
                continue
            new = made(injected.text, name)
            registers = new.usage.registers - plain.usage.registers
            longer = (new.instructions or 0) - (plain.instructions or 0)
            more[form].append((registers, longer))
            line.append(f"{form} {registers:+}, {longer:+}")
            if new.usage.spilled_bytes > plain.usage.spilled_bytes or registers > REGISTERS_MOST:
                wrong.append(f"{form} on {name}, sm_{arch}: +{REGISTERS_MOST} registers, no spills")
        print("; ".join(line))
    for form, all_ in more.items():
        registers, longer = zip(*all_, strict=True)
        print(
            f"sm_{arch} {form}: registers {statistics.median(registers):+g} (median),"
            f" {max(registers):+} (most); instructions {statistics.median(longer):+g} (median)"
        )
    return wrong


def pairs(arch: int, found: Mapping[str, tuple[str, int, int]]) -> list[str]:
    """Every kernel as real-time beside every one as best-effort."""
    apart = {name: made(text, name).usage for name, (text, *_) in found.items()}
    worst, kept, spilled, took_s = 0, 0, 0, list[float]()
    for rt, be in product(found, found):
        grid, why = fuse(*(Side(found[name][0], name, (found[name][1], 1, 1)) for name in (rt, be)))
        if grid is None:
            print(f"sm_{arch} {rt} beside {be}: {why}")
            continue
        began_s = time.perf_counter()
        both = made(grid.text, grid.name).usage
        took_s.append(time.perf_counter() - began_s)
        spilled += both.spilled_bytes > 0
        worst = max(worst, both.registers - max(apart[rt].registers, apart[be].registers))
        given = max(found[rt][2], found[be][2])
        alone = _footprint(found[rt][1], apart[rt], found[rt][2])
        together = _footprint(grid.threads, both, given)
        kept += occupancy(together, SM[arch]) >= min(2, occupancy(alone, SM[arch]))
    print(
        f"sm_{arch}: {len(took_s)} pairs, {spilled} spill; at most {worst} registers more than the"
        f" larger; {kept} leave room for two of the real-time kernel's blocks on a unit, or as many"
        f" as there were; assembled in {statistics.median(took_s):.2f} s each (median)"
    )
    return ["no fused grid spills"] if spilled else []


def _footprint(threads: int, usage: Usage, given_bytes: int) -> Footprint:
    return Footprint(threads, usage.registers * threads, usage.shared_bytes + given_bytes)


def ptx() -> list[str]:
    if (program := assembler()) is None:
        print("left out: there is no ptxas here (the package nvidia-cuda-nvcc has one)")
        return []
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    print(said.stdout.strip().splitlines()[-1])
    wrong = []
    for arch in ARCHES:
        found = kernels(arch)
        wrong += prologues(arch, found) + pairs(arch, found)
    return wrong
