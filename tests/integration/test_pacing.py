"""A shared GPU as the agent sees it, over a stand-in for the CUDA driver. No GPU is involved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from singularity.agent import pacing
from singularity.agent.device.pace import FIRST, LADDER, Bound
from singularity.agent.pacing import Pacemaker, SharedGpu, now_ns
from singularity.agent.shim.build import built
from singularity.agent.shim.page import AGENT, Class, ControlPage, Mode
from singularity.primitives.sharing import DeviceShare, Precedence
from tests.standin.cuda import Client, compiler, stand_in

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
LIMIT_S = 60.0
RT, BE = Precedence.REAL_TIME, Precedence.BEST_EFFORT
SHARES = {RT: DeviceShare(500, 0, RT), BE: DeviceShare(500, 0, BE)}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in(tmp_path_factory.mktemp("driver"))


class Device:
    def __init__(self, directory: Path, root: Path) -> None:
        self._directory = directory
        self.page = ControlPage.create(root / "page", built(directory))
        self.gpu = SharedGpu(self.page, Bound(judged=40, calm=1000))
        self.clients: list[Client] = []

    def start(self, slot: int, which: Precedence, *words: object) -> Client:
        kind = Class.RT if which is RT else Class.BE
        environment = self.page.admit(slot, kind)
        self.gpu.enter(slot, SHARES[which])
        client = Client(self._directory, f"pacing{slot}", list(words), environment)
        self.clients.append(client)
        assert client.line() == ["up"]
        return client


@pytest.fixture
def device(directory: Path, tmp_path: Path) -> Iterator[Device]:
    made = Device(directory, tmp_path)
    yield made
    for client in made.clients:
        client.end()


def until(law: Callable[[], object], act: Callable[[], object] = lambda: None) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not law():
        assert time.monotonic() < deadline_s
        act()


def test_what_real_time_work_waits_and_best_effort_work_loses_is_counted(device: Device) -> None:
    """Kernels of 3 ms beside an inference of eight of 1 ms: one of the former is always in the
    way."""
    device.start(0, BE, "dlsym", "train", 16, 8, 3000)
    answerer = device.start(1, RT, "dlsym", "answer", 8, 1000)

    def one() -> None:
        answerer.tell()
        answerer.line()
        device.gpu.look(now_ns())

    until(lambda: device.gpu.pace.slowdown is not None, one)
    best_effort, real_time = device.gpu.guests[0].fare, device.gpu.guests[1].fare
    assert device.gpu.pace.slowdown is not None and device.gpu.pace.alone_s is not None
    assert 0.0005 < device.gpu.pace.alone_s < 0.1
    assert best_effort.slowdown and best_effort.slowdown > 1.5 and best_effort.held_s > 0
    assert 0 < best_effort.lost_s < best_effort.held_s, "half was promised, and it had some"
    assert real_time.slowdown and real_time.slowdown >= 1.0
    assert real_time.busy and 0 < real_time.busy <= 1.0


def test_what_is_decided_is_what_the_shims_find(device: Device) -> None:
    assert device.page.rules() == (Mode.STALL, LADDER[FIRST])
    device.start(0, BE, "dlsym", "some", 40)
    device.gpu.look(now_ns())
    assert device.page.rules() == (Mode.STALL, LADDER[FIRST])


def test_launches_that_cannot_wait_on_the_device_are_counted_out(device: Device) -> None:
    """A device that knows no waits: they run behind the gate unless few are ahead."""
    device.page.rule(Mode.NONE)  # as if the wait had failed: launched, and none of them gated
    device.start(0, BE, "dlsym", "some", 40)
    device.gpu.look(now_ns())
    device.gpu.look(now_ns())
    mode, _ = device.page.rules()
    assert mode == Mode.STALL | Mode.WINDOW


def test_who_should_yield_and_cannot_is_told(device: Device) -> None:
    device.page.rule(Mode.NONE)  # as above
    device.start(0, BE, "dlsym", "some", 40)
    slot = device.page.slot(0)
    assert device.gpu.stiff(slot) == "", "nobody asked for it"
    gpu = SharedGpu(device.page, Bound(), yields=True)
    assert device.page.rules()[0] == Mode.STALL | Mode.YIELD
    assert "nothing of it yields" in gpu.stiff(slot)
    assert gpu.stiff(replace(slot, gated=1)) == gpu.stiff(replace(slot, kind=Class.RT)) == ""


def test_a_trial_that_its_agent_does_not_end_ends_all_the_same(device: Device) -> None:
    """Best-effort ranks go on while the agent is away."""
    answerer = device.start(1, RT, "dlsym", "answer", 1, 100)

    def answered() -> None:
        answerer.tell()
        answerer.line()

    answered()
    device.page.close_gate(now_ns() + 1)
    until(lambda: not device.page.gate, lambda: time.sleep(0.01))
    device.page.close_gate()
    for _ in range(3):  # whoever lets it up at its end looks at the deadline, too
        until(lambda: device.page.gate & ~AGENT == 0, lambda: time.sleep(0.01))
        answered()
    assert device.page.gate & AGENT, "what is closed for ever stays so"
    SharedGpu(device.page, Bound())
    assert not device.page.gate & AGENT, "until the next agent comes"


def test_somebody_looks_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever went wrong the last time."""
    seen: list[int] = []
    monkeypatch.setattr(pacing, "_CALM_S", 0.0)

    def look() -> None:
        seen.append(1)
        if len(seen) == 2:
            raise OSError("a page that is gone")

    pacemaker = Pacemaker(look)
    pacemaker.start()
    until(lambda: len(seen) > 4, lambda: time.sleep(0.01))
    pacemaker.stop()
    assert not pacemaker.is_alive()
