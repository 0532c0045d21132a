"""The driver's checkpoint around CRIU's, against a stand-in for the driver: real processes, real
dumps, and calls in the order that the driver demands. No GPU is involved, and nothing is proven of
one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sandboxes import counts_on, ended, lines, network, python, spec, until

from singularity.agent import gpu
from singularity.agent.gpu import CudaDriver, DriverRefused, GpuCheckpointer, Process, paired
from singularity.agent.proof import find_criu, probe
from singularity.agent.runtime.network import Network
from singularity.agent.runtime.sandbox import Sandbox
from singularity.primitives.errors import CheckpointFailed, ImageUnfit, RestoreFailed

SOURCE = Path(__file__).parents[1] / "standin" / "libcuda.c"
CRIU = find_criu(os.environ.get("SINGULARITY_CRIU", ""))
DEADLINE_S = 20.0
# Counts, like any program, with the driver loaded as torch would have it.
USES_CUDA = """
import ctypes, itertools, sys, time
driver = ctypes.CDLL(sys.argv[1])
for i in itertools.count():
    print(i, flush=True)
    time.sleep(0.005)
"""

pytestmark = pytest.mark.skipif(not probe(CRIU).ok, reason="CRIU does not run here")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    made = tmp_path_factory.mktemp("standin") / "libcuda.so.1"
    argv = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-O1", "-o", str(made), str(SOURCE)]
    subprocess.run(argv, check=True)
    return made


class Bench:
    """Sandboxes, and the stand-in's directory."""

    def __init__(self, root: Path, library: Path, network: Network) -> None:
        self.root, self.library, self._network = root, library, network
        self.driver_dir = root / "driver"
        self.driver_dir.mkdir()
        self.gpus(10, 60)
        self.log = root / "log"
        self.sandboxes: list[Sandbox] = []

    def gpus(self, *first: int) -> None:
        (self.driver_dir / "gpus").write_text("\n".join(map(str, first)))

    def checkpointer(self) -> GpuCheckpointer:
        assert CRIU is not None
        return GpuCheckpointer(CRIU, CudaDriver.open())

    def sandbox(self, name: str) -> Sandbox:
        made = Sandbox.create(self.root / name, self._network)
        self.sandboxes.append(made)
        return made

    def counting(self) -> Sandbox:
        sandbox = self.sandbox("first")
        argv = python(USES_CUDA, str(self.library))
        sandbox.launch(spec(self.root, argv, self.log))
        counts_on(self.log)
        return sandbox

    def calls(self) -> list[str]:
        """Since the last time, without pids."""
        found = self.driver_dir / "calls"
        text = found.read_text() if found.exists() else ""
        found.unlink(missing_ok=True)
        return [
            " ".join(w for i, w in enumerate(line.split()) if i != 1) for line in text.splitlines()
        ]


