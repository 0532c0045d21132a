"""Shares of GPUs: real ranks in real sandboxes over a stand-in for the CUDA driver; no GPU is
involved."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nodes import JOB, LocalNode, Planet, planet

from singularity.agent.gpusharing import GpuSharing
from singularity.agent.hal.faces import DeviceFacts
from singularity.agent.layout import Layout
from singularity.agent.settings import AgentSettings
from singularity.agent.shim.build import built
from singularity.agent.shim.page import ControlPage, Status
from singularity.primitives.errors import DeviceUnavailable
from singularity.primitives.messages import SharerNote, Start
from singularity.primitives.model import JobId, Unable
from singularity.primitives.sharing import DeviceShare, Precedence
from tests.integration.sandboxes import until
from tests.standin.cuda import CLIENT, compiler, stand_in

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
PATIENCE_S = 60.0
RT, BE = Precedence.REAL_TIME, Precedence.BEST_EFFORT
AWAITED = "sleep 1000 | exec {python} {client} {words}"  # a line comes never
KICKED = "(sleep 1; echo; sleep 1000) | exec {python} {client} {words}"  # one comes soon


class Gpus:
    """Two of them, of 8 GB."""

    def devices(self) -> tuple[DeviceFacts, ...]:
        return tuple(DeviceFacts(i, f"gpu-{i}", "H200", 8_000_000_000, 0) for i in range(2))

    def open(self, index: int) -> None:
        raise AssertionError("the agent opens no device")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[LocalNode]:
    def share(_: AgentSettings, layout: Layout) -> GpuSharing:
        return GpuSharing(layout.devices, built(tmp_path), Gpus())  # type: ignore[arg-type]

    with planet(tmp_path, f"sgg{os.getpid() % 0xFFFFFF:x}") as made:
        made.share = share
        yield made.node("a")


def start(
    node: LocalNode, driver: Path, share: DeviceShare, line: str, words: str, job: str = JOB
) -> Start:
    world: Planet = node._planet
    trace = world.root / f"{job}.trace"
    trace.write_bytes(bytes(64))
    said = line.format(python=sys.executable, client=CLIENT, words=words)
    env = (("LD_LIBRARY_PATH", str(driver)), ("STANDIN_TRACE", str(trace)))
    changes = {"job": JobId(job), "run": ("sh", "-c", said), "share": share, "indices": (1,)}
    return world.start({"a": (0,)}, 1, 1)["a"].model_copy(update={**changes, "env": env})


def notes(node: LocalNode) -> dict[str, SharerNote]:
    return {n.job: n for n in node.sharing.look(node.executor.sharers()).get(1, ())}


def page(node: LocalNode) -> ControlPage:
    return ControlPage(node.layout.devices / "1.page", built(node._planet.root))


def soon(law: Callable[[], object], what: str) -> None:
    until(law, what, PATIENCE_S)


def test_a_rank_has_its_memory_and_no_more_and_sees_its_device_only(
    node: LocalNode, driver: Path
) -> None:
    node.send(start(node, driver, DeviceShare(500, 1_000_000), AWAITED, "dlsym memory"))
    assert node.report().phase == "running"
    log = node.layout.log(JOB, 0)
    soon(lambda: "up 0" in log.read_text(), "it has its memory")
    assert log.read_text().startswith("Alloc_v2 0 2 400000 1000000"), "the second is refused"
    (told,) = notes(node).values()
    assert (told.used_bytes, told.cap_bytes, told.complaint) == (600_000, 1_000_000, "")
    (sharer,) = node.executor.sharers()
    said = Path(f"/proc/{sharer.sandbox.pid}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=1" in said


def test_a_rank_whose_launches_nobody_sees_is_complained_of(node: LocalNode, driver: Path) -> None:
    node.send(start(node, driver, DeviceShare(500, 1), AWAITED, "hidden some 100"))
    assert node.report().phase == "running"
    soon(lambda: notes(node)[JOB].complaint, "somebody complains")
    assert "none of its launches is seen" in notes(node)[JOB].complaint


def test_a_real_time_rank_that_is_killed_leaves_nobody_frozen(
    node: LocalNode, driver: Path
) -> None:
    """It closed the gate for others, and its slot is cleared as soon as it is gone."""
    rt = start(node, driver, DeviceShare(500, 1, RT), KICKED, "dlsym answer 100000 100", "rt")
    node.send(rt)
    assert node.report().phase == "running"
    soon(lambda: page(node).gate, "the gate is closed")
    (sharer,) = node.executor.sharers()
    os.kill(sharer.sandbox.supervisor.pid, 9)
    assert node.report().phase == "lost"
    assert page(node).gate == 0 and not page(node).slot(0).kind
    node.send(start(node, driver, DeviceShare(500, 1), AWAITED, "dlsym some 20", "be"))
    assert node.report().phase == "running"
    soon(lambda: page(node).slot(0).status is Status.SEEING, "the next has the slot")


def test_slots_of_ranks_that_outlive_the_agent_stay_theirs(node: LocalNode, driver: Path) -> None:
    node.send(start(node, driver, DeviceShare(500, 1_000), AWAITED, "dlsym some 20"))
    assert node.report().phase == "running"
    soon(lambda: page(node).slot(0).status is Status.SEEING, "it launches")
    node.restart()
    assert list(notes(node)) == [JOB]
    assert page(node).slot(0).kind, "looking clears what nobody has, and somebody has it"
    node.send(start(node, driver, DeviceShare(100, 1_000), AWAITED, "dlsym some 20", "other"))
    soon(lambda: page(node).slot(1).status is Status.SEEING, "another slot for another")


def test_a_cut_says_that_such_ranks_are_not_carried(node: LocalNode, driver: Path) -> None:
    node.send(start(node, driver, DeviceShare(500, 1), AWAITED, "dlsym some 20"))
    assert node.report().phase == "running"
    node.cut(1, 1, keep_running=True)
    report = node.report()
    assert report.cut == 1 and report.image is None
    if report.unable is not Unable.NODE:  # without CRIU that is said first
        assert "a share of a GPU" in report.reason and report.unable is Unable.JOB


def test_no_shares_are_given_out_where_the_driver_does_not_answer(tmp_path: Path) -> None:
    class Silent:
        def devices(self) -> tuple[DeviceFacts, ...]:
            raise DeviceUnavailable("the driver does not answer")

    with pytest.raises(DeviceUnavailable):
        GpuSharing(tmp_path / "devices", tmp_path / "shim.so", Silent())  # type: ignore[arg-type]
