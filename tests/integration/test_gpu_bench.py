"""What `make bench-gpu` asks of a GPU, asked of the stand-in as far as it goes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from singularity.agent.shim.build import built
from singularity.agent.shim.page import ControlPage
from tests.standin.cuda import compiler, stand_in

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
BENCH = Path(__file__).parents[2] / "bench"


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