@pytest.fixture
def bench(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with network() as net:
        made = Bench(tmp_path, library, net)
        monkeypatch.setenv("STANDIN_CUDA", str(made.driver_dir))
        monkeypatch.setattr(gpu, "_LIBRARY", str(library))
        yield made
        for sandbox in made.sandboxes:
            sandbox.kill()


def test_a_rank_leaves_its_devices_for_the_dump_and_comes_back(bench: Bench) -> None:
    rank = bench.counting()
    bench.checkpointer().dump(rank, bench.root / "images")
    assert bench.calls() == ["lock", "checkpoint", "restore", "unlock"]
    counts_on(bench.log)


def test_a_rank_goes_on_elsewhere_on_the_gpus_that_are_there(bench: Bench) -> None:
    rank = bench.counting()
    bench.checkpointer().dump(rank, bench.root / "images")
    rank.kill()
    bench.calls()
    bench.gpus(110, 160)
    (bench.driver_dir / "state").write_text(str(int(Process.CHECKPOINTED)))  # as it was dumped
    bench.checkpointer().restore(bench.sandbox("second"), bench.root / "images", DEADLINE_S)
    assert bench.calls() == ["restore 10>110 60>160", "unlock"]
    counts_on(bench.log)
    counted = lines(bench.log)
    assert counted == [str(i) for i in range(len(counted))]


@pytest.mark.parametrize(
    ("call", "calls"),
    [
        ("lock", ["lock"]),
        ("checkpoint", ["lock", "checkpoint", "unlock"]),
    ],
)
def test_a_rank_that_cannot_leave_its_devices_runs_on(
    bench: Bench, call: str, calls: list[str]
) -> None:
    rank = bench.counting()
    (bench.driver_dir / f"fail.{call}").touch()
    with pytest.raises(CheckpointFailed, match=f"{call} of .* with 999; it runs on"):
        bench.checkpointer().dump(rank, bench.root / "images")
    assert bench.calls() == calls
    counts_on(bench.log)


def test_a_dump_that_fails_brings_the_rank_back_to_its_devices(bench: Bench) -> None:
    rank = bench.counting()
    (bench.root / "images").write_text("a file where a directory should be")
    with pytest.raises(OSError, match="exists"):
        bench.checkpointer().dump(rank, bench.root / "images")
    assert bench.calls() == ["lock", "checkpoint", "restore", "unlock"]
    counts_on(bench.log)


def test_a_rank_that_cannot_come_back_is_killed_and_not_left_to_wait(bench: Bench) -> None:
    rank = bench.counting()
    (bench.driver_dir / "fail.restore").touch()
    bench.checkpointer().dump(rank, bench.root / "images")
    ended(rank)


def test_a_restored_rank_that_does_not_get_its_devices_is_no_rank(bench: Bench) -> None:
    rank = bench.counting()
    bench.checkpointer().dump(rank, bench.root / "images")
    rank.kill()
    (bench.driver_dir / "fail.restore").touch()
    second = bench.sandbox("second")
    with pytest.raises(RestoreFailed, match=r"restore of .* with 999"):
        bench.checkpointer().restore(second, bench.root / "images", DEADLINE_S)
    until(lambda: not second.alive(), "nothing of it is left")


def test_fewer_gpus_than_before_are_refused_before_anything_is_restored(bench: Bench) -> None:
    bench.checkpointer().dump(bench.counting(), bench.root / "images")
    bench.gpus(110)
    with pytest.raises(ImageUnfit, match="a node with 2 GPUs, and this one has 1"):
        bench.checkpointer().restore(bench.sandbox("second"), bench.root / "images", DEADLINE_S)


def test_a_rank_without_cuda_is_dumped_as_ever(bench: Bench) -> None:
    sandbox = bench.sandbox("plain")
    sandbox.launch(spec(bench.root, python("import time; print(0, flush=True); time.sleep(60)")))
    until((bench.root / "log").exists, "it runs")
    bench.checkpointer().dump(sandbox, bench.root / "images")
    assert bench.calls() == [] and not list((bench.root / "images").glob("gpus*"))


def test_what_is_missing_of_a_driver_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "_LIBRARY", str(tmp_path / "libcuda.so.1"))
    with pytest.raises(DriverRefused, match="no CUDA driver is installed"):
        CudaDriver.open()

    monkeypatch.setattr(gpu, "_LIBRARY", "libc.so.6")
    with pytest.raises(DriverRefused, match="older than 570"):
        CudaDriver.open()


def test_gpus_that_are_the_same_need_no_map() -> None:
    one, two, three = (UUID(int=i) for i in (1, 2, 3))
    assert paired((one, two), (one, two), {}) == () == paired((), (one,), {})
    assert paired((one,), (two, three), {}) == ((one, two),)


def test_whether_a_process_can_leave_a_gpu_is_proven_by_doing_it(bench: Bench) -> None:
    assert gpu.prove(CudaDriver.open()) >= 0.0
    assert bench.calls() == ["lock", "checkpoint", "restore", "unlock"]
    (bench.driver_dir / "fail.checkpoint").touch()
    with pytest.raises(DriverRefused, match="checkpoint of"):
        gpu.prove(CudaDriver.open())
