"""The pass that makes services follow their load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from singularity.primitives.drains import Drain
from singularity.primitives.errors import Conflict
from singularity.primitives.model import TERMINAL, Intent, JobState, Tier
from singularity.primitives.nodes import Duty, NodeId, Scope, ScopeKind
from singularity.primitives.routing import BUCKETS, NONE, Loads
from singularity.scheduler.decide import decide
from singularity.scheduler.explain import explain
from singularity.scheduler.policy import Policy
from singularity.scheduler.services import Promise, Slo, opened
from tests.unit.service_scene import ServiceScene, service

SLO = Slo(Promise.WAIT, 1.0, 0.9)
SLOW = (*NONE[:-1], 100)


def test_a_new_service_starts_what_it_always_has() -> None:
    scene = ServiceScene()
    scene.serve(service(least=2))
    scene.go(3)
    assert len(scene.ready()) == 2
    assert len(scene.replicas()) == 4, "the others are at rest"


def test_load_wakes_replicas_and_its_fall_lets_them_rest() -> None:
    scene = ServiceScene()
    scene.serve(service())
    scene.go(10, busy=2.5)
    assert len(scene.ready()) == 3
    scene.go(300, busy=0.5)
    assert len(scene.ready()) == 1
    assert all(j.intent is Intent.HOLD for j in scene.replicas() if j not in scene.ready())


def test_never_more_than_its_most_however_much_there_is() -> None:
    scene = ServiceScene()
    scene.serve(service(most=3))
    scene.go(20, busy=50.0)
    assert len(scene.ready()) == 3


def test_silence_of_routers_is_no_lack_of_load() -> None:
    scene = ServiceScene()
    scene.serve(service())
    scene.go(10, busy=2.8)
    for _ in range(400):
        scene.tick()
    assert len(scene.ready()) == 3


def test_the_last_replica_rests_only_where_it_may_and_comes_back_for_one_request() -> None:
    scene = ServiceScene()
    scene.serve(service(least=1, idle_after_s=60.0))
    scene.go(5, busy=0.8)
    scene.go(300)
    assert scene.ready() == []
    scene.go(4, busy=0.8, queued=1)
    assert len(scene.ready()) == 1


def test_a_new_one_starts_before_it_may_rest() -> None:
    scene = ServiceScene(nodes=0)
    scene.serve(service(least=1, idle_after_s=60.0))
    scene.go(100)
    scene.join("late", 4)
    scene.go(30)
    assert len(scene.ready()) == 1, "somebody sees whether it answers"
    scene.go(60)
    assert scene.ready() == []


# -- training gives and gets back -----------------------------------------------------------------


def test_training_shrinks_for_replicas_before_anybody_is_suspended() -> None:
    scene = ServiceScene(nodes=1, devices=8)
    scene.train("equal", 6, least=2, tier=Tier.PREMIUM)
    scene.train("basic", 2, tier=Tier.BASIC)
    scene.tick(), scene.tick()
    scene.serve(service())
    scene.go(10, busy=2.8)
    assert scene.job("equal").held == 3, "also of the same tier"
    assert scene.job("basic").state is JobState.RUNNING
    assert len(scene.ready()) == 3


def test_training_of_the_same_tier_is_never_suspended_for_a_replica() -> None:
    scene = ServiceScene(nodes=1, devices=4)
    scene.train("equal", 4, least=3, tier=Tier.PREMIUM)
    scene.tick(), scene.tick()
    scene.serve(service())
    scene.go(20, busy=2.8)
    assert scene.job("equal").held == 3 and len(scene.ready()) == 1


def test_less_urgent_work_is_suspended_when_nobody_can_shrink() -> None:
    scene = ServiceScene(nodes=1, devices=4)
    scene.train("basic", 4, tier=Tier.BASIC)
    scene.tick(), scene.tick()
    scene.serve(service())
    scene.go(3, busy=0.8)
    assert scene.job("basic").state is JobState.SUSPENDING


def test_when_the_load_falls_training_grows_back_and_the_loan_is_over() -> None:
    scene = ServiceScene(nodes=1, devices=4)
    scene.train("train", 4, least=1)
    scene.go(10)
    scene.serve(service())
    scene.go(10, busy=2.8)
    lent = scene.job("train").loans
    assert sum(loan.devices for loan in lent) == 3 and {x.service for x in lent} == {"cnn"}
    scene.go(400, busy=0.5)
    assert scene.job("train").held == 3, "one replica stays"
    assert sum(loan.devices for loan in scene.job("train").loans) == 1
    over = [repaid for job, repaid in scene.ledger.loans() if job == "train"]
    assert sum(r.loan.devices for r in over) == 2
    assert all(r.device_s > 0 for r in over)


def test_why_names_who_has_its_devices() -> None:
    scene = ServiceScene(nodes=1, devices=4)
    scene.train("train", 4, least=1)
    scene.go(3)
    scene.serve(service())
    scene.go(10, busy=2.8)
    snapshot = scene.ledger.snapshot(scene.now_s)
    told = explain(snapshot, decide(snapshot, Policy()), scene.job("train"), Policy())
    assert any("devices to service cnn for" in r.detail for r in told.reasons if r.kind == "lent")
    rests = next(j for j in scene.replicas() if j.intent is Intent.HOLD)
    told = explain(snapshot, decide(snapshot, Policy()), rests, Policy())
    assert [r.kind for r in told.reasons] == ["rest"]


def test_a_loan_ends_with_the_job_that_lent() -> None:
    scene = ServiceScene(nodes=1, devices=4)
    scene.train("train", 4, least=1)
    scene.go(3)
    scene.serve(service())
    scene.go(10, busy=2.8)
    scene.ledger.intend(scene.job("train").id, Intent.CANCEL, scene.now_s)
    scene.go(5, busy=2.8)
    assert scene.job("train").state in TERMINAL and scene.job("train").loans == ()
    assert sum(r.loan.devices for _, r in scene.ledger.loans()) == 3


def test_idle_devices_are_taken_before_anybody_is_asked() -> None:
    scene = ServiceScene(nodes=2, devices=4)
    scene.train("train", 4, least=1)
    scene.go(3)
    scene.serve(service())
    scene.go(10, busy=3.8)
    assert scene.job("train").held == 4 and len(scene.ready()) == 4


def test_the_replica_rests_where_training_lacks_most() -> None:
    scene = ServiceScene(nodes=2, devices=4)
    scene.train("short", 4, least=2)
    scene.go(3)
    scene.serve(service(most=6))
    scene.go(20, busy=5.8)
    assert scene.job("short").held == 2
    (node,) = scene.job("short").nodes
    scene.go(400, busy=3.5)
    assert scene.job("short").held == 4
    assert all(node not in j.nodes for j in scene.ready())


# -- leaving --------------------------------------------------------------------------------------


def test_who_leaves_stays_until_its_requests_are_done_or_its_grace_is_over() -> None:
    scene = ServiceScene()
    scene.serve(service(most=2))
    scene.go(10, busy=1.8)
    scene.rescale(1, 1)
    scene.load(1.8)
    scene.tick()
    (leaving,) = [j for j in scene.replicas() if j.leaving_at_s is not None]
    for _ in range(20):  # the router says that one request is still there
        loads = Loads(router="r", leaving={leaving.id: 1})
        scene.ledger.hear_router("eu", loads, scene.now_s)
        scene.tick()
        assert scene.job(leaving.id).state is JobState.RUNNING
    scene.ledger.hear_router("eu", Loads(router="r", leaving={leaving.id: 0}), scene.now_s)
    scene.tick()
    assert scene.job(leaving.id).state is JobState.SUSPENDED


def test_the_grace_is_over_some_time() -> None:
    scene = ServiceScene()
    scene.serve(service(most=2))
    scene.go(10, busy=1.8)
    scene.rescale(1, 1)
    for _ in range(40):
        scene.ledger.hear_router("eu", Loads(router="r"), scene.now_s)  # it knows of nobody leaving
        scene.tick()
    assert sum(bool(j.placement) for j in scene.replicas()) == 1


def test_load_that_comes_back_keeps_who_had_not_left_yet() -> None:
    scene = ServiceScene()
    scene.serve(service(most=2))
    scene.go(10, busy=1.8)
    lives = [j.incarnation for j in scene.ready()]
    scene.rescale(1, 1)
    scene.tick()
    scene.rescale(1, 2)
    scene.go(10, busy=1.8)
    assert [j.incarnation for j in scene.ready()] == lives


def test_an_ended_service_leaves_nothing_behind() -> None:
    scene = ServiceScene()
    scene.serve(service(least=2))
    scene.go(5)
    scene.end()
    scene.go(10)
    assert scene.ledger.services() == [] and scene.replicas() == []
    assert all(n.used == 0 for n in scene.ledger.nodes().values())
    scene.serve(service())
    scene.go(5)
    assert len(scene.ready()) == 1, "its name is free again"


# -- drains and failures --------------------------------------------------------------------------


def drained(scene: ServiceScene, node: str) -> None:
    scope = Scope(ScopeKind.NODE, node)
    scene.ledger.open_drain(Drain(f"drain-{node}", scope, scene.now_s), "ada")


def test_a_replica_leaves_a_draining_node_when_another_answers_for_it() -> None:
    scene = ServiceScene()
    scene.serve(service())
    scene.go(5, busy=0.8)
    (node,) = scene.ready()[0].nodes
    drained(scene, node)
    for _ in range(10):
        scene.load(0.8)
        scene.tick()
        assert scene.ready(), "somebody answers all the time"
    assert [j.nodes for j in scene.ready()] == [frozenset({NodeId("n1" if node == "n0" else "n0")})]


def test_at_its_most_one_goes_first() -> None:
    scene = ServiceScene()
    scene.serve(service(least=2, most=2))
    scene.go(5)
    drained(scene, "n0")
    scene.go(20)
    assert all(j.nodes == {"n1"} for j in scene.ready()) and len(scene.ready()) == 2


def test_where_there_is_no_room_elsewhere_a_replica_stays() -> None:
    scene = ServiceScene(nodes=1)
    scene.serve(service())
    scene.go(5, busy=0.8)
    scene.ledger.set_duty(Scope(ScopeKind.NODE, "n0"), Duty.DRAINING, scene.now_s)
    scene.go(20, busy=0.8)
    assert len(scene.ready()) == 1
    (reason,) = scene.plans[-1].pending[scene.ready()[0].id]
    assert "until others answer" in reason.detail


def test_a_replica_that_never_answers_is_tried_again() -> None:
    scene = ServiceScene()
    scene.answers = False
    scene.serve(service())
    scene.go(400)
    assert scene.replicas()[0].infra_failures == 1
    scene.answers = True
    scene.go(20)
    assert len(scene.ready()) == 1


def test_a_lost_node_costs_a_replica_for_as_long_as_another_takes_to_start() -> None:
    scene = ServiceScene()
    scene.serve(service())
    scene.go(5)
    (lost,) = scene.ready()[0].nodes
    scene.ledger.lose({lost: scene.now_s}, scene.now_s)
    scene.go(20)
    assert len(scene.ready()) == 1 and lost not in scene.ready()[0].nodes


def test_owners_hear_what_cannot_be() -> None:
    scene = ServiceScene()
    scene.serve(service(most=1))
    again = replace(service(), id="other")
    with pytest.raises(Conflict, match="already"):
        scene.ledger.open_service(*opened(again, scene.ids, scene.now_s))
    scene.end()
    with pytest.raises(Conflict, match="ended"):
        scene.rescale(1, 2)


def test_histograms_have_one_count_a_bucket() -> None:
    assert len(SLOW) == BUCKETS
