"""What NVIDIA's assembler says of kernels with a prologue and of two in one, where there is one."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from singularity.agent.device.fuser import Side, fuse
from singularity.agent.device.prologue import Carrier, Form, inject
from singularity.primitives.errors import DeviceUnavailable, InvalidSpec
from tests.assembly import Assembly, Usage, assemble, assembler
from tests.standin.ptx_kernels import CHECK, HEAD, OPPOSITE, SUM, WORK

SOURCES = {"work": WORK, "opposite": OPPOSITE, "sums": SUM}
BLOCKS = {"work": (128, 1, 1), "opposite": (32, 4, 1), "sums": (96, 1, 1)}
needs_ptxas = pytest.mark.skipif(
    assembler() is None, reason="there is no ptxas here; the package nvidia-cuda-nvcc has one"
)
architectures = pytest.mark.parametrize("arch", ["sm_80", "sm_90"])


def usage(text: str, arch: str, kernel: str) -> Usage:
    return assemble(text, arch).kernels[kernel]


@needs_ptxas
@architectures
@pytest.mark.parametrize(("form", "carrier"), list(product(Form, Carrier)))
def test_a_prologue_takes_few_registers_and_spills_none(
    arch: str, form: Form, carrier: Carrier
) -> None:
    source = HEAD + "".join(text.removeprefix(HEAD) for text in SOURCES.values())
    found = inject(source, form, carrier)
    assert found.kernels == (("sums",) if carrier is Carrier.LAST else tuple(SOURCES))
    before, after = assemble(source, arch), assemble(found.text, arch)
    for kernel in found.kernels:
        assert not after.kernels[kernel].spilled_bytes
        assert after.kernels[kernel].registers <= before.kernels[kernel].registers + 8
        assert f"{kernel}_reef_yields".encode() in after.cubin, "it says of itself that it yields"


@needs_ptxas
@architectures
@pytest.mark.parametrize(("rt", "be"), list(product(SOURCES, SOURCES)))
def test_two_in_one_take_what_the_larger_does(arch: str, rt: str, be: str) -> None:
    made, why = fuse(*(Side(SOURCES[name], name, BLOCKS[name]) for name in (rt, be)))
    assert made is not None, why
    together = usage(made.text, arch, made.name)
    apart = [usage(SOURCES[name], arch, name) for name in (rt, be)]
    assert not together.spilled_bytes
    assert together.shared_bytes <= max(each.shared_bytes for each in apart) + 1024
    assert together.registers <= max(each.registers for each in apart) + 12


@needs_ptxas
def test_what_it_refuses_is_said_in_its_words() -> None:
    with pytest.raises(InvalidSpec, match="nonsense"):
        assemble(CHECK.replace("setp.eq.u32", "nonsense.u32"), "sm_80")


def test_what_it_says_is_read(tmp_path: Path) -> None:
    program = tmp_path / "ptxas"
    program.write_text(
        "#!/bin/sh\n"
        "while [ $# -gt 1 ]; do [ $1 = -o ] && printf cubin > $2; shift; done\n"
        "cat >&2 <<'END'\n"
        "ptxas info    : 0 bytes gmem\n"
        "ptxas info    : Compiling entry function 'one' for 'sm_90'\n"
        "ptxas info    : Function properties for one\n"
        "    16 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 118 registers, used 1 barriers, 400 bytes cmem[0]\n"
        "ptxas info    : Compiling entry function 'two' for 'sm_90'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 24 registers, 512 bytes smem, 352 bytes cmem[0]\n"
        "END\n"
    )
    program.chmod(0o755)
    kernels = {"one": Usage(118, 8, 0), "two": Usage(24, 0, 512)}
    assert assemble("", "sm_90", program) == Assembly(b"cubin", kernels)


def test_without_one_it_says_where_one_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.assembly.assembler", lambda: None)
    with pytest.raises(DeviceUnavailable, match="nvidia-cuda-nvcc"):
        assemble("", "sm_90")
