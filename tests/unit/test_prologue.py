"""Kernels that look before they begin: what is refused, what ptxas says, and what blocks do."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.agent.device.prologue import ARENA, BITMAP, Carrier, Form, inject
from singularity.agent.device.ptx import blanked, kernels_of, name_of
from singularity.agent.shim.build import built
from tests.standin.cuda import compiler
from tests.standin.ptx_machine import THREADS, Code, Machine

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
    assert "counts_reef_ticket" in found.text and "bare_reef_yields" in found.text
    assert "k_reef" not in found.text


# -- what the instructions do ----------------------------------------------------------------------

CONTROL = ARENA
TICKET = CONTROL + 5


def run(machine: Machine, code: Code, grid: tuple[int, int, int], number: int, ticket: int) -> None:
    for _ in machine.block(code, grid, number, {"p0": 0, "ticket": ticket, "launch": 0}):
        pass


def ran(machine: Machine, blocks: int) -> list[int]:
    return [machine.ran[0, b, t] for b in range(blocks) for t in range(THREADS)]


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
    st.lists(st.integers(0, 96), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_each_block_runs_once_wherever_the_grid_is_torn(
    grid: tuple[int, int, int], tears: list[int]
) -> None:
    """The grid is launched; at some block the flag goes up. It is repaired, and repairs are taken
    back, until no block is left."""
    machine, code = Machine(), Code(inject(HEAD + COUNTS).text)
    blocks = grid[0] * grid[1] * grid[2]
    up = min([*tears, blocks])
    for number in range(blocks):
        machine.words[CONTROL] = int(number >= up)
        run(machine, code, grid, number, TICKET)
    assert machine.words.get(CONTROL + 4, 0) == (5 if up < blocks else 0)
    for back in [*tears, blocks]:
        for number in range(blocks):
            machine.words[CONTROL] = 3 if number >= back else 2
            run(machine, code, grid, number, TICKET)
    assert ran(machine, blocks) == [1] * blocks * THREADS
    bits = range(CONTROL + BITMAP, CONTROL + BITMAP + blocks // 8 + 4, 4)
    assert not any(machine.words.get(at, 0) for at in bits)


@given(st.integers(1, 40), st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_the_minimal_form_lets_blocks_run_until_the_flag(blocks: int, up: int) -> None:
    machine, code = Machine(), Code(inject(HEAD + COUNTS, Form.MINIMAL).text)
    for number in range(blocks):
        machine.words[CONTROL] = int(number >= up)
        run(machine, code, (blocks, 1, 1), number, TICKET)
    assert ran(machine, blocks)[::THREADS] == [int(n < up) for n in range(blocks)]


@pytest.mark.parametrize("form", list(Form))
def test_a_kernel_without_a_ticket_runs_as_it_did(form: Form) -> None:
    machine, code = Machine({0: 1, CONTROL: 1}), Code(inject(HEAD + COUNTS, form).text)
    run(machine, code, (1, 1, 1), 0, 0)
    assert ran(machine, 1) == [1] * THREADS


def test_a_comment_behind_the_last_parameter_hides_nothing() -> None:
    source = HEAD + ".entry k(\n\t.param .u64 p // last\n)\n{\n\tret;\n}\n"
    (kernel,) = kernels_of(blanked(inject(source).text))
    assert [name_of(each) for each in kernel.parameters] == ["p", "k_reef_ticket"]


def test_the_last_parameter_may_be_the_ticket() -> None:
    source = HEAD + COUNTS + ".entry small(.param .u64 p, .param .u32 q)\n{\n\tret;\n}\n"
    found = inject(source, carrier=Carrier.LAST)
    assert found.kernels == ("counts",) and "reef_ticket" not in found.text
    assert "ld.param.u64 %reef_d0, [counts_p0];" in found.text
    assert found.refused == {"small": "its last parameter is not one of 64 bits"}


# -- the same in C ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    library = ctypes.CDLL(str(built(tmp_path_factory.mktemp("shim"))))
    library.singularity_inject.restype = ctypes.c_char_p

    def injected(source: str) -> str:
        found = library.singularity_inject(source.encode())
        return source if found is None else found.decode()

    return injected


PIECES = [
    COUNTS,
    BARE,
    ".visible .entry none\n{\n\tret;\n}\n",
    kernel("mapa.u32 %r1, %r2, 0;"),
    kernel("ld.volatile.shared.u32 %r1, [%r2];"),
    ".entry declared(.param .u64 p);\n",
    ".entry e(.param .align 8 .b8 p[16], .param .u32 q // z\n)\n.maxntid 128\n{\n.loc 1 2\nret;}\n",
    ".entry f(\n)\n.reqntid 32\n{\n\t{\n\t}\n\tret;\n}\n",
    " .entry 9()\n{}",
    '.global .b8 text[4] = "a\\"}{";\n',
    ".target sm_70\n",
    ".address_size 64\n",
    *("/* .entry c(", "*/", "// .entry d(\n", "{", "}"),
]


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
@given(
    head=st.sampled_from([HEAD, HEAD.replace("8.0", "5.0"), "", HEAD[:30]]),
    pieces=st.lists(st.sampled_from(PIECES), max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_the_shim_writes_the_same(shim: Callable[[str], str], head: str, pieces: list[str]) -> None:
    source = head + "".join(pieces)
    assert shim(source) == inject(source).text
