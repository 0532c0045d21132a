"""Kernels that look before they begin: what is refused, what ptxas says, and what blocks do."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.agent.device.prologue import Form, inject

HEAD = ".version 8.0\n.target sm_90\n.address_size 64\n"
COUNTS = """
.visible .entry counts(.param .u64 counts_p0)  // a { in a comment
{
	.reg .b64 %rd<2>;
	ld.param.u64 %rd0, [counts_p0];
	red.relaxed.gpu.global.add.u32 [%rd0], 1;
	ret;
}
"""
BARE = ".visible .entry bare()\n{\n\tret;\n}\n"


def kernel(instruction: str) -> str:
    return f"{HEAD}.visible .entry k(.param .u64 p)\n{{\n\t{instruction}\n\tret;\n}}\n"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (kernel("barrier.cluster.arrive;"), "clusters"),
        (kernel("griddepcontrol.wait;"), "another grid"),
        (kernel("mov.u32 %r1, %envreg2;"), "cooperative"),
        (kernel("ld.acquire.gpu.global.u32 %r1, [%rd1];"), "may wait"),
        (kernel("ld.volatile.global.u32 %r1, [%rd1];"), "may wait"),
        (HEAD.replace("sm_90", "sm_60") + BARE, "older"),
        ("no ptx" + BARE, "no PTX"),
    ],
)
def test_kernels_whose_blocks_wait_for_others_are_refused_and_left_alone(
    source: str, why: str
) -> None:
    found = inject(source)
    assert found.text == source and not found.kernels
    (reason,) = found.refused.values()
    assert why in reason


def test_a_refused_kernel_does_not_keep_its_neighbours_from_it() -> None:
    source = HEAD + COUNTS + BARE + kernel("griddepcontrol.wait;").removeprefix(HEAD)
    found = inject(source)
    assert found.kernels == ("counts", "bare") and list(found.refused) == ["k"]
    assert "counts_reef_map" in found.text and "bare_reef_control" in found.text
    assert "k_reef" not in found.text


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="there is no ptxas here")
@pytest.mark.parametrize("form", list(Form))
def test_ptxas_takes_it(tmp_path: Path, form: Form) -> None:
    source = tmp_path / "k.ptx"
    source.write_text(inject(HEAD + COUNTS + BARE, form).text)
    argv = ["ptxas", "-arch=sm_90", "-o", str(tmp_path / "k.cubin"), str(source)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- what the instructions do ----------------------------------------------------------------------

CONTROL, MAP, OUT = 0, 1 << 20, 1 << 21


@dataclass
class Machine:
    """Runs a kernel of the instructions that a prologue has, block after block, all threads in
    step; memory is words by their address."""

    text: str
    grid: tuple[int, int, int]
    threads: int = 3
    words: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text = re.sub(r"//.*", "", self.text)
        body = text[text.index("{", text.index(".entry counts")) + 1 :]
        lines = [line.strip().rstrip(";") for line in body.split("\n")]
        self.code = [line for line in lines if line and not line.startswith(".reg")]
        self.labels = {line[:-1]: i for i, line in enumerate(self.code) if line.endswith(":")}

    def block(self, number: int) -> None:
        x, y, z = self.grid
        ids = {"ctaid.x": number % x, "ctaid.y": number // x % y, "ctaid.z": number // (x * y)}
        ids |= {"nctaid.x": x, "nctaid.y": y, "nctaid.z": z, "tid.y": 0, "tid.z": 0}
        threads = [self._thread({**ids, "tid.x": t}, number) for t in range(self.threads)]
        answers: list[bool | None] = [None] * self.threads
        while threads:
            votes = []
            for thread, answer in zip(list(threads), answers, strict=True):
                try:
                    votes.append(thread.send(answer))
                except StopIteration:
                    threads.remove(thread)
            assert len(votes) in (0, self.threads), "a part of a block has left"
            answers = [any(votes)] * len(threads)

    def _thread(self, special: dict[str, int], number: int) -> Iterator[bool]:
        registers = {f"%{name}": value for name, value in special.items()}
        at = 0
        while True:
            line, at = self.code[at], at + 1
            if line.startswith("@"):
                guard, line = line.split(None, 1)
                if bool(registers[guard.lstrip("@!")]) == guard.startswith("@!"):
                    continue
            operation, _, rest = line.partition(" ")
            if operation == "ret":
                return
            if operation == "bra":
                at = self.labels[rest]
            elif operation.startswith("bar.red"):
                target, _, vote = rest.split(", ")
                registers[target] = yield bool(registers[vote])
            elif not line.endswith(":"):
                self._step(operation, rest.split(", "), registers, number)

    def _step(
        self, operation: str, words: list[str], registers: dict[str, int], number: int
    ) -> None:
        target, *args = [word.strip("[]") for word in words]
        if operation.startswith("ld.param"):
            which = args[0].rpartition("_")[2]
            registers[target] = {"map": MAP, "control": CONTROL}.get(which, OUT)
        elif operation.startswith(("ld.", "atom.")):
            place = registers[args[0]]
            registers[target] = self.words.get(place, 0)
            if operation.startswith("atom"):
                self.words[place] = self.words.get(place, 0) & registers[args[1]]
        elif operation.startswith("red"):
            base, _, offset = target.partition("+")
            place, with_ = registers[base] + int(offset or 0), registers.get(args[0]) or 1
            if place == OUT:  # each thread counts for itself
                place += 4 * (number * self.threads + registers["%tid.x"])
            before = self.words.get(place, 0)
            self.words[place] = before | with_ if ".or." in operation else before + with_
        else:
            values = [registers[a] if a.startswith("%") else int(a) for a in args]
            registers[target] = self._reckon(operation, values)

    def _reckon(self, operation: str, values: list[int]) -> int:
        match operation.split("."):
            case ["mov", *_]:
                return values[0]
            case ["not", *_]:
                return ~values[0] & 0xFFFFFFFF
            case ["setp", how, *_]:
                return int((values[0] == values[1]) == (how == "eq"))
            case ["or", *_]:
                return values[0] | values[1]
            case ["and", *_]:
                return values[0] & values[1]
            case ["shl", *_]:
                return values[0] << values[1] & 0xFFFFFFFF
            case ["shr", *_]:
                return values[0] >> values[1]
            case ["add", *_]:
                return values[0] + values[1]
            case ["mul", *_]:
                return values[0] * values[1]
            case ["mad", *_]:
                return values[0] * values[1] + values[2]
        raise AssertionError(operation)


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
    st.lists(st.integers(0, 96), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_each_block_runs_once_wherever_the_grid_is_torn(
    grid: tuple[int, int, int], tears: list[int]
) -> None:
    """The grid is launched; at some block the flag goes up. Then it is repaired, and a repair is
    not torn: it goes on until all noted blocks have run."""
    machine = Machine(inject(HEAD + COUNTS).text, grid)
    blocks = grid[0] * grid[1] * grid[2]
    up = min([*tears, blocks])
    for number in range(blocks):
        machine.words[CONTROL] = int(number >= up)
        machine.block(number)
    assert machine.words.get(CONTROL + 4, 0) == blocks - up
    for _ in tears or [0]:
        machine.words[CONTROL] = 2
        for number in range(blocks):
            machine.block(number)
    ran = [machine.words.get(OUT + 4 * i, 0) for i in range(blocks * machine.threads)]
    assert ran == [1] * blocks * machine.threads
    assert not any(machine.words.get(MAP + 4 * i, 0) for i in range(blocks // 32 + 1))


@given(st.integers(1, 40), st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_the_minimal_form_lets_blocks_run_until_the_flag(blocks: int, up: int) -> None:
    machine = Machine(inject(HEAD + COUNTS, Form.MINIMAL).text, (blocks, 1, 1))
    for number in range(blocks):
        machine.words[CONTROL] = int(number >= up)
        machine.block(number)
    ran = [machine.words.get(OUT + 4 * machine.threads * n, 0) for n in range(blocks)]
    assert ran == [int(n < up) for n in range(blocks)]
