"""Shares of GPUs: real ranks in real sandboxes over a stand-in for the CUDA driver; no GPU is
involved."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from nodes import JOB, LocalNode, Planet, origin, planet

from singularity.agent import gpu
from singularity.agent.gpusharing import GpuSharing, Shim
from singularity.agent.hal import nvml
from singularity.agent.hal.faces import DeviceFacts
from singularity.agent.inventory import look, manager
from singularity.agent.layout import Layout
from singularity.agent.node import open_sharing
from singularity.agent.proof import find_criu, probe
from singularity.agent.scratch import open_scratch
from singularity.agent.seats import Seat
from singularity.agent.settings import AgentSettings
from singularity.agent.sharing import Unshared
from singularity.agent.shim.build import built
from singularity.agent.shim.page import ControlPage, Mode, Status
from singularity.primitives.errors import DeviceUnavailable
from singularity.primitives.messages import Report, SharerNote, Start
from singularity.primitives.model import JobId, Unable
from singularity.primitives.nodes import NodeId
from singularity.primitives.sharing import GIB, DeviceShare, Precedence
from tests.integration.sandboxes import until
from tests.standin.cuda import CLIENT, HERE, compiler, management, stand_in

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
PATIENCE_S = 60.0
RT, BE = Precedence.REAL_TIME, Precedence.BEST_EFFORT
AWAITED = "sleep 1000 | exec {python} {client} {words}"  # a line comes never
KICKED = "(sleep 1; echo; sleep 1000) | exec {python} {client} {words}"  # one comes soon


class Gpus:
    """Two of them, of 8 GB."""

    def devices(self) -> tuple[DeviceFacts, ...]:
        return tuple(DeviceFacts(i, f"gpu-{i}", "H200", 8_000_000_000, 0) for i in range(2))

    taken: ClassVar[dict[int, int]] = {}  # bytes, by process, on all of them

    def held(self, index: int) -> dict[int, int]:
        return self.taken

    def open(self, index: int) -> None:
        raise AssertionError("the agent opens no device")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in(tmp_path_factory.mktemp("driver"))


@contextmanager
def sharing(root: Path, *, yields: bool) -> Iterator[LocalNode]:
    def share(_: AgentSettings, layout: Layout) -> GpuSharing:
        shim = Shim(layout.devices, built(layout.shims[0]), yields)
        return GpuSharing(shim, Gpus(), layout.page)  # type: ignore[arg-type]

    with planet(root, f"sgg{os.getpid() % 0xFFFFFF:x}") as made:
        made.share = share
        yield made.node("a")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[LocalNode]:
    with sharing(tmp_path, yields=False) as made:
        yield made


@pytest.fixture
def movers(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """What a stand-in for the driver's checkpoints was asked, and how many GPUs it has."""
    if not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok:
        pytest.skip("CRIU does not run here")
    library, state = tmp_path_factory.mktemp("movers") / "libcuda.so.1", tmp_path / "driver"
    argv = [compiler() or "", "-shared", "-fPIC", "-Wall", "-Werror", "-O1", "-o", str(library)]
    subprocess.run([*argv, str(HERE / "libcuda.c")], check=True)
    state.mkdir()
    (state / "gpus").write_text("10\n60")
    monkeypatch.setenv("STANDIN_CUDA", str(state))
    monkeypatch.setattr(gpu, "_LIBRARY", str(library))
    return state


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
    return page_of(node, 1)


def page_of(node: LocalNode, index: int) -> ControlPage:
    return ControlPage(node.layout.devices / f"{index}.page", built(node.layout.shims[0]))


def soon(law: Callable[[], object], what: str) -> None:
    until(law, what, PATIENCE_S)


