"""GPUs that are given out whole: no two lives have one, and each rank finds its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from singularity.agent import wholegpus
from singularity.agent.gpu import paired
from singularity.agent.layout import Layout
from singularity.agent.reslotting import turn
from singularity.agent.scratch import Scratch
from singularity.agent.wholegpus import WholeGpus
from singularity.primitives.errors import ImageUnfit, SandboxFailed
from singularity.primitives.messages import Reslot, Start
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId

NODE = NodeId("n")


class Machine:
    """A node with GPUs, the sandboxes on it, and what was dumped there."""

    def __init__(self, root: Path, gpus: int = 4) -> None:
        self.root = root
        self.layout = Layout(root / "node", root / "run", root / "volume", Scratch(root / "disk"))
        self.gpus, self.count = WholeGpus(self.layout, gpus, ""), gpus

    def restart(self) -> None:
        self.gpus = WholeGpus(self.layout, self.count, "")

    def sandbox(self, start: Start, rank: int) -> Any:
        directory = self.layout.sandbox(start, rank)
        directory.mkdir(parents=True)
        return SimpleNamespace(directory=directory)

    def begin(self, start: Start) -> list[tuple[int, ...]]:
        """What each rank sees."""
        found = []
        for rank in start.ranks:
            env = self.gpus.environment(start, rank, self.sandbox(start, rank))
            assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
            found.append(tuple(map(int, env["CUDA_VISIBLE_DEVICES"].split(","))))
        return found

    def save(self, start: Start, rank: int) -> Path:
        images = self.root / f"images-{start.job}-{start.incarnation}-{rank}"
        images.mkdir()
        sandbox: Any = SimpleNamespace(directory=self.layout.sandbox(start, rank))
        self.gpus.note(sandbox, images)
        return images

    def end(self, start: Start, *ranks: int) -> None:
        for rank in ranks or start.ranks:
            shutil.rmtree(self.layout.sandbox(start, rank))
            self.gpus.release(start, rank)

    def bring(self, start: Start, images: dict[int, Path]) -> dict[int, dict[int, int]]:
        """Where each rank's GPUs are followed by which."""
        found = {}
        for rank, path in images.items():
            sandbox = self.sandbox(start, rank)
            self.gpus.reseat(start, rank, sandbox, path)
            found[rank] = dict(wholegpus.moves(sandbox.directory))
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "a")


