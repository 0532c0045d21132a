"""Two kernels in one grid: what is refused, and that both do what they did apart."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.agent.device.fuser import Side, fuse
from tests.standin.cuda import compiler, stand_in
from tests.standin.ptx_kernels import HEAD, OPPOSITE, SUM

Grid = tuple[int, int, int]


def kernel(body: str, before: str = "", directives: str = "") -> str:
    return f"{HEAD}{before}.visible .entry k(.param .u64 p)\n{directives}{{\n\t{body}\n\tret;\n}}\n"


PLAIN = Side(kernel(""), "k", (64, 1, 1))


@pytest.mark.parametrize(
    ("side", "why"),
    [
        (Side("none", "k", (64, 1, 1)), "no PTX"),
        (Side(kernel(""), "other", (64, 1, 1)), "no such kernel"),
        (Side(kernel("mov.u32 %r1, %envreg2;"), "k", (64, 1, 1)), "cooperative"),
        (Side(kernel("barrier.cluster.arrive;"), "k", (64, 1, 1)), "clusters"),
        (Side(kernel("", directives=".explicitcluster\n"), "k", (64, 1, 1)), "clusters"),
        (Side(kernel("ld.acquire.gpu.global.u32 %r1, [%d];"), "k", (64, 1, 1)), "may wait"),
        (Side(kernel("call other, (p);"), "k", (64, 1, 1)), "calls"),
        (Side(kernel("setmaxnreg.inc.sync.aligned.u32 240;"), "k", (64, 1, 1)), "registers"),
        (Side(kernel("mov.u32 %r1, %dynamic_smem_size;"), "k", (64, 1, 1)), "how much shared"),
        (Side(kernel("mov.v4.u32 {%r1, %r2, %r3, %r4}, %tid;"), "k", (64, 1, 1)), "vector"),
        (
            Side(kernel("ld.global.u32 %r1, [seen];", ".global .u32 seen;\n"), "k", (64, 1, 1)),
            "variables",
        ),
        (
            Side(kernel("ld.const.u32 %r1, [c+4];", ".const .b8 c[8];\n"), "k", (64, 1, 1)),
            "variables",
        ),
        (Side(kernel(""), "k", (33, 1, 1)), "whole warps"),
        (Side(kernel(""), "k", (1025, 1, 1)), "no block has"),
        (Side(kernel("").replace("sm_80", "sm_90a"), "k", (64, 1, 1)), "sm_90"),
        (Side(kernel("").replace("sm_80", "sm_60"), "k", (64, 1, 1)), "older"),
        (Side(kernel("").replace(".u64 p", ".b8 p[4090]"), "k", (64, 1, 1)), "4096 bytes"),
    ],
)
def test_what_cannot_be_one_grid_is_refused_by_name(side: Side, why: str) -> None:
    for found, reason in (fuse(PLAIN, side), fuse(side, PLAIN)):
        assert found is None and why in reason


def test_variables_that_the_kernel_does_not_use_are_left_behind() -> None:
    before = ".global .align 4 .u32 seen;\n.func other()\n{\n\t.shared .b8 own[512];\n\tret;\n}\n"
    found, why = fuse(Side(kernel("", before), "k", (64, 1, 1)), PLAIN)
    assert found is not None and not why
    assert "seen" not in found.text and "own" not in found.text and found.shared_bytes == 0


def test_shared_memory_is_as_large_as_the_larger_needs() -> None:
    arrays = ".shared .align 4 .b8 a[100];\n.shared .align 16 .b8 b[32];\n"
    one = Side(kernel("st.shared.u32 [b+4], 0;\n\tst.shared.u32 [a], 0;", arrays), "k", (64, 1, 1))
    found, _ = fuse(one, Side(kernel("st.shared.u32 [a], 0;", arrays), "k", (64, 1, 1)))
    assert found is not None and found.shared_bytes == 144
    assert "[reef_shared+116]" in found.text and found.text.count("[reef_shared]") == 2


# -- what it does ----------------------------------------------------------------------------------


class Device:
    """The stand-in driver in this process; memory of the device is its own."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._driver = library
        assert not library.cuInit(0)
        self.load = lru_cache(None)(self._load)

    def _load(self, text: str, name: str) -> ctypes.c_void_p:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        assert not self._driver.cuModuleLoadData(ctypes.byref(module), text.encode())
        assert not self._driver.cuModuleGetFunction(ctypes.byref(function), module, name.encode())
        return function

    def run(self, text: str, name: str, grid: Grid, block: Grid, shared: int, *values: Any) -> None:
        kept = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        shape = [ctypes.c_uint(number) for number in (*grid, *block, shared)]
        assert not self._driver.cuLaunchKernel(self.load(text, name), *shape, None, kept, None)
        assert not self._driver.cuStreamSynchronize(None)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    if compiler() is None:
        pytest.skip("there is no C compiler here")
    return Device(ctypes.CDLL(str(stand_in(tmp_path_factory.mktemp("driver")) / "libcuda.so.1")))


def size(grid: Grid) -> int:
    return grid[0] * grid[1] * grid[2]


shapes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2))


@given(
    rt_grid=shapes,
    be_grid=st.tuples(st.integers(1, 5), st.integers(1, 4), st.just(1)),
    rt_block=st.sampled_from([(32, 1, 1), (8, 4, 1), (16, 6, 1), (64, 1, 1)]),
    be_block=st.sampled_from([(32, 1, 1), (96, 1, 1), (128, 1, 1)]),
    cuts=st.lists(st.integers(0, 20), max_size=2),
    swapped=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_both_kernels_do_what_they_did_apart_and_each_block_runs_once(
    device: Device,
    rt_grid: Grid,
    be_grid: Grid,
    rt_block: Grid,
    be_block: Grid,
    cuts: list[int],
    swapped: bool,
) -> None:
    """The best-effort grid is run in slices: the first beside the real-time grid, the others alone
    (a split of 0)."""
    three = ctypes.c_uint32(3)
    sides = {"opposite": (OPPOSITE, rt_grid, rt_block, 0), "sums": (SUM, be_grid, be_block, 512)}
    length = {"opposite": size(rt_grid) * size(rt_block), "sums": size(be_grid)}
    memory = {
        name: [(ctypes.c_uint32 * count)(*range(count)) for _ in "ab"]
        for name, count in length.items()
    }
    given = {
        name: [[ctypes.c_uint64(ctypes.addressof(each))] for each in both]
        for name, both in memory.items()
    }
    for each in given["opposite"]:
        each.append(three)  # type: ignore[arg-type]
    for name, (text, grid, block, shared) in sides.items():
        device.run(text, name, grid, block, shared, *given[name][0])
    rt, be = ("sums", "opposite") if swapped else ("opposite", "sums")
    made, why = fuse(*(Side(sides[name][0], name, sides[name][2]) for name in (rt, be)))
    assert made is not None, why
    ends = sorted({*(min(cut, size(sides[be][1])) for cut in cuts), size(sides[be][1])})
    first, split = 0, size(sides[rt][1])
    for end in ends:
        if blocks := split + end - first:
            where = [ctypes.c_uint32(n) for n in (split, first, *sides[rt][1], *sides[be][1])]
            values = [*given[rt][1], *given[be][1], *where]
            device.run(made.text, made.name, (blocks, 1, 1), (made.threads, 1, 1), 512, *values)
        first, split = end, 0
    for alone, together in memory.values():
        assert list(alone) == list(together)
