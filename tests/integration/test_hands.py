"""What an agent does with ranks, on real processes: cuts, moves, crashes, restarts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import JOB, LocalNode, Planet, origin, planet, resumed
from sandboxes import small_disk, until

from singularity.agent.proof import find_criu, probe
from singularity.agent.runtime.sandbox import Sandbox
from singularity.primitives.messages import Report, Stop

STEPS = 120
ALL = {"a": (0, 1)}
SPLIT = {"b": (0,), "c": (1,)}

pytestmark = pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Planet]:
    with planet(tmp_path, f"sgh{os.getpid() % 0xFFFFFF:x}") as made:
        yield made


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The losses of a run that nobody touched."""
    root = tmp_path_factory.mktemp("reference")
    with planet(root, f"sgr{os.getpid() % 0xFFFFFF:x}") as alone:
        begin(alone, ALL, 1)
        assert ended(alone.node("a")).exit_code == 0
        return alone.losses()


def begin(world: Planet, placement: dict[str, tuple[int, ...]], incarnation: int) -> None:
    for name, start in world.start(placement, incarnation, STEPS).items():
        world.node(name).send(start)
    for name in placement:
        assert world.node(name).report().phase == "running"


def progress(world: Planet, steps: int = 8) -> None:
    goal = world.steps() + steps
    until(lambda: world.steps() >= goal, f"step {goal}")


def ended(node: LocalNode) -> Report:
    """The report of the end; others may come before it."""
    while (report := node.report()).phase == "running":
        pass
    return report


def test_a_gang_moves_and_splits_and_its_losses_stay_the_same(
    world: Planet, reference: list[bytes]
) -> None:
    begin(world, ALL, 1)
    progress(world)
    world.node("a").cut(1, 1, keep_running=True)
    kept = world.node("a").report()
    assert (kept.phase, kept.cut) == ("running", 1)
    assert kept.image is not None
    progress(world)
    world.node("a").cut(1, 2, keep_running=False)
    gone = world.node("a").report()
    assert gone.phase == "dumped"
    for name, start in resumed(world.start(SPLIT, 2, STEPS), origin(gone)).items():
        world.node(name).send(start)
    for name in SPLIT:
        report = world.node(name).report()
        assert (report.phase, report.step) == ("running", gone.step)
    assert [ended(world.node(n)).exit_code for n in SPLIT] == [0, 0]
    assert world.losses() == reference


def pids(node: LocalNode) -> dict[int, int | None]:
    return {rank: sandbox.pid for rank, sandbox in node.executor._hands[JOB]._ranks.items()}


@pytest.mark.parametrize("near", ["awake", "in memory", "in the store"])
def test_a_gang_that_comes_back_to_its_node_needs_the_store_the_less_it_has_there(
    world: Planet, reference: list[bytes], near: str
) -> None:
    begin(world, ALL, 1)
    progress(world)
    node = world.node("a")
    before = pids(node)
    node.cut(1, 1, keep_running=False)
    gone = node.report()
    assert gone.phase == "dumped" and not node.executor._hands[JOB]._ranks
    if near == "in memory":
        node.tools.images.recent.wake(JOB, {})
    elif near == "in the store":
        node.short_of_memory()
    chunks = world.root / "volume" / "chunks"
    chunks.rename(chunks.with_name("away"))
    node.send(resumed(world.start(ALL, 2, STEPS), origin(gone))["a"])
    back = node.report()
    if near == "in the store":
        assert (back.phase, back.corrupt) == ("refused", True)
        return
    assert (back.phase, back.step) == ("running", gone.step)
    assert (pids(node) == before) == (near == "awake")
    chunks.with_name("away").rename(chunks)
    progress(world)
    node.cut(2, 2, keep_running=True)
    kept = node.report()
    assert kept.image is not None and gone.image is not None
    assert kept.image.new_bytes < gone.image.new_bytes / 4, "what has not changed is known"
    assert ended(node).exit_code == 0
    assert world.losses() == reference


def test_what_others_wrote_meanwhile_is_cut_off_before_ranks_are_woken(
    world: Planet, reference: list[bytes]
) -> None:
    """The gang went on elsewhere from the same cut, and that life was lost."""
    begin(world, ALL, 1)
    progress(world)
    node = world.node("a")
    before = pids(node)
    node.cut(1, 1, keep_running=False)
    gone = node.report()
    other = world.node("b")
    other.send(resumed(world.start({"b": (0, 1)}, 2, STEPS), origin(gone))["b"])
    assert other.report().phase == "running"
    progress(world)
    other.send(Stop(job=JOB, node=other.name, incarnation=2))
    assert ended(other).phase == "stopped"
    node.send(resumed(world.start(ALL, 3, STEPS), origin(gone))["a"])
    assert node.report().step == gone.step
    assert pids(node) == before
    assert ended(node).exit_code == 0
    assert world.losses() == reference


def test_an_agent_that_comes_back_leaves_nobody_standing(world: Planet) -> None:
    begin(world, ALL, 1)
    progress(world)
    node = world.node("a")
    standing = pids(node)
    node.cut(1, 1, keep_running=False)
    gone = node.report()
    assert all(Path(f"/proc/{pid}").exists() for pid in standing.values())
    node.restart()
    until(lambda: not any(Path(f"/proc/{p}").exists() for p in standing.values()), "they are gone")
    node.send(resumed(world.start(ALL, 2, STEPS), origin(gone))["a"])
    assert node.report().phase == "running"
    node.send(Stop(job=JOB, node=node.name, incarnation=2))
    assert ended(node).phase == "stopped"


