"""The part of the fault table that a node alone decides: slow disks, stopped ranks, damaged chunks,
lesser processors. What comes of them ends with the numbers of a run that nothing befell."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from nodes import LocalNode, Planet, origin, planet, resumed
from sandboxes import until

from singularity.agent.processors import here
from singularity.agent.proof import find_criu, probe
from singularity.agent.runtime.sandbox import Sandbox
from singularity.agent.tools import Tools
from singularity.primitives.messages import Report
from singularity.primitives.model import ShardImage
from singularity.primitives.nodes import NodeId
from singularity.store.imagestore import Copies, RankImages, Saving, Store
from singularity.store.manifest import ImageKey
from singularity.store.vault import Vault
from tests.integration.test_chaos import reference_of

CUT_DEADLINE_S = 12.0  # long for an ordinary cut here

pytestmark = pytest.mark.skipif(
    not probe(find_criu(os.environ.get("SINGULARITY_CRIU", ""))).ok, reason="CRIU does not run here"
)
Record = Callable[[str, object], None]


@dataclass
class SlowSaving:
    inner: Saving
    delay_s: float

    def take(self, rank: int, images: RankImages) -> None:
        self.inner.take(rank, images)

    def commit(self, step: int) -> ShardImage:
        time.sleep(self.delay_s)
        return self.inner.commit(step)


@dataclass
class SlowStore:
    """A store on a disk that takes `delay_s` longer for each save."""

    inner: Store
    delay_s: float = 0.0

    @contextmanager
    def saving(self, key: ImageKey, vault: Vault, copies: Copies | None = None) -> Iterator[Saving]:
        with self.inner.saving(key, vault, copies) as saving:
            yield SlowSaving(saving, self.delay_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Planet]:
    with planet(tmp_path, f"sgf{os.getpid() % 0xFFFFFF:x}") as made:
        yield made


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def ended(node: LocalNode) -> Report:
    while (report := node.report()).phase == "running":
        pass
    return report


def test_slow_disks_damaged_chunks_and_lesser_processors(
    world: Planet, tmp_path: Path, record_property: Record
) -> None:
    disk = SlowStore(None)  # type: ignore[arg-type]
    older = replace(here(), features=frozenset(sorted(here().features)[1:]))

    def fit(node: NodeId, tools: Tools) -> Tools:
        if node == "old":
            return replace(tools, images=replace(tools.images, processor=older))
        disk.inner = tools.images.store
        return replace(tools, images=replace(tools.images, store=disk))  # type: ignore[arg-type]

    world.fit = fit
    node, steps, all_ = world.node("a"), 1500, (0, 1)

    def progress(more: int = 10) -> None:
        goal = world.steps() + more
        until(lambda: world.steps() >= goal, f"step {goal}", 60.0)

    def start(name: str, incarnation: int, *kept: Report) -> Report:
        made = world.start({name: all_}, incarnation, steps)
        made = resumed(made, origin(*kept)) if kept else made
        world.node(name).send(made[name])
        return world.node(name).report()

    def cut(number: int, *, keep_running: bool = True) -> Report:
        node.cut(1, number, keep_running=keep_running)
        return node.report()

    assert start("a", 1).phase == "running"
    progress()
    first = cut(1)
    assert first.image is not None
    world.cut_deadline_s = CUT_DEADLINE_S
    node.restart()
    disk.delay_s = CUT_DEADLINE_S + 1.0
    slow = cut(2)
    assert (slow.phase, slow.image) == ("running", None) and "within 12 s" in slow.reason
    record_property("fault", "slow disk, past the deadline | given up | the same life | 0 steps")
    rank = Sandbox.adopt(node.layout.sandbox(world.start({"a": all_}, 1, steps)["a"], 1))
    assert rank is not None and rank.pid is not None
    os.kill(rank.pid, signal.SIGSTOP)
    late = cut(3)
    os.kill(rank.pid, signal.SIGCONT)
    assert (late.phase, late.image) == ("running", None) and "came to no further" in late.reason
    record_property(
        "fault", "a rank is stopped past the deadline | given up | the same life | 0 steps"
    )
    disk.delay_s = 1.0
    progress()
    later = cut(4)
    assert later.image is not None and later.seconds["store"] >= 1.0
    record_property("fault", "slow disk, in time | the cut takes longer | the same life | 0 steps")
    disk.delay_s = 0.0
    chunks = world.root / "volume" / "chunks"
    before = set(chunks.glob("*/*"))
    progress()
    gone = cut(5, keep_running=False)
    assert gone.phase == "dumped"
    new = max(set(chunks.glob("*/*")) - before, key=lambda path: path.stat().st_size)
    flip(new)
    node.short_of_memory()
    damaged = start("a", 2, gone)
    assert (damaged.phase, damaged.corrupt) == ("refused", True)
    record_property(
        "fault", "chunk damaged | refused, the cut before is taken | new lives: 1 | 0 steps"
    )
    refused = start("old", 3, later)
    assert (refused.phase, refused.unfit, refused.corrupt) == ("refused", True, False)
    missing = sorted(here().features)[0]
    assert refused.reason.endswith(f"lack: {missing}")
    assert not world.node("old").layout.sandboxes.exists(), "before anything was restored"
    record_property(
        "fault", "processor lacks a feature | refused before the restore | new lives: 1 | 0 steps"
    )
    assert start("a", 4, later).step == later.step
    assert ended(node).exit_code == 0
    assert world.losses() == reference_of(tmp_path, steps)
