"""Whoever is told what changed sees what one who reads everything sees."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.primitives.errors import Conflict
from singularity.primitives.model import TERMINAL, Intent, JobId
from singularity.primitives.nodes import Duty, NodeId, Scope, ScopeKind
from singularity.scheduler.decide import decide
from singularity.scheduler.resident import Resident
from singularity.scheduler.snapshot import Snapshot
from tests.unit.fleets import POLICY, Planet, share

HAPPENINGS = (
    "submit", "tick", "tick", "run", "end", "cancel", "lose", "drain", "ready",
    "join", "remove", "look",
)  # fmt: skip


def happen(planet: Planet, what: str, which: int) -> None:
    jobs = sorted(j.id for j in planet.ledger.jobs().values() if j.state not in TERMINAL)
    nodes = sorted(planet.ledger.nodes())
    job, node = jobs[which % len(jobs)] if jobs else None, nodes[which % len(nodes)]
    match what:
        case "submit":
            after = (job,) if job and which % 3 == 0 else ()
            part = share(10 + which, 1 + which % 3) if which % 2 else None
            name = f"job-{len(planet.ledger.jobs())}"
            planet.submit(name, which % 6 + 1, after=after, share=part)
        case "tick":
            planet.tick()
        case "run" | "end" if job:
            for phase in ("running", "exited")[: 1 + (what == "end")]:
                facts = {"exit_code": 0} if phase == "exited" else {}
                planet.report(job, phase, **facts)
        case "cancel" if job:
            planet.ledger.intend(job, Intent.CANCEL, planet.now_s)
        case "lose":
            planet.ledger.lose({node: planet.now_s}, planet.now_s)
        case "drain" | "ready":
            duty = Duty.DRAINING if what == "drain" else Duty.READY
            planet.ledger.set_duty(Scope(ScopeKind.NODE, node), duty, planet.now_s)
        case "remove":
            with suppress(Conflict):
                planet.ledger.remove_node(node, planet.now_s, 0.0)
        case "join":  # one that is new, or grew, or was lost
            name = str(node) if which % 2 else f"us-{which}"
            with suppress(Conflict):  # it holds more than it would have now
                planet.join(name, name.split("-")[0], 4 + which % 3, whole=which % 5 > 0)


def assert_same(one: Snapshot, other: Snapshot) -> None:
    for name in Snapshot.__slots__:
        here, there = getattr(one, name), getattr(other, name)
        if name == "fleet":
            for part, that in zip(here.index, there.index, strict=True):
                assert np.array_equal(part, that)
        elif name == "steady":
            assert (here.of, here.astir) == (there.of, there.astir)
        elif isinstance(here, np.ndarray):
            assert np.array_equal(here, there), name
        else:
            assert here == there, name


@given(st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 30)), max_size=40))
@settings(deadline=None)
def test_following_is_reading_everything(story: list[tuple[str, int]]) -> None:
    planet, resident = Planet(), Resident()
    jobs: dict[JobId, Any] = {}
    nodes: dict[NodeId, Any] = {}
    for what, which in [*story, ("look", 0)]:
        happen(planet, what, which)
        if what != "look":
            continue
        now, there = dict(planet.ledger.jobs()), dict(planet.ledger.nodes())
        changed = [j for j in now.values() if jobs.get(j.id) != j]
        if not jobs:
            changed = [j for j in changed if j.state not in TERMINAL]
        resident.remove(nodes.keys() - there.keys())
        resident.apply([n for n in there.values() if nodes.get(n.id) != n], changed)
        resident.apply((), [now[j] for j in sorted(resident.missing()) if j in now])
        jobs, nodes = now, there
        seen = replace(resident.snapshot(planet.now_s), projects=tuple(planet.ledger.projects()))
        assert_same(seen, planet.ledger.snapshot(planet.now_s))
        later = replace(seen, now_s=planet.now_s + 200.0 * which)
        assert decide(later, POLICY) == decide(replace(later, lined=None, steady=None), POLICY)


def test_the_snapshot_before_stays_as_it_was() -> None:
    planet, resident = Planet(), Resident()
    planet.submit("job", 4)
    resident.apply(planet.ledger.nodes().values(), planet.ledger.jobs().values())
    before = resident.snapshot(planet.now_s)
    free, jobs = before.free.tolist(), before.jobs
    planet.tick()
    resident.apply(planet.ledger.nodes().values(), planet.ledger.jobs().values())
    after = resident.snapshot(planet.now_s)
    assert (before.free.tolist(), before.jobs) == (free, jobs)
    assert before.fleet.free.tolist() == free
    assert after.free.tolist() != free and after.jobs != jobs


def test_books_that_do_not_balance_are_refused() -> None:
    planet, resident = Planet(), Resident()
    planet.submit("job", 4)
    resident.apply(planet.ledger.nodes().values(), planet.ledger.jobs().values())
    resident.snapshot(planet.now_s)
    planet.tick()
    resident.apply(planet.ledger.nodes().values(), ())
    with pytest.raises(AssertionError, match="do not balance"):
        resident.snapshot(planet.now_s)
