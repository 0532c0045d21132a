"""The CUDA backend over stand-ins for the driver and for NVML. No GPU is involved."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator

import pytest

from singularity.agent.device import events
from singularity.agent.device.kernels import RT, Kernel, Level
from singularity.agent.device.reef import Mode, Policy
from singularity.agent.hal.cuda import CudaDevice, CudaManager
from singularity.agent.hal.driver import Driver
from singularity.agent.hal.nvml import open_nvml, release, unfit
from singularity.primitives.errors import DeviceFailed, DeviceUnavailable, InvalidSpec
from tests.standin.cuda import compiler, stand_in
from tests.standin.cuda import management as build_management
from tests.standin.ptx_kernels import WORK

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
LIMIT_S = 30.0
WAVE_US = 2000


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return ctypes.CDLL(str(stand_in(tmp_path_factory.mktemp("driver")) / "libcuda.so.1"))


@pytest.fixture(scope="module")
def management(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_management(tmp_path_factory.mktemp("nvml")))


@pytest.fixture
def device(library: ctypes.CDLL) -> Iterator[CudaDevice]:
    made = CudaDevice(library, 0)
    made.load("x", "kernel", 32, [WAVE_US])
    yield made
    made.close()


def pump(device: CudaDevice, reports: list[events.Report], finished: int) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while sum(isinstance(r, events.Finished) for r in reports) < finished:
        assert time.monotonic() < deadline_s
        device.pump(0.1)


def test_the_same_scheduler_preempts_a_gpus_streams(device: CudaDevice) -> None:
    reports: list[events.Report] = []
    driver = Driver(device, Policy(window=4), reports.append)
    assert device.caps.levels is Level.INFLIGHT and device.caps.units == 8
    one, other = driver.attach(), driver.attach()
    tasks = [driver.submit(queue, [Kernel("kernel", blocks=8)] * 30) for queue in (one, other)]
    for _ in range(4):
        device.pump(0.01)
        answered = sum(isinstance(r, events.Finished) for r in reports) + 1
        driver.submit(RT, [Kernel("kernel", blocks=8)] * 3)
        pump(device, reports, answered)
    pump(device, reports, 6)
    ended = [report.task for report in reports if isinstance(report, events.Finished)]
    assert sorted(ended) == [1, 2, 3, 4, 5, 6] and set(ended[-2:]) == set(tasks)
    assert sum(isinstance(report, events.Preempted) for report in reports) == 4
    assert all(lane.account.preempted >= 1 for lane in driver.state.lanes[1:])
    assert driver.state.mode is Mode.NORMAL


def test_what_is_frozen_does_not_begin_until_its_gate_opens(device: CudaDevice) -> None:
    reports: list[events.Report] = []
    driver = Driver(device, Policy(window=4), reports.append)
    queue = driver.attach()
    driver.submit(queue, [Kernel("kernel", blocks=8)] * 4)
    driver.submit(RT, [Kernel("kernel", blocks=8)] * 10)
    pump(device, reports, 1)
    (first,) = [report for report in reports if isinstance(report, events.Finished)]
    assert first.queue == RT
    pump(device, reports, 2)


def test_best_effort_blocks_run_in_the_units_that_a_real_time_kernel_leaves_free(
    library: ctypes.CDLL,
) -> None:
    """Kernels in PTX, carried out. The pair is compiled in the background while the first kernels
    run alone; then blocks of the best-effort kernel run beside, the rest of it alone, each once."""
    device, threads, reports = CudaDevice(library, 0), 32, list[events.Report]()
    numbers = {name: (ctypes.c_uint32 * (12 * threads))() for name in ("work", "toil")}
    for name, memory in numbers.items():
        arguments = [ctypes.addressof(memory), 1, 1_000_000]
        device.load(WORK.replace("work", name), name, threads, arguments)
    driver = Driver(device, Policy(window=4), reports.append)
    queue = driver.attach()
    quick = Kernel("work", blocks=3, us=1000.0)
    slow = Kernel("toil", blocks=12, us=2000.0, wave_us=(900.0,))
    driver.submit(RT, [quick] * 60)
    driver.submit(queue, [slow] * 3)
    pump(device, reports, 2)
    account = driver.state.lanes[1].account
    assert account.padded_blocks > 0 and account.finished == 1
    assert list(numbers["toil"]) == [after_ones(3)] * 12 * threads
    assert list(numbers["work"]) == [after_ones(60)] * 3 * threads + [0] * 9 * threads
    device.close()


def test_kernels_that_cannot_be_one_grid_run_one_after_the_other(device: CudaDevice) -> None:
    reports: list[events.Report] = []
    driver = Driver(device, Policy(window=4), reports.append)
    queue = driver.attach()
    kernel = Kernel("kernel", blocks=3, us=WAVE_US, wave_us=(WAVE_US / 2,))
    driver.submit(RT, [kernel] * 4)
    driver.submit(queue, [kernel] * 2)
    pump(device, reports, 2)
    assert driver.state.pairs == {("kernel", "kernel"): None}
    assert driver.state.lanes[1].account.padded_blocks == 0


def after_ones(launches: int) -> int:
    """What `work` makes of 0, always told the number 1."""
    number = 0
    for _ in range(launches):
        number = (5 * number + 1) & 0xFFFFFFFF
    return number


def test_what_it_cannot_do_is_refused(device: CudaDevice) -> None:
    driver = Driver(device, Policy(), [].append)
    with pytest.raises(InvalidSpec, match="no program"):
        driver.submit(RT, [Kernel("unheard of")])
    with pytest.raises(DeviceFailed, match="cuDeviceGet"):
        CudaDevice(device._library, 3)


def test_without_a_driver_the_answer_is_a_clear_line() -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(DeviceUnavailable, match="no CUDA driver"):
        CudaManager(absent).open(0)
    with pytest.raises(DeviceUnavailable, match="no NVIDIA driver"), open_nvml("libno-such.so.1"):
        pass


def test_a_driver_that_is_too_old_says_so(library: ctypes.CDLL) -> None:
    with pytest.raises(DeviceUnavailable, match="too old"), open_nvml(library._name):
        pass


def test_a_gpu_that_is_not_there_is_unavailable(library: ctypes.CDLL) -> None:
    with pytest.raises(DeviceUnavailable, match="GPU 5"):
        CudaManager(lambda name: library).open(5)


def test_devices_are_found_with_all_that_they_tell(management: str) -> None:
    with open_nvml(management) as nvml:
        well, ill = nvml.devices()
        assert nvml.driver() == "580.1"
        assert (nvml.held(0), nvml.held(1)) == ({4711: 5_000_000_000}, {})
    assert (well.uuid, well.memory_bytes, well.used_bytes) == ("GPU-1", 1000, 100)
    assert (well.utilisation, well.temperature_c, well.links) == (0.25, 61, (1,))
    assert not well.health and "7 uncorrected" in ill.health


def test_what_a_device_does_not_tell_is_not_guessed(
    management: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_NVML", "old")
    with open_nvml(management) as nvml:
        first, _ = nvml.devices()
        assert nvml.held(0) == {}
    assert (first.utilisation, first.temperature_c, first.health, first.links) == (
        None,
        None,
        "",
        (),
    )


@pytest.mark.parametrize(
    ("version", "number", "told"),
    [
        ("580.65.06", 580, ""),
        ("525", 525, ""),
        ("470.82.01", 470, "470.82.01 lets no stream wait; sharing needs 525"),
        ("", None, "calls itself ''"),
        ("r580 (open)", None, "which is no version that is known"),
        ("\u0665\u0668\u0660.1", None, "no version"),  # digits, but none of ours
    ],
)
def test_a_version_that_is_too_old_or_like_no_other_is_said(
    version: str, number: int | None, told: str
) -> None:
    assert release(version) == number
    assert told in unfit(version) and bool(told) == bool(unfit(version))
