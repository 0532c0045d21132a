"""Replicas that rest warm: who may, where they serve again, and until when they are kept."""

from __future__ import annotations

from dataclasses import replace

from service_scene import ServiceScene, service

from singularity.primitives import replicas, verbs
from singularity.primitives.drains import Drain
from singularity.primitives.messages import Report, Stop
from singularity.primitives.model import Engine, Intent, Job, JobId, JobSpec, JobState, Kind, Shard
from singularity.primitives.nodes import NodeId, Scope, ScopeKind
from singularity.primitives.serving import ServiceId, Serving
from singularity.scheduler.plan import Action, Plan, Verb

N0, N1 = NodeId("n0"), NodeId("n1")


def stopping() -> Job:
    spec = JobSpec(
        "cnn-1",
        ("serve",),
        kind=Kind.SERVE,
        engines=(Engine.RESTART,),
        serving=Serving(ServiceId("s1"), 1),
    )
    job = verbs.resume(Job(JobId("j1"), spec, 1), (Shard(N0, 1),), 10.0).job
    job = verbs.settle(job, said(job, "running", endpoint="10.0.0.1:80"), 11.0).job
    step = verbs.suspend(replicas.rest(job, 12.0), 13.0, warm=True)
    assert [isinstance(c, Stop) and c.warm for c in step.commands] == [True]
    return step.job


def said(job: Job, phase: str, **more: object) -> Report:
    found = {"job": job.id, "node": N0, "incarnation": job.incarnation, "phase": phase}
    return Report.model_validate({**found, **more})


def suspended(plan: Plan) -> list[Action]:
    return [a for a in plan.actions if a.verb is Verb.SUSPEND]


# -- until when ----------------------------------------------------------------------------------


def test_its_node_keeps_it_until_it_begins_somewhere_or_never_will() -> None:
    job = stopping()
    kept = said(job, "stopped", warm=True)
    rests = verbs.settle(job, kept, 14.0).job
    assert (rests.state, rests.warm) == (JobState.SUSPENDED, N0)
    assert not verbs.settled(rests, kept)
    assert verbs.settle(rests, kept, 15.0).job == rests, "said again"
    for there in (N0, N1):
        again = verbs.resume(replicas.wake(rests), (Shard(there, 1),), 16.0).job
        assert again.warm is None and verbs.settled(again, kept)
    assert verbs.settled(verbs.cancel(rests, 16.0).job, kept)


def test_its_node_may_take_that_back() -> None:
    job = stopping()
    rests = verbs.settle(job, said(job, "stopped", warm=True), 14.0).job
    gone = said(rests, "stopped")
    cold = verbs.settle(rests, gone, 15.0).job
    assert cold.warm is None and cold.version == rests.version + 1
    assert verbs.settled(cold, gone)
    assert verbs.settle(cold, gone, 16.0).job == cold
    other = gone.model_copy(update={"node": N1})
    assert verbs.settle(rests, other, 15.0).job == rests, "that is not where it waits"


def test_one_that_is_stopped_for_good_is_told_so_though_it_was_to_wait() -> None:
    again = verbs.cancel(stopping(), 14.0)
    assert [isinstance(c, Stop) and c.warm for c in again.commands] == [False]


# -- who -----------------------------------------------------------------------------------------


def leaving(scene: ServiceScene) -> Plan:
    """One of two replicas rests, and has no requests left."""
    scene.go(10, busy=1.8)
    scene.rescale(1, 2)
    for _ in range(1200):
        scene.load(0.1)
        if found := suspended(plan := scene.tick()):
            assert len(found) == 1
            return plan
    raise AssertionError("it never rested")


def test_one_without_requests_waits_where_it_is() -> None:
    scene = ServiceScene()
    scene.serve(service(most=2))
    (action,) = suspended(leaving(scene))
    assert action.warm


def test_one_whose_owner_does_not_want_that_ends() -> None:
    scene = ServiceScene()
    wanted = service(most=2)
    serving = Serving(wanted.id, 1, warm=False)
    scene.serve(replace(wanted, spec=replace(wanted.spec, serving=serving)))
    (action,) = suspended(leaving(scene))
    assert not action.warm


def test_one_with_requests_left_when_its_grace_is_over_ends() -> None:
    scene = ServiceScene()
    scene.serve(service(most=2))
    scene.go(10, busy=1.8)
    scene.rescale(1, 1)
    found: list[Action] = []
    while not found:
        found = suspended(scene.tick())  # no router says that it has none
    assert [a.warm for a in found] == [False]


def test_nothing_waits_on_a_node_that_is_drained() -> None:
    scene = ServiceScene()
    scene.serve(service())
    scene.go(5, busy=0.5)
    (node,) = {n for j in scene.ready() for n in j.nodes}
    scene.ledger.open_drain(Drain("d", Scope(ScopeKind.NODE, node), scene.now_s), "ada")
    scene.go(10, busy=0.5)
    found = [a for plan in scene.plans for a in suspended(plan)]
    assert [a.warm for a in found] == [False]


# -- where ---------------------------------------------------------------------------------------


def resting() -> tuple[ServiceScene, Job]:
    """On n1 a replica waits; n0 is where one that waits nowhere would go."""
    scene = ServiceScene()
    scene.keeps = True
    scene.serve(service(most=2))
    leaving(scene)
    (rests,) = [j for j in scene.replicas() if j.warm]
    moved = replace(rests, warm=N1, version=rests.version + 1)
    scene.ledger._jobs[rests.id] = moved
    return scene, moved


def test_it_serves_again_where_its_processes_wait() -> None:
    scene, rests = resting()
    assert rests.intent is Intent.HOLD
    scene.go(70, busy=1.8)
    assert scene.job(rests.id).nodes == {N1}


def test_it_goes_elsewhere_when_there_is_no_room() -> None:
    scene, rests = resting()
    node = scene.ledger.nodes()[N1]
    scene.train("full", node.devices)
    scene.tick()
    assert scene.job("full").nodes == {N1}
    scene.go(70, busy=1.8)
    assert scene.job(rests.id).nodes == {N0}


def test_training_makes_room_there_rather_than_elsewhere() -> None:
    scene, rests = resting()
    for name, devices in (("a", 3), ("b", 4)):
        scene.train(name, devices, least=1)
        scene.tick()
    assert scene.job("a").nodes == {N0} and scene.job("b").nodes == {N1}
    scene.go(70, busy=1.8)
    assert scene.job(rests.id).nodes == {N1}
    assert (scene.job("a").held, scene.job("b").held) == (3, 3)


def test_who_waits_warm_is_woken_before_others() -> None:
    scene, rests = resting()
    scene.rescale(1, 4)
    first = min(j.id for j in scene.replicas() if not j.placement)
    last = max(j.id for j in scene.replicas())
    assert rests.id == first
    cold = replace(scene.job(rests.id), warm=None)
    scene.ledger._jobs[cold.id] = replace(cold, version=cold.version + 1)
    warm = replace(scene.job(last), warm=N1)
    scene.ledger._jobs[last] = replace(warm, version=warm.version + 1)
    scene.go(70, busy=1.8)
    assert scene.job(last).nodes == {N1} and not scene.job(first).placement
