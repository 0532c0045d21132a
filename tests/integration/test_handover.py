"""Moves past the store, on real processes: what is handed over, who stays, and what is lost."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nodes import JOB, Planet, origin, planet, resumed
from sandboxes import until

from singularity.agent import handover
from singularity.agent.core import Forget
from singularity.agent.proof import find_criu, probe
from singularity.primitives.messages import Origin, Report

STEPS = 90
SPREAD = {"a": (0,), "b": (1,)}
OTHERS = {"c": (0,), "d": (1,)}
PAIR = {"a": (0, 1)}
HALVES = {"a": (0,), "b": (1,)}

pytestmark = pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Planet]:
    with planet(tmp_path, f"sgo{os.getpid() % 0xFFFFFF:x}") as made:
        yield made


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The losses of a run that nobody touched."""
    root = tmp_path_factory.mktemp("reference")
    with planet(root, f"sgp{os.getpid() % 0xFFFFFF:x}") as alone:
        begin(alone, PAIR)
        assert ended(alone, "a").exit_code == 0
        return alone.losses()


def begin(world: Planet, placement: dict[str, tuple[int, ...]]) -> None:
    for name, start in world.start(placement, 1, STEPS).items():
        world.node(name).send(start)
    for name in placement:
        assert world.node(name).report().phase == "running"
    until(lambda: world.steps() >= 8, "step 8")


def ended(world: Planet, name: str) -> Report:
    while (report := world.node(name).report()).phase == "running":
        pass
    return report


def hand_over(
    world: Planet, placement: dict[str, tuple[int, ...]], stay: dict[str, tuple[int, ...]]
) -> Origin:
    for name in placement:
        world.node(name).cut(1, 1, keep_running=False, stay=stay.get(name, ()))
    gone = [world.node(name).report() for name in placement]
    assert [r.phase for r in gone] == ["dumped"] * len(gone), gone
    return origin(*gone)


def go_on(world: Planet, placement: dict[str, tuple[int, ...]], found: Origin) -> None:
    for name, start in resumed(world.start(placement, 2, STEPS), found).items():
        world.node(name).send(start)


def pids(world: Planet, name: str, incarnation: int) -> dict[int, int | None]:
    """Of the ranks on a node, as the machine numbers them."""
    hands = world.node(name).executor._hands[JOB]
    assert hands.start_command.incarnation == incarnation
    return {rank: sandbox.pid for rank, sandbox in hands._ranks.items()}


def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two nodes find that they share a machine."""
    machines = itertools.count()
    monkeypatch.setattr(handover, "boot_id", lambda: f"machine {next(machines)}")


@pytest.mark.parametrize("far", [False, True], ids=["one machine", "two machines"])
def test_a_gang_moves_to_other_nodes_past_the_store(
    world: Planet, reference: list[bytes], monkeypatch: pytest.MonkeyPatch, far: bool
) -> None:
    if far:
        apart(monkeypatch)
    begin(world, SPREAD)
    found = hand_over(world, SPREAD, {})
    assert not list((world.root / "volume").glob("manifests/**/*.json"))
    assert not list((world.root / "volume").glob("chunks/**/*")), "nothing went into the store"
    go_on(world, OTHERS, found)
    reports = [world.node(name).report() for name in OTHERS]
    assert {(r.phase, r.step) for r in reports} == {("running", found.step)}
    for name in SPREAD:
        node = world.node(name)
        node._handle(Forget(((JOB, 1),)))
        until(lambda homes=node.layout.scratch.homes: not kept(homes), "memory is free again")
    assert [ended(world, name).exit_code for name in OTHERS] == [0, 0]
    assert world.losses() == reference


def kept(homes: tuple[Path, ...]) -> list[Path]:
    return [path for home in homes for path in home.glob(f"{JOB}.*")]


def test_a_rank_that_stays_is_not_dumped_and_lives_on(
    world: Planet, reference: list[bytes]
) -> None:
    """One of two leaves: the other is the same process before and after."""
    begin(world, PAIR)
    before = pids(world, "a", 1)
    found = hand_over(world, PAIR, {"a": (0,)})
    (image,) = found.shards
    assert image.held is not None and image.held.standing == (0,)
    inside = [p.name for p in Path(image.held.directory).iterdir() if p.is_dir()]
    assert inside == ["1"], "only who leaves is dumped"
    go_on(world, HALVES, found)
    assert [world.node(name).report().phase for name in HALVES] == ["running"] * 2
    after = pids(world, "a", 2)
    assert after == {0: before[0]}
    assert [ended(world, name).exit_code for name in HALVES] == [0, 0]
    assert world.losses() == reference
    assert not list(world.node("a").layout.sandboxes.iterdir()), "nothing is left behind"


@pytest.mark.parametrize("far", [False, True], ids=["one machine", "two machines"])
def test_an_agent_that_dies_in_between_gives_what_it_kept_and_wakes_who_stood_there(
    world: Planet,
    reference: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    far: bool,
) -> None:
    if far:
        apart(monkeypatch)
    begin(world, PAIR)
    before = pids(world, "a", 1)
    found = hand_over(world, PAIR, {"a": (0,)})
    world.node("a").restart()
    go_on(world, HALVES, found)
    assert [world.node(name).report().phase for name in HALVES] == ["running"] * 2
    assert pids(world, "a", 2) == {0: before[0]}
    assert [ended(world, name).exit_code for name in HALVES] == [0, 0]
    assert world.losses() == reference
    told = f"agent killed that keeps a handover | the next one gives it | from step {found.step}"
    record_property("fault", f"{told} | 0 steps")


def test_what_was_in_the_memory_of_a_machine_that_died_is_refused_as_such(
    world: Planet, record_property: Callable[[str, object], None]
) -> None:
    begin(world, PAIR)
    found = hand_over(world, PAIR, {"a": (0,)})
    world.node("a").executor.kill_all()
    go_on(world, HALVES, found)
    for name, what in (("a", "was to wait"), ("b", "is kept no more")):
        report = ended(world, name)
        assert (report.phase, report.corrupt) == ("refused", True)
        assert what in report.reason
    told = "machine lost that keeps a handover | refused, the last checkpoint is taken"
    record_property("fault", f"{told} | new lives: 2 | 0 steps")


def test_a_handover_that_is_given_up_leaves_the_gang_running_and_nothing_in_memory(
    world: Planet, reference: list[bytes]
) -> None:
    world.cut_deadline_s = 2.0
    begin(world, SPREAD)
    stopped = world.node("b").executor._hands[JOB]._ranks[1]
    stopped.freeze()  # it comes to no boundary in time
    for name in SPREAD:
        world.node(name).cut(1, 1, keep_running=False, stay=())
    gave_up = world.node("a").layout.record(JOB, 1, 1)
    until(lambda: gave_up.exists() and "abort" in gave_up.read_text(), "the lead gives up")
    stopped.thaw()
    for name in SPREAD:
        node = world.node(name)
        report = node.report()
        assert (report.phase, report.cut, report.image) == ("running", 1, None)
        assert not kept(node.layout.scratch.homes)
    assert [ended(world, name).exit_code for name in SPREAD] == [0, 0]
    assert world.losses() == reference
