"""What `make bench-gpu` asks of a GPU, asked of the stand-in as far as it goes."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from singularity.agent.hal.cuda import CudaDevice
from singularity.agent.shim.build import built
from singularity.agent.shim.page import ControlPage
from tests.standin.cuda import compiler, stand_in

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
BENCH = Path(__file__).parents[2] / "bench"
# What the bench's kernel does, for a machine whose time is not the GPU's: it sleeps as long.
SLEEP = """
.version 7.0
.target sm_70
.address_size 64
.visible .entry {name}(.param .u64 {name}_us)
{{
	.reg .b32 %r<2>;
	.reg .b64 %d<2>;
	ld.param.u64 %d0, [{name}_us];
	mul.lo.u64 %d0, %d0, 1000;
	cvt.u32.u64 %r0, %d0;
	nanosleep.u32 %r0;
	ret;
}}
"""


def test_a_program_that_is_torn_again_and_again_computes_what_it_does_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    from device_gpu_shim import preempted

    trace = tmp_path / "trace"
    trace.write_bytes(bytes(64))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(stand_in(tmp_path)))
    monkeypatch.setenv("STANDIN_TRACE", str(trace))
    page = ControlPage.create(tmp_path / "page", built(tmp_path))
    assert preempted(page, 5, block_us=1000, blocks=40, threads=4) == []
    assert "the same to the bit as alone" in capsys.readouterr().out


def test_best_effort_blocks_are_padded_by_a_pair_that_is_compiled_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    import device_gpu

    device = CudaDevice(ctypes.CDLL(str(stand_in(tmp_path) / "libcuda.so.1")), 0)
    monkeypatch.setattr(device_gpu, "SPIN", SLEEP)
    monkeypatch.setattr(device_gpu, "HALF_US", 2000)
    assert device_gpu.padded(device, 3 * device_gpu.TURN) == []
    device.close()
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and " 0 blocks padded" in said[0] and "the pair came" in said[2]


def test_a_real_time_kernel_is_seen_to_pass_streams_that_are_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    import device_gpu

    device = CudaDevice(ctypes.CDLL(str(stand_in(tmp_path) / "libcuda.so.1")), 0)
    monkeypatch.setattr(device_gpu, "SPIN", SLEEP)
    monkeypatch.setattr(device_gpu, "FROZEN", (0, 3))
    monkeypatch.setattr(device_gpu, "HELD_UP_S", 30.0)
    assert device_gpu.crowded(device, 3) == []
    device.close()
    assert "beside 3 frozen streams: + p50" in capsys.readouterr().out