def test_a_rank_has_its_memory_and_no_more_and_sees_its_device_only(
    node: LocalNode, driver: Path
) -> None:
    node.send(start(node, driver, DeviceShare(500, 1_000_000), AWAITED, "dlsym memory"))
    assert node.report().phase == "running"
    log = node.layout.log(JOB, 0)
    soon(lambda: "up 0" in log.read_text(), "it has its memory")
    assert log.read_text().startswith("MemAlloc_v2 0 2 400000 1000000"), "the second is refused"
    (told,) = notes(node).values()
    assert (told.used_bytes, told.cap_bytes, told.complaint) == (600_000, 1_000_000, "")
    (sharer,) = node.executor.sharers()
    said = Path(f"/proc/{sharer.sandbox.pid}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=1" in said and b"SINGULARITY_YIELD=1" not in said
    assert page(node).rules()[0] == Mode.STALL and not node.sharing.yields


def test_best_effort_kernels_leave_block_by_block_where_the_operator_says_so(
    tmp_path: Path, driver: Path
) -> None:
    """They are torn, whole again, and each block has run once; real-time ranks keep theirs."""
    with sharing(tmp_path, yields=True) as node:
        words = "dlsym work 8 40 1000000"
        node.send(start(node, driver, DeviceShare(500, 1 << 30, BE), AWAITED, words))
        assert node.report().phase == "running"
        soon(lambda: page(node).slot(0).status is Status.SEEING, "it launches")
        assert page(node).rules()[0] & Mode.YIELD
        assert b"SINGULARITY_YIELD=1" in environment(node)[JOB]

        def mended() -> bool:
            page(node).close_gate()
            left = page(node).slot(0).left
            page(node).open_gate()
            return left > 0 and page(node).slot(0).mended > 0

        soon(mended, "a torn grid is whole again")
        assert [d.yields for d in look(Gpus(), {}, yields=node.sharing.yields)] == [True] * 2  # type: ignore[arg-type]
        node.send(start(node, driver, DeviceShare(500, 1, RT), AWAITED, "dlsym some 1", "rt"))
        assert node.report().phase == "running"
        assert b"SINGULARITY_YIELD=1" not in environment(node)["rt"]
        told = notes(node)
        stiff = told[JOB].unyielding
        assert stiff is not None and 0.4 < stiff < 0.6, "every other of its kernels only looks"
        assert told["rt"].unyielding is None


def environment(node: LocalNode) -> dict[str, list[bytes]]:
    found = {s.start.job: s.sandbox.pid for s in node.executor.sharers()}
    return {
        job: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for job, pid in found.items()
    }


def test_a_rank_whose_launches_nobody_sees_is_complained_of(node: LocalNode, driver: Path) -> None:
    node.send(start(node, driver, DeviceShare(500, 1), AWAITED, "hidden some 100"))
    assert node.report().phase == "running"
    soon(lambda: notes(node)[JOB].complaint, "somebody complains")
    assert "none of its launches is seen" in notes(node)[JOB].complaint


def test_a_rank_that_got_memory_past_the_shim_is_ended(
    node: LocalNode, driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What any process has on a GPU besides is not counted against it."""
    node.send(start(node, driver, DeviceShare(500, GIB), AWAITED, "dlsym some 20"))
    assert node.report().phase == "running"
    soon(lambda: page(node).slot(0).status is Status.SEEING, "it has loaded the driver")
    (sharer,) = node.executor.sharers()
    (pid,) = gpu.users(sharer.sandbox)
    monkeypatch.setattr(Gpus, "taken", {pid: 2 * GIB, 1: 1 << 40})
    assert list(notes(node)) == [JOB], "all others are none of ours"
    monkeypatch.setattr(Gpus, "taken", {pid: 2 * GIB + 1})
    notes(node)
    report = node.report()
    assert (report.phase, report.exit_code) == ("exited", 137)
    assert report.reason == "rank 0 took more memory than its 1 GiB, and was killed"


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


def runs(page: ControlPage, slot: int) -> bool:
    """Is it launching, right now?"""
    before = page.slot(slot).launched
    soon(lambda: page.slot(slot).launched > before + 2, "it launches")
    return True


def saved(node: LocalNode, driver: Path) -> tuple[Start, Report]:
    first = start(node, driver, DeviceShare(500, 1_000_000), AWAITED, "dlsym hold 600000")
    node.send(first)
    assert node.report().phase == "running"
    soon(lambda: page(node).slot(0).used_bytes == 600_000, "it has its memory")
    assert runs(page(node), 0)
    node.cut(1, 1, keep_running=False)
    report = node.report()
    assert report.phase == "dumped" and report.image is not None, report
    return first, report


def test_a_rank_is_carried_to_another_device_with_its_share(
    movers: Path, node: LocalNode, driver: Path
) -> None:
    """Its memory counts there, its cap holds, the other device's gate is the one that holds it."""
    first, report = saved(node, driver)
    assert not page(node).slot(0).kind, "its slot is free for others"
    other: LocalNode = node._planet.node("b")
    (movers / "state").write_text("2")  # as it was dumped
    changes = {"incarnation": 2, "node": "b", "gang": ("b",), "indices": (0,)}
    other.send(first.model_copy(update={**changes, "origin": origin(report)}))
    began = other.report()
    assert began.phase == "running", began
    calls = (movers / "calls").read_text().splitlines()[-2:]
    assert [c.split()[0] for c in calls] == ["restore", "unlock"]
    assert calls[0].split()[2:] == ["10>60", "60>10"], "device 1 goes on as device 0"
    there = page_of(other, 0)
    slot = there.slot(0)
    assert (slot.used_bytes, slot.cap_bytes) == (600_000, 1_000_000)
    assert runs(there, 0) and there.slot(0).denied > slot.denied, "as much again is too much"
    there.close_gate()
    soon(lambda: settled(there, 0), "it waits for the gate of the device that it is on")
    there.open_gate()
    assert runs(there, 0)
    told = {n.job: n for n in other.sharing.look(other.executor.sharers()).get(0, ())}
    assert told[JOB].used_bytes == 600_000 and not told[JOB].complaint


def settled(page: ControlPage, slot: int) -> bool:
    before = page.slot(slot).launched
    time.sleep(0.3)
    return page.slot(slot).launched == before


def test_a_rank_that_holds_more_than_its_share_does_not_come_back(
    movers: Path, node: LocalNode, driver: Path
) -> None:
    first, report = saved(node, driver)
    less = {"incarnation": 2, "share": DeviceShare(500, 500_000), "origin": origin(report)}
    node.send(first.model_copy(update=less))
    refused = node.report()
    assert refused.phase == "refused" and refused.unfit
    assert "600000 bytes, more than a cap of 500000" in refused.reason
    assert not page(node).slot(0).kind and page(node).gate == 0


def test_a_rank_that_is_saved_goes_on_in_its_slot(
    movers: Path, node: LocalNode, driver: Path
) -> None:
    node.send(start(node, driver, DeviceShare(500, 1_000_000), AWAITED, "dlsym hold 600000"))
    assert node.report().phase == "running"
    assert runs(page(node), 0)
    node.cut(1, 1, keep_running=True)
    assert node.report().image is not None
    assert runs(page(node), 0) and page(node).slot(0).used_bytes == 600_000


def test_a_driver_that_takes_no_rank_off_its_gpu_is_the_reason_why_a_cut_fails(
    node: LocalNode, driver: Path
) -> None:
    node.send(start(node, driver, DeviceShare(500, 1), AWAITED, "dlsym some 20"))
    assert node.report().phase == "running"
    node.cut(1, 1, keep_running=True)
    report = node.report()
    assert report.cut == 1 and report.image is None and report.unable is Unable.NODE
    if probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok:  # else that is said first
        assert "takes no rank off its GPU" in report.reason


def test_the_slot_of_a_rank_that_ended_unheard_is_free_again(node: LocalNode, driver: Path) -> None:
    """As of one that stood here to be handed over, and was not wanted."""
    node.send(start(node, driver, DeviceShare(500, 1), AWAITED, "dlsym some 20"))
    assert node.report().phase == "running"
    (sharer,) = node.executor.sharers()
    node.executor.abandon()
    sharer.sandbox.kill()
    node.sharing.look(())
    assert not page(node).slot(0).kind
    seat = Seat.of(node.layout.page(JobId(JOB), 0))
    assert not seat.page.exists() and not seat.words.exists()


def test_a_share_that_this_node_cannot_give_is_refused(
    tmp_path: Path, driver: Path, node: LocalNode
) -> None:
    """Whatever was known of it when the job was placed."""
    node._planet.share = lambda *_: Unshared("no compiler")
    node.restart()
    node.send(start(node, driver, DeviceShare(500, 1), AWAITED, "dlsym some 20"))
    report = node.report()
    assert (report.phase, report.reason) == (
        "refused",
        "this node gives out no shares of devices: no compiler",
    )

    class Flat(Unshared):
        memory_bytes = 1 << 30

    node._planet.share = lambda *_: Flat("")
    node.restart()
    node.send(start(node, driver, DeviceShare(500, 1, RT), AWAITED, "dlsym some 20", "rt"))
    report = node.report()
    assert report.phase == "refused" and "cannot be preempted; use be" in report.reason


def test_no_shares_are_given_out_where_the_driver_does_not_answer(tmp_path: Path) -> None:
    def nowhere(job: JobId, rank: int) -> Path:
        raise AssertionError("there are no ranks")

    class Silent:
        def devices(self) -> tuple[DeviceFacts, ...]:
            raise DeviceUnavailable("the driver does not answer")

    shim = Shim(tmp_path / "devices", tmp_path / "shim.so")
    with pytest.raises(DeviceUnavailable):
        GpuSharing(shim, Silent(), nowhere)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "yields", "told"),
    [
        ("580.1", False, ""),
        ("470.82", False, "lets no stream wait; sharing needs 525"),
        ("best ever", True, "no version that is known"),
        ("535.104", False, ""),
        ("535.104", True, "SINGULARITY_SHARE_YIELD needs driver 550 or later: 535.104 does not"),
        ("550.54", True, ""),
    ],
)
def test_gpus_are_shared_by_a_driver_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, yields: bool, told: str
) -> None:
    """As an agent finds out when it starts."""
    monkeypatch.setattr(nvml, "_LIBRARY", str(management(tmp_path)))
    monkeypatch.setenv("STANDIN_DRIVER", version)
    with planet(tmp_path, f"sgg{os.getpid() % 0xFFFFFF:x}") as made:
        wanted = {"device": "H200", "share": True, "share_yield": yields}
        of_node = made.settings(NodeId("a"), 0).model_copy(update=wanted)
        scratch = open_scratch(tmp_path / "a", None)
        layout = Layout(tmp_path / "a", tmp_path / "run", tmp_path / "volume", scratch)
        found = open_sharing(of_node, layout, manager("H200"))
        scratch.close()
    assert told in found.reason and bool(told) == bool(found.reason)
    assert found.yields == (yields and not told)
    assert (found.memory_bytes, found.preempts) == ((0, False) if told else (1000, True))
    share = DeviceShare(500, 1, RT)
    assert bool(found.refuses(share)) == bool(told)
