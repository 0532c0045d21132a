"""Replicas whose devices more urgent work wants: no request is cut off that ends in time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from singularity.primitives import replicas, verbs
from singularity.primitives.messages import Stop
from singularity.primitives.model import Intent, Job, JobState, Tier
from singularity.primitives.routing import Loads
from singularity.scheduler.decide import decide
from singularity.scheduler.explain import explain
from singularity.scheduler.plan import Verb
from singularity.scheduler.services import Canary
from tests.unit.service_scene import POLICY, ServiceScene, counts, service

BOUND_S = int(POLICY.evict_grace_s)


def wanted(devices: int = 4, least: int = 4, grace_s: float = 30.0) -> tuple[ServiceScene, Job]:
    """A basic service has all of a node, and premium work wants one device; who makes way."""
    scene = ServiceScene(nodes=1, devices=devices)
    kept = service(least=least, most=least, tier=Tier.BASIC, grace_s=grace_s)
    scene.serve(kept)
    scene.go(5, busy=least - 0.2)
    assert len(scene.ready()) == least
    scene.train("urgent", 1, tier=Tier.PREMIUM)
    scene.tick()
    (leaving,) = [j for j in scene.replicas() if j.leaving_at_s is not None]
    return scene, leaving


def hears(scene: ServiceScene, job: Job, left: int) -> None:
    """The router knows that it leaves, and says how many requests are still there."""
    scene.ledger.hear_router("eu", Loads(router="r", leaving={job.id: left}), scene.now_s)
    scene.tick()


def test_it_gets_nothing_new_and_stays_until_its_requests_are_done() -> None:
    scene, job = wanted()
    assert job.state is JobState.RUNNING and not replicas.ready(job)
    assert job.intent is Intent.RUN and replicas.evicted(job)
    snapshot = scene.ledger.snapshot(scene.now_s)
    told = explain(snapshot, decide(snapshot, POLICY), job, POLICY).reasons
    assert [r.kind for r in told] == ["rest", "taken"] and "urgent (premium)" in told[1].detail
    for _ in range(BOUND_S - 3):
        hears(scene, job, left=1)
        assert scene.job(job.id).state is JobState.RUNNING
    assert scene.job("urgent").state is JobState.PENDING
    hears(scene, job, left=0)
    assert scene.job(job.id).state is JobState.SUSPENDED
    scene.tick()
    assert scene.job("urgent").state is JobState.RUNNING


def test_urgent_work_waits_no_longer_than_the_bound() -> None:
    scene, job = wanted(grace_s=3600.0)
    for _ in range(BOUND_S + 1):
        hears(scene, job, left=1)
    assert scene.job(job.id).state is JobState.SUSPENDED
    assert any(
        "others wait for its devices for 10 s" in a.reason for p in scene.plans for a in p.actions
    )


def test_nor_longer_than_its_own_grace() -> None:
    scene, job = wanted(grace_s=3.0)
    for _ in range(4):
        hears(scene, job, left=1)
    assert scene.job(job.id).state is JobState.SUSPENDED


def test_its_node_is_told_to_be_quick() -> None:
    _, job = wanted()
    (stop,) = verbs.suspend(job, 1_100.0).commands
    assert isinstance(stop, Stop) and stop.grace_s == replicas.LAST_S
    (stop,) = verbs.suspend(replace(job, taken=None), 1_100.0).commands
    assert isinstance(stop, Stop) and stop.grace_s is None


def test_one_is_enough_while_it_leaves_and_it_is_not_called_back() -> None:
    scene, job = wanted()
    for _ in range(BOUND_S - 3):
        scene.ledger.hear_router("eu", Loads(router="r", leaving={job.id: 1}), scene.now_s)
        scene.load(3.8)  # as much to do as ever
        scene.ledger.hear_router("eu", Loads(router="r", leaving={job.id: 1}), scene.now_s)
        scene.tick()
        assert [j.id for j in scene.replicas() if not replicas.ready(j)] == [job.id]
    evictions = [a for p in scene.plans for a in p.actions if a.verb is Verb.EVICT]
    assert [a.job for a in evictions] == [job.id]


def test_it_comes_back_when_there_is_room_again() -> None:
    scene, job = wanted()
    hears(scene, job, left=0)
    scene.go(5, busy=3.8)
    assert len(scene.ready()) == 3 and scene.job(job.id).intent is Intent.RUN
    scene.ledger.intend(scene.job("urgent").id, Intent.CANCEL, scene.now_s)
    scene.go(5, busy=3.8)
    assert len(scene.ready()) == 4 and not replicas.evicted(scene.job(job.id))


def test_one_that_rests_already_makes_way_within_the_bound_too() -> None:
    """However long its service lets it finish."""
    scene = ServiceScene(nodes=1, devices=2)
    scene.serve(service(least=1, most=2, tier=Tier.BASIC, grace_s=3600.0))
    scene.go(10, busy=1.8)
    scene.rescale(1, 1)
    scene.tick()
    (leaving,) = [j for j in scene.replicas() if j.leaving_at_s is not None]
    scene.train("urgent", 1, tier=Tier.PREMIUM)
    for _ in range(BOUND_S + 3):
        hears(scene, leaving, left=1)
    assert scene.job(leaving.id).state is JobState.SUSPENDED
    scene.tick()
    assert scene.job("urgent").state is JobState.RUNNING and len(scene.ready()) == 1


def test_one_that_does_not_answer_yet_has_nothing_to_finish() -> None:
    scene = ServiceScene(nodes=1, devices=1)
    scene.answers = False
    scene.serve(service(most=1, tier=Tier.BASIC))
    scene.go(3, busy=0.8)
    scene.train("urgent", 1, tier=Tier.PREMIUM)
    scene.go(2, busy=0.8)
    assert scene.job("urgent").state is JobState.RUNNING


@pytest.mark.parametrize("good", [True, False])
def test_a_revision_can_be_tried_where_only_one_replica_may_be(good: bool) -> None:
    """For as long as that takes there is one more."""
    scene = ServiceScene()
    scene.serve(service(most=1))
    scene.go(5, busy=0.8)
    scene.update("better", Canary(share=0.5, requests=100, within_s=600.0))
    scene.go(5, busy=0.8)
    assert sorted(j.spec.run for j in scene.ready()) == [("better",), ("serve",)]
    seen = counts(done=100) if good else counts(done=20, failed=11)
    scene.go(1, revision=2, **seen)
    for _ in range(20):
        scene.go(1, busy=0.8)
        assert scene.ready(), "somebody answers all the time"
    (left,) = [j for j in scene.replicas() if j.placement]
    assert left.spec.run == (("better",) if good else ("serve",))
