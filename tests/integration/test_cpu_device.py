"""The device scheduler over a real process that trains and answers on the processors."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from singularity.agent.device import events
from singularity.agent.device.kernels import RT, Kernel, QueueId
from singularity.agent.device.reef import Mode, Policy
from singularity.agent.hal.cpu import CpuDevice, CpuManager
from singularity.agent.hal.driver import Driver
from singularity.primitives.errors import DeviceFailed, DeviceUnavailable, InvalidSpec

PROGRAMS = "tests.standin.cpu_programs:programs"
STEPS = 60
TRAINING = [Kernel("learn", blocks=40, idempotent=False), Kernel("step", idempotent=False)] * STEPS
LIMIT_S = 60.0


@dataclass
class Bench:
    log: Path
    device: CpuDevice
    reports: list[events.Report] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.driver = Driver(self.device, Policy(padding=False), self.reports.append)

    def until(self, finished: int) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while self.finished() < finished:
            assert time.monotonic() < deadline_s, self.driver.state
            self.device.pump(0.2)

    def finished(self) -> int:
        return sum(isinstance(report, events.Finished) for report in self.reports)

    def lines(self, word: str = "") -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(word)]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setenv("PROGRAMS_LOG", str(log))
    device = CpuDevice(PROGRAMS)
    yield Bench(log, device)
    device.close()


def train(bench: Bench, *, interrupted: bool) -> str:
    """The hash of what was learnt, once since the log began."""
    before = len(bench.lines("digest"))
    queue = bench.driver.attach()
    bench.driver.submit(queue, [*TRAINING, Kernel("digest")])
    goal = bench.finished() + 1
    while interrupted and bench.finished() < goal and len(bench.lines("rt 0")) < 40:
        goal += 1
        bench.driver.submit(RT, [Kernel("answer", blocks=3)])
        answered = bench.finished() + 1
        bench.until(answered)
        bench.device.pump(0.005)  # the training goes on meanwhile
    bench.until(goal)
    return bench.lines("digest")[before]


def test_training_that_is_preempted_many_times_learns_the_same_to_the_bit(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = train(bench, interrupted=True)
    account = bench.driver.state.lanes[1].account
    assert account.preempted >= 5 and account.again_blocks == 0
    assert account.torn, "no kernel was left in the middle, so nothing was shown"

    log = tmp_path / "calm"
    log.touch()
    monkeypatch.setenv("PROGRAMS_LOG", str(log))
    device = CpuDevice(PROGRAMS)
    try:
        assert train(Bench(log, device), interrupted=False) == found
    finally:
        device.close()
    blocks = [f"be {n}" for n in range(40)] * STEPS
    assert bench.lines("be") == blocks, "each block once, in its order"


def test_no_training_runs_while_an_inference_has_the_device(bench: Bench) -> None:
    train(bench, interrupted=True)
    lines = bench.lines()
    answers = [i for i, line in enumerate(lines) if line == "rt 0"]
    assert len(answers) >= 5
    assert all(lines[i : i + 3] == ["rt 0", "rt 1", "rt 2"] for i in answers)
    assert bench.driver.state.mode is Mode.NORMAL


def test_a_collective_is_not_frozen_half_way(bench: Bench) -> None:
    queue = bench.driver.attach()
    bench.driver.submit(queue, [Kernel("learn", blocks=500, collective=True)])
    while not bench.lines("be"):
        bench.device.pump(0.01)
    bench.driver.submit(RT, [Kernel("answer", blocks=3)])
    bench.until(2)
    lines = bench.lines()
    assert lines.index("rt 0") > lines.index("be 499")


def test_a_program_that_fails_is_reported_with_its_reason(bench: Bench) -> None:
    bench.driver.submit(bench.driver.attach(), [Kernel("fail")])
    with pytest.raises(DeviceFailed, match="this program fails"):
        bench.until(1)


def test_a_worker_that_dies_is_reported(bench: Bench) -> None:
    os.kill(bench.device.pid, signal.SIGKILL)
    with pytest.raises(DeviceFailed, match="gone"):
        bench.until(1)


def test_what_processors_cannot_do_is_refused(bench: Bench) -> None:
    stream = bench.device.queue(QueueId(3), bench.driver)
    with pytest.raises(InvalidSpec):
        stream.interrupt()


def test_a_worker_that_cannot_begin_and_a_device_that_is_not_there() -> None:
    with pytest.raises(DeviceUnavailable):
        CpuDevice("no.such.module:programs")
    with pytest.raises(DeviceUnavailable):
        CpuManager().open(0)
    (facts,) = CpuManager().devices()
    assert facts.memory_bytes > 0 and facts.used_bytes > 0 and not facts.health


def test_shares_of_memory_are_kept(bench: Bench) -> None:
    driver = Driver(bench.device, Policy(), bench.reports.append, memory_bytes=100)
    queue = driver.attach(cap_bytes=60)
    assert driver.take(queue, 60) and not driver.take(queue, 1)
    with pytest.raises(InvalidSpec, match="holds 60"):
        driver.cap(queue, 50)
    with pytest.raises(InvalidSpec, match="are left"):
        driver.attach(cap_bytes=41)
    driver.detach(queue)
    assert driver.attach(cap_bytes=100)
