"""A service's new revision takes over, at once or after a trial, or is taken back."""

from __future__ import annotations

import pytest

from singularity.primitives.messages import Report
from singularity.primitives.routing import NONE
from singularity.scheduler.services import Canary, Promise, Slo
from tests.unit.service_scene import ServiceScene, counts, service

SLO = Slo(Promise.WAIT, 1.0, 0.9)
SLOW = (*NONE[:-1], 100)


def test_a_new_revision_takes_over_without_a_gap() -> None:
    scene = ServiceScene()
    scene.serve(service(least=2, most=3))
    scene.go(5)
    scene.update("better", None)
    for _ in range(40):
        scene.load()
        scene.tick()
        assert len(scene.ready()) >= 2
    assert {j.spec.run for j in scene.ready()} == {("better",)}
    assert {j.spec.run for j in scene.replicas()} == {("better",)}, "the old ones are no more"


def test_a_roll_at_its_most_ends_though_replicas_have_rested_before() -> None:
    scene = ServiceScene()
    scene.serve(service(most=4))
    scene.go(10, busy=3.8)
    scene.go(100, busy=0.8)
    scene.rescale(2, 2)
    scene.go(10, busy=0.8)
    scene.update("better", None)
    scene.go(60, busy=0.8)
    assert {j.spec.run for j in scene.replicas()} == {("better",)}


def tried(requests: int = 100) -> ServiceScene:
    scene = ServiceScene()
    scene.serve(service(least=2, most=4, slo=SLO))
    scene.go(5, busy=0.8)
    scene.update("better", Canary(share=0.5, requests=requests, within_s=600.0))
    scene.go(5, busy=0.8)
    return scene


def test_a_canary_gets_its_share_of_the_replicas() -> None:
    scene = tried()
    assert sorted(j.spec.run for j in scene.ready()) == [("better",), ("serve",)]


def test_a_canary_that_keeps_the_promise_takes_over() -> None:
    scene = tried()
    scene.go(1, revision=2, **counts(done=100))
    scene.go(20, busy=0.8)
    assert scene.seen().revision == 2 and scene.seen().trial is None
    assert {j.spec.run for j in scene.replicas()} == {("better",)}
    assert "takes over" in scene.seen().message


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (counts(done=100, waits=SLOW), "0.00% of 100 requests had a wait within 1 s"),
        (counts(done=20, failed=11), "64.52% of 31 requests"),
    ],
)
def test_a_canary_that_breaks_the_promise_is_taken_back(seen: dict[str, object], why: str) -> None:
    scene = tried()
    scene.go(1, revision=2, **seen)  # type: ignore[arg-type]
    scene.go(20, busy=0.8)
    assert scene.seen().revision == 1 and scene.seen().trial is None
    assert {j.spec.run for j in scene.replicas()} == {("serve",)}
    told = next(c for p in scene.plans for c in p.changes if c.event == "reverted")
    assert why in told.reason


def test_a_canary_that_crashes_is_taken_back() -> None:
    scene = tried()
    job = next(j for j in scene.ready() if j.spec.run == ("better",))
    (node,) = job.nodes
    said = {"job": job.id, "node": node, "incarnation": job.incarnation, "phase": "exited"}
    scene.ledger.record(Report.model_validate({**said, "exit_code": 3}), scene.now_s)
    scene.go(5, busy=0.8)
    told = next(c for p in scene.plans for c in p.changes if c.event == "reverted")
    assert "exited with code 3" in told.reason


def test_a_canary_has_its_time() -> None:
    scene = tried(requests=1_000)
    scene.go(1, revision=2, **counts(done=10))
    scene.go(620, busy=0.8)
    told = next(c for p in scene.plans for c in p.changes if c.event == "reverted")
    assert "10 of 1000 requests" in told.reason


def test_a_revision_after_one_that_was_taken_back_has_a_number_of_its_own() -> None:
    scene = tried()
    scene.go(1, revision=2, **counts(done=20, failed=11))
    scene.go(5, busy=0.8)
    scene.update("best", None)
    scene.go(20, busy=0.8)
    assert scene.seen().revision == 3 and {j.spec.run for j in scene.replicas()} == {("best",)}