def test_an_agent_that_restarts_in_the_middle_of_a_cut_finishes_it(
    world: Planet, reference: list[bytes]
) -> None:
    begin(world, SPLIT, 1)
    progress(world)
    for name in SPLIT:
        world.node(name).cut(1, 1, keep_running=True)
    world.node("b").restart()
    reports = [world.node(n).report() for n in SPLIT]
    assert {(r.phase, r.cut) for r in reports} == {("running", 1)}
    assert [ended(world.node(n)).exit_code for n in SPLIT] == [0, 0]
    assert world.losses() == reference


def test_a_killed_rank_is_lost_and_the_gang_resumes_from_its_checkpoint(
    world: Planet, reference: list[bytes]
) -> None:
    begin(world, ALL, 1)
    progress(world)
    node = world.node("a")
    node.cut(1, 1, keep_running=True)
    kept = node.report()
    progress(world)
    sandbox = node.layout.sandbox(world.start(ALL, 1, STEPS)["a"], 1)
    found = Sandbox.adopt(sandbox)
    assert found is not None and found.pid is not None
    os.kill(found.pid, signal.SIGKILL)
    report = ended(node)
    assert (report.phase, report.exit_code) == ("lost", None)
    assert "signal 9" in report.reason
    node.send(resumed(world.start(ALL, 2, STEPS), origin(kept))["a"])
    assert node.report().step == kept.step
    assert ended(node).exit_code == 0
    assert world.losses() == reference, "lines written after the checkpoint are not there twice"


def test_a_full_store_fails_the_cut_and_the_job_never_stops(
    world: Planet, tmp_path: Path, reference: list[bytes]
) -> None:
    with small_disk(tmp_path / "volume", "24m"):
        begin(world, ALL, 1)
        progress(world)
        world.node("a").cut(1, 1, keep_running=False)
        report = world.node("a").report()
        assert (report.phase, report.cut, report.image) == ("running", 1, None)
        assert "No space left" in report.reason
        assert ended(world.node("a")).exit_code == 0
        assert world.losses() == reference


def test_a_damaged_image_is_refused_and_named(world: Planet) -> None:
    begin(world, ALL, 1)
    progress(world)
    node = world.node("a")
    node.cut(1, 1, keep_running=False)
    gone = node.report()
    chunks = sorted((world.root / "volume" / "chunks").glob("*/*"), key=lambda p: p.stat().st_size)
    damaged = bytearray(chunks[-1].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunks[-1].write_bytes(damaged)
    node.short_of_memory()
    node.send(resumed(world.start(ALL, 2, STEPS), origin(gone))["a"])
    report = node.report()
    assert (report.phase, report.corrupt) == ("refused", True)
    assert chunks[-1].name in report.reason
    assert not list(node.layout.sandboxes.iterdir()), "nothing is left behind"


def test_a_program_that_crashes_says_so_and_one_that_is_stopped_leaves_nothing(
    world: Planet,
) -> None:
    start = world.start(ALL, 1, STEPS)["a"]
    node = world.node("a")
    node.send(start.model_copy(update={"run": ("sh", "-c", "exit 3")}))
    report = ended(node)
    assert (report.phase, report.exit_code) == ("exited", 3)
    node.send(world.start(ALL, 2, STEPS)["a"])
    assert node.report().phase == "running"
    progress(world, 2)
    node.send(Stop(job=JOB, node=node.name, incarnation=2))
    assert node.report().phase == "stopped"
    assert not list(node.layout.sandboxes.iterdir())


def test_ranks_take_other_slots_while_they_run(world: Planet, reference: list[bytes]) -> None:
    """Two devices, then one, then two again: no cut, no restart, the same losses."""
    begin(world, ALL, 1)
    node = world.node("a")
    for number, slots in enumerate([(0, 0), (0, 1), (1, 1)], 1):
        progress(world)
        node.reslot(1, number, slots)
        report = node.report()
        assert (report.phase, report.resize, report.reason) == ("running", number, "")
        assert report.devices == len(set(slots))
        assert report.seconds["resize"] > 0
    node.cut(1, 1, keep_running=False)
    gone = node.report()
    again = resumed(world.start(SPLIT, 2, STEPS), origin(gone))
    for name, start in again.items():
        world.node(name).send(start)
    assert [ended(world.node(n)).exit_code for n in SPLIT] == [0, 0]
    assert world.losses() == reference


def test_a_process_without_mini_batches_keeps_its_slots_and_says_why(world: Planet) -> None:
    world.reslot_deadline_s = 0.5
    node = world.node("a")
    start = world.start(ALL, 1, 0)["a"].model_copy(update={"run": ("sleep", "600")})
    node.send(start)
    assert node.report().phase == "running"
    node.reslot(1, 1, (0, 0))
    report = node.report()
    assert (report.resize, report.devices) == (1, 2)
    assert "no mini-batch" in report.reason
    assert node.state.live[JOB].start.slots == start.slots


def test_a_process_without_torch_is_cut_where_it_is(world: Planet) -> None:
    node = world.node("a")
    count = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); sleep 0.01; done"
    start = world.start({"a": (0,)}, 1, 0)["a"].model_copy(update={"run": ("sh", "-c", count)})
    node.send(start)
    assert node.report().phase == "running"
    log = node.layout.log(JOB, 0)
    until(lambda: log.exists() and log.read_bytes().count(b"\n") > 20, "some lines")
    node.cut(1, 1, keep_running=False)
    gone = node.report()
    assert gone.phase == "dumped"
    other = world.node("b")
    again = start.model_copy(update={"node": other.name, "gang": (other.name,), "incarnation": 2})
    other.send(again.model_copy(update={"origin": origin(gone)}))
    assert other.report().phase == "running"
    assert ended(other).exit_code == 0
    assert log.read_text().split() == [str(i) for i in range(300)]