def start(job: str, ranks: int, devices: int, incarnation: int = 1) -> Start:
    return Start(
        job=JobId(job),
        node=NODE,
        incarnation=incarnation,
        gang=(NODE,),
        world=ranks,
        ranks=tuple(range(ranks)),
        slots=tuple(rank * devices // ranks for rank in range(ranks)),
        devices=devices,
        run=("x",),
    )


# -- who has which -------------------------------------------------------------------------------


def test_no_two_jobs_see_the_same_gpu(machine: Machine) -> None:
    one, two = start("one", 1, 1), start("two", 2, 2)
    assert machine.begin(one) == [(0,)]
    assert machine.begin(two) == [(1, 2), (1, 2)], "LOCAL_RANK says which of them"
    machine.end(one)
    assert machine.begin(start("three", 1, 2)) == [(0, 3)]
    with pytest.raises(SandboxFailed, match="0 GPUs are free, and 1 are needed"):
        machine.begin(start("four", 1, 1))


def test_an_agent_that_begins_again_knows_who_has_which(machine: Machine) -> None:
    machine.begin(start("one", 2, 2))
    machine.restart()
    assert machine.begin(start("two", 1, 1)) == [(2,)]


def test_ranks_that_take_turns_find_their_gpu_where_they_look_for_it(machine: Machine) -> None:
    seen = machine.begin(start("one", 4, 2))
    assert [found[rank] for rank, found in enumerate(seen)] == [0, 0, 1, 1]
    assert all(len(set(found)) == len(found) for found in seen), "the driver takes none twice"
    assert machine.begin(start("two", 1, 2)) == [(2, 3)], "what was only seen is not taken"


def test_where_a_rank_would_look_beyond_the_last_gpu_it_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(SandboxFailed, match="cuda:2, and this node has 2"):
        Machine(tmp_path, gpus=2).begin(start("one", 4, 2))


# -- brought back --------------------------------------------------------------------------------


def test_a_rank_is_followed_by_the_gpus_of_its_new_life(machine: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path / "b")
    other.begin(start("there already", 1, 2))
    first, second = start("one", 2, 2), start("one", 2, 2, incarnation=2)
    machine.begin(first)
    images = {rank: machine.save(first, rank) for rank in first.ranks}
    assert other.bring(second, images) == {0: {0: 2, 1: 3}, 1: {0: 2, 1: 3}}


def test_ranks_come_together_on_fewer_gpus_and_spread_again(machine: Machine) -> None:
    wide, narrow, again = (start("one", 4, n, life) for n, life in ((4, 1), (2, 2), (4, 3)))
    machine.begin(wide)
    images = {rank: machine.save(wide, rank) for rank in wide.ranks}
    machine.end(wide)
    moved = machine.bring(narrow, images)
    assert [moved[rank][rank] for rank in wide.ranks] == [0, 0, 1, 1]
    assert all(sorted(m.values()) == [0, 1, 2, 3] for m in moved.values()), "each has a successor"
    images = {rank: machine.save(narrow, rank) for rank in narrow.ranks}
    machine.end(narrow)
    back = machine.bring(again, images)
    now = [back[rank][moved[rank][rank]] for rank in wide.ranks]
    assert now == [0, 1, 2, 3]


def test_those_that_have_not_left_keep_theirs(machine: Machine) -> None:
    first = start("one", 2, 2)
    machine.begin(start("before", 1, 1))
    machine.begin(first)
    images = machine.save(first, 1)
    machine.end(first, 1)
    second = start("one", 2, 2, incarnation=2)
    machine.layout.sandbox(first, 0).rename(machine.layout.sandbox(second, 0))
    machine.restart()
    assert machine.bring(second, {1: images}) == {1: {1: 1, 2: 2}}


def test_a_node_with_fewer_gpus_than_it_saw_is_not_for_it(machine: Machine, tmp_path: Path) -> None:
    first = start("one", 1, 4)
    machine.begin(first)
    images = {0: machine.save(first, 0)}
    small = Machine(tmp_path / "b", gpus=2)
    with pytest.raises(ImageUnfit, match="saw 4 GPUs"):
        small.bring(start("one", 1, 2, incarnation=2), images)


def test_what_was_dumped_where_nothing_was_given_goes_by_number(machine: Machine) -> None:
    images = machine.root / "images"
    images.mkdir(parents=True)
    assert machine.bring(start("one", 1, 1), {0: images}) == {0: {}}


def test_the_driver_is_told_a_successor_for_each_gpu_of_the_node() -> None:
    old, new = ([UUID(int=10 * node + n) for n in range(4)] for node in (1, 2))
    told = dict(paired(old, new, {1: 3, 0: 2}))
    assert [new.index(told[gpu]) for gpu in old] == [2, 3, 0, 1]
    assert dict(paired(old[:2], new, {0: 3})) == {old[0]: new[3], old[1]: new[1]}
    assert paired(old, old, {0: 0}) == ()
    with pytest.raises(ImageUnfit, match="was not there"):
        paired(old, new, {4: 0})
    assert paired((), new, {4: 0}) == (), "it used none"


# -- while they run ------------------------------------------------------------------------------


def test_ranks_on_gpus_do_not_change_devices_while_they_run(machine: Machine) -> None:
    wanted = Reslot(job=JobId("one"), node=NODE, incarnation=1, resize=1, slots=(0, 0), devices=1)
    done = turn(start("one", 2, 2), wanted, {}, lambda: None, 1.0, machine.gpus.fixed)
    assert "only by a checkpoint" in done.reason and done.resize == 1
