"""Whole-system storms. A failing seed is a bug report: run it again, it fails the same way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import pytest

from singularity.primitives.model import JobId
from singularity.primitives.nodes import Node
from singularity.scheduler.sim.passes import EVERY, never
from singularity.scheduler.sim.physics import Ranks
from singularity.scheduler.sim.storm import storm, survive


@pytest.mark.parametrize("seed", range(13))
def test_no_law_is_broken_and_everything_finishes(seed: int) -> None:
    survive(storm(seed))


def test_the_same_seed_is_the_same_history_whatever_the_hash_seed() -> None:
    script = (
        "from singularity.scheduler.sim.storm import storm\n"
        "world = storm(7)\n"
        "world.run(3000)\n"
        "print(world.digest(), len(world.log))\n"
    )

    def digest(hash_seed: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout

    first = digest("1")
    assert int(first.split()[1]) > 300, "a storm in which nothing happens proves nothing"
    assert digest("2") == first


def test_the_storms_are_not_empty() -> None:
    """What the laws are held against really happens: every verb, every fault, refusals too."""
    seen, reached, beside = set[str](), set[str](), Counter[int]()
    for seed in range(100, 103):
        world = storm(seed)
        watched = world.physics.verify_room
        world.physics.verify_room = partial(_watch, watched, beside)  # type: ignore[method-assign]
        survive(world)
        seen |= world.counts.keys()
        reached |= world.passes.keys()
    verbs = {"resume", "checkpoint", "suspend", "migrate", "scale", "failover"}
    faults = {"crash", "restart", "isolate", "drain", "killed", "frozen", "lost", "hang", "hung"}
    orders = {"rebalance", "order-settle", "quota", "maintenance"}
    services = {"wake", "rest", "scaled", "promoted", "reverted", "ended", "woken"}
    wanted = verbs | faults | orders | services
    assert wanted <= seen, wanted - seen
    assert len(EVERY - reached) < 6, f"a few storms come to nearly all: {EVERY - reached}"
    assert beside[2] > 10 and beside[3] > 0, f"how many jobs met on one device: {beside}"


def test_a_pass_that_no_storm_comes_to_is_missed() -> None:
    reached = [Counter(dict.fromkeys(EVERY - {"quarantine"}, 1)), Counter({"rebalanced": 2})]
    assert never(reached) == ["quarantine"]
    assert never([*reached, Counter({"quarantine": 1})]) == []


def _watch(
    verify: Callable[[Node, Mapping[JobId, Ranks]], None],
    beside: Counter[int],
    node: Node,
    ranks: Mapping[JobId, Ranks],
) -> None:
    """Count how many jobs were on each shared device."""
    verify(node, ranks)
    on = Counter(index for r in ranks.values() if not r.gone for index in r.start.indices)
    beside.update(on.values())
