"""What is told of the queue is found once for a while, and a little of it with each answer."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import POLICY, Planet

from singularity.api import prospects
from singularity.api.prospects import Prospects
from singularity.primitives.model import JobId
from singularity.scheduler.advice import advise
from singularity.scheduler.eta import Eta


class Estimates:
    """Counts how often it was asked."""

    asked = 0

    def outlook(self, *_: Any) -> dict[JobId, Eta]:
        self.asked += 1
        return {JobId("wide-0"): Eta(1.0, 2.0)}


def scene(waiting: int = 3) -> tuple[Planet, Estimates, Prospects]:
    planet, estimates = Planet(nodes=1, regions=("us",)), Estimates()
    planet.run(planet.submit("holds", 4))
    for n in range(waiting):
        planet.submit(f"wide-{n}", 4)
    return planet, estimates, Prospects(estimates)  # type: ignore[arg-type]


def told(planet: Planet, found: Prospects) -> dict[JobId, Any]:
    snapshot, plan = planet.ledger.snapshot(planet.now_s), planet.plan()
    jobs = [j for j in snapshot.jobs if j.id.startswith("wide")]
    return dict(found.changes(snapshot, plan, jobs, POLICY))


def test_each_answer_brings_one_more_where_there_is_no_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prospects, "_ADVISES_S", -1.0)
    planet, _, found = scene()
    assert [len(told(planet, found)) for _ in range(4)] == [1, 2, 3, 3]


def test_a_change_is_the_first_that_why_tells_and_is_looked_for_again_when_it_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planet, _, found = scene(1)
    snapshot, plan = planet.ledger.snapshot(planet.now_s), planet.plan()
    first = next(iter(advise(snapshot, plan, planet.job(JobId("wide-0")), POLICY)), None)
    assert told(planet, found) == {"wide-0": first}
    asked: list[str] = []
    monkeypatch.setattr(prospects, "advise", lambda *a: asked.append(a[2].id) or ())
    assert told(planet, found) == {"wide-0": first} and asked == []
    planet.now_s += prospects._KEPT_S + 1
    assert told(planet, found) == {"wide-0": None} and asked == ["wide-0"]
    planet.ledger.resize(JobId("wide-0"), 4, planet.now_s)
    told(planet, found)
    assert asked == ["wide-0"] * 2, "the job has changed"


def test_estimates_are_asked_for_again_after_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    planet, estimates, found = scene()
    clock = iter([0.0, 2.0, 2.0, 4.0])
    monkeypatch.setattr(prospects.time, "thread_time", lambda: next(clock))
    snapshot = planet.ledger.snapshot(planet.now_s)
    for _ in range(3):
        assert found.etas(snapshot, POLICY) == {"wide-0": Eta(1.0, 2.0)}
    assert estimates.asked == 1
    later = planet.ledger.snapshot(planet.now_s + 61.0)
    found.etas(later, POLICY)
    assert estimates.asked == 2
