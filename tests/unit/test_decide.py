"""What each pass of decide() does, and what it must not do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import POLICY, Planet, verbs

from singularity.primitives.model import (
    Checkpoint,
    Engine,
    Held,
    Intent,
    JobId,
    JobState,
    ShardImage,
    Tier,
)
from singularity.primitives.nodes import Duty, NodeId, Scope, ScopeKind
from singularity.scheduler.explain import explain
from singularity.scheduler.interval import best_s
from singularity.scheduler.plan import Plan


def region(name: str) -> Scope:
    return Scope(ScopeKind.REGION, name)


def test_a_gang_spans_nodes_of_one_cluster_and_never_two() -> None:
    planet = Planet(nodes=2, devices=4)
    wide, wider = planet.submit("wide", 8), planet.submit("wider", 9, ranks=9)
    plan = planet.tick()
    assert {s.node for s in planet.job(wide).placement} == {"us-0", "us-1"} or {
        s.node for s in planet.job(wide).placement
    } == {"eu-0", "eu-1"}
    assert [r.kind for r in plan.pending[wider]] == ["capacity", "reclaim"]


def test_the_more_urgent_come_first_and_among_equals_the_older() -> None:
    planet = Planet(nodes=1, devices=4, regions=("us",))
    old = planet.submit("old", tier=Tier.STANDARD)
    planet.submit("young", tier=Tier.STANDARD)
    urgent = planet.submit("urgent", tier=Tier.PREMIUM)
    assert set(verbs(planet.tick())) == {urgent}
    planet.report(urgent, "exited", exit_code=0)
    assert set(verbs(planet.tick())) == {old}


def blocked_beside_idle() -> tuple[Planet, JobId, JobId]:
    """Two of four devices are idle, which does not help the one that waits for all four."""
    planet = Planet(nodes=1, devices=4)
    holder = planet.submit("holder", 2, tier=Tier.PREMIUM, regions=("us",))
    planet.run(holder)
    return planet, holder, planet.submit("blocked", 4, tier=Tier.PREMIUM, regions=("us",))


def test_nothing_less_urgent_passes_a_blocked_job_on_nodes_that_it_could_use() -> None:
    planet, _, _ = blocked_beside_idle()
    planet.submit("small", 1, tier=Tier.STANDARD, regions=("us",))
    away = planet.submit("away", 1, tier=Tier.STANDARD, regions=("eu",))
    plan = planet.tick()
    assert set(verbs(plan)) == {away}
    assert plan.pending[JobId("small")][0].kind == "order"


def test_basic_work_takes_what_is_idle_and_gives_it_back_to_a_blocked_job() -> None:
    planet, holder, blocked = blocked_beside_idle()
    small = planet.submit("small", 2, tier=Tier.BASIC, regions=("us",))
    loses = {"tier": Tier.BASIC, "regions": ("us",), "engines": (Engine.RESTART,)}
    planet.submit("a-lossy", 2, **loses)
    plan = planet.tick()
    assert verbs(plan) == {small: "resume"}, "and not the one that would lose all it did"
    planet.report(small, "running")
    assert planet.tick().actions == ()
    planet.report(holder, "exited", exit_code=0)
    assert verbs(planet.tick()) == {small: "suspend"}
    planet.submit("late", 1, tier=Tier.BASIC, regions=("us",))
    assert planet.tick().actions == (), "what comes for the blocked one is not to be had"
    planet.report(small, "dumped")
    assert blocked in verbs(planet.tick())


def test_reclaim_shrinks_before_it_suspends_and_takes_no_more_than_is_short() -> None:
    planet = Planet(nodes=2, devices=4, regions=("us",))
    elastic = planet.submit("elastic", 4, devices_min=1, tier=Tier.BASIC)
    rigid = planet.submit("rigid", 2, tier=Tier.BASIC)
    planet.run(elastic, rigid)
    urgent = planet.submit("urgent", 4, tier=Tier.PREMIUM, same_node=False)
    plan = planet.tick()
    assert verbs(plan) == {elastic: "scale"}
    assert sum(s.devices for s in plan.actions[0].placement) == 2
    assert plan.actions[0].price is not None
    assert planet.tick().actions == (), "what is being freed is not asked for again"
    planet.report(elastic, "dumped")
    planet.report(elastic, "running")
    assert verbs(planet.tick()) == {urgent: "resume"}


def test_reclaim_suspends_the_cheapest_less_urgent_job_and_never_an_equal() -> None:
    planet = Planet(nodes=2, devices=4, regions=("us",))
    dear, cheap = (
        planet.submit("dear", 4, tier=Tier.BASIC),
        planet.submit("cheap", 2, tier=Tier.BASIC),
    )
    equal = planet.submit("equal", 2, tier=Tier.PREMIUM)
    planet.run(dear, cheap, equal)
    planet.submit("urgent", 2, tier=Tier.PREMIUM)
    assert verbs(planet.tick()) == {cheap: "suspend"}


def test_a_shrunk_job_grows_back_after_a_quiet_time_when_nobody_waits() -> None:
    planet = Planet(nodes=1, devices=4, regions=("us",))
    urgent = planet.submit("urgent", 3, tier=Tier.PREMIUM)
    planet.run(urgent)
    small = planet.submit("small", 4, devices_min=1)
    planet.run(small)
    assert planet.job(small).held == 1
    planet.report(urgent, "exited", exit_code=0)
    assert planet.tick().actions == (), "not at once"
    assert verbs(planet.tick(POLICY.grow_after_s)) == {small: "scale"}


def test_a_lost_node_fails_its_gangs_over_and_the_survivors_are_stopped_first() -> None:
    planet = Planet(nodes=2, devices=4)
    wide = planet.submit("wide", 8)
    planet.run(wide)
    lost, kept = sorted(planet.job(wide).nodes)
    planet.ledger.lose({NodeId(lost): planet.now_s}, planet.now_s)
    assert verbs(planet.tick()) == {wide: "failover"}
    assert planet.job(wide).state is JobState.STOPPING
    assert planet.job(wide).nodes == {kept}
    planet.report(wide, "stopped")
    assert planet.job(wide).state is JobState.SUSPENDED
    planet.tick(10.0)
    assert planet.job(wide).state is JobState.STARTING
    assert lost not in planet.job(wide).nodes


def test_a_drained_region_is_left_and_what_fits_nowhere_stays_with_its_reason() -> None:
    planet = Planet(nodes=1, devices=4)
    here, there = planet.submit("here", 4, regions=("us",)), planet.submit("there", 3)
    planet.run(here, there)
    planet.ledger.set_duty(region("us"), Duty.DRAINING, planet.now_s)
    planet.ledger.set_duty(region("eu"), Duty.DRAINING, planet.now_s)
    plan = planet.tick()
    assert plan.actions == ()
    assert {plan.pending[j][0].kind for j in (here, there)} == {"drain"}
    planet.ledger.set_duty(region("us"), Duty.READY, planet.now_s)
    assert planet.tick().actions == (), "us is full"
    planet.report(here, "exited", exit_code=0)
    assert verbs(planet.tick()) == {there: "migrate"}


def test_owners_are_obeyed() -> None:
    planet = Planet(nodes=1, devices=4)
    job = planet.submit("job", 4, devices_min=1, regions=("us", "eu"))
    planet.run(job)
    home = "us" if planet.job(job).nodes == {"us-0"} else "eu"
    away = "eu" if home == "us" else "us"
    planet.ledger.confine(job, region(away), planet.now_s)
    assert verbs(planet.tick()) == {job: "migrate"}
    planet.report(job, "dumped")
    planet.report(job, "running")
    planet.ledger.resize(job, 2, planet.now_s)
    assert verbs(planet.tick()) == {job: "scale"}
    assert planet.job(job).held == 4, "until the ranks have followed"
    assert planet.tick().actions == (), "one thing at a time"
    planet.follow(job)
    assert planet.job(job).held == 2
    planet.ledger.request_checkpoint(job, planet.now_s)
    assert verbs(planet.tick()) == {job: "checkpoint"}
    assert planet.tick().actions == (), "one cut at a time"
    planet.report(job, "running", cut=True)
    planet.ledger.intend(job, Intent.HOLD, planet.now_s)
    assert verbs(planet.tick()) == {job: "suspend"}
    planet.report(job, "dumped")
    assert planet.tick().actions == (), "a held job is not resumed"
    planet.ledger.intend(job, Intent.CANCEL, planet.now_s)
    assert verbs(planet.tick()) == {job: "cancel"}
    assert planet.job(job).state is JobState.CANCELLED


def test_a_job_waits_for_those_that_it_comes_after_and_for_its_backoff() -> None:
    planet = Planet()
    first = planet.submit("first", 1)
    second = planet.submit("second", 1, after=(first,))
    plan = planet.tick()
    assert set(verbs(plan)) == {first}
    assert plan.pending[second][0].kind == "dependency"
    planet.report(first, "refused", reason="no memory")
    assert planet.tick(0.5).pending[first][0].kind == "backoff"
    assert verbs(planet.tick(10.0)) == {first: "resume"}
    planet.report(first, "exited", exit_code=0)
    assert verbs(planet.tick()) == {second: "resume"}


def test_checkpoints_are_taken_when_due_and_long_jobs_expire() -> None:
    planet = Planet()
    job = planet.submit("job", 1, checkpoint_every_s=60.0, max_duration_s=100.0)
    planet.run(job)
    assert planet.tick(59.0).actions == ()
    assert verbs(planet.tick(1.0)) == {job: "checkpoint"}
    planet.report(job, "running", cut=True)
    assert verbs(planet.tick(41.0)) == {job: "expire"}
    planet.report(job, "stopped")
    assert planet.job(job).state is JobState.FAILED


@pytest.mark.parametrize(
    ("state", "limit_s"),
    [
        (JobState.STARTING, POLICY.start_deadline_s),
        (JobState.SUSPENDING, POLICY.suspend_deadline_s),
        (JobState.STOPPING, POLICY.stop_deadline_s),
    ],
)
def test_no_state_in_passing_lasts_for_ever(state: JobState, limit_s: float) -> None:
    planet = Planet()
    job = planet.submit("job", 1)
    planet.tick()
    if state is not JobState.STARTING:
        planet.report(job, "running")
        planet.ledger.intend(job, Intent.HOLD, planet.now_s)
        planet.tick()
    if state is JobState.STOPPING:
        planet.ledger.intend(job, Intent.CANCEL, planet.now_s)
        planet.tick()
    assert planet.job(job).state is state
    before = len(planet.ledger.unsent())
    assert verbs(planet.tick(limit_s)) == {}
    assert verbs(planet.tick(1.0)) == {job: "stop"}
    assert len(planet.ledger.unsent()) == before + 1, "the node is told (again)"


def test_auto_takes_checkpoints_as_often_as_pays_and_why_says_so() -> None:
    planet = Planet(nodes=1, devices=4)
    job, never = planet.submit("job", 4), planet.submit("never", 1, checkpoint_every_s=0.0)
    planet.run(job, never)
    assert planet.job(job).pause_s is None, "nothing is measured yet"
    assumed_s = best_s(POLICY.checkpoint_cost_s, POLICY.node_mtbf_s, POLICY)
    assert planet.tick(assumed_s - 10.0).actions == ()
    assert verbs(planet.tick(20.0)) == {job: "checkpoint"}
    seconds = {"barrier": 0.1, "dump": 0.2, "store": 0.1, "reconnect": 0.1, "fetch": 9.0}
    planet.now_s += 60.0
    planet.report(job, "running", cut=True, seconds=seconds)
    assert planet.job(job).pause_s == pytest.approx(0.5)
    shorter_s = best_s(0.5, POLICY.node_mtbf_s, POLICY)
    assert planet.tick(shorter_s - 10.0).actions == (), "it runs from the end of the last one"
    reason = planet.tick(20.0).actions[0].reason
    assert reason.startswith("every 31") and reason.endswith(" min")
    why = explain(planet.ledger.snapshot(planet.now_s), Plan(), planet.job(job), POLICY)
    assert "measured" in why.reasons[1].detail and reason in why.reasons[1].detail
    why = explain(planet.ledger.snapshot(planet.now_s), Plan(), planet.job(never), POLICY)
    assert why.reasons[1].detail == "only when suspended: its owner said so"


def test_a_lost_node_counts_as_a_failure_once_and_so_does_one_that_started_anew() -> None:
    planet = Planet(nodes=1, regions=("us",))
    node = NodeId("us-0")
    assert planet.ledger.nodes()[node].failures == 0
    planet.ledger.lose({node: planet.now_s}, planet.now_s)
    planet.join("us-0", "us")
    assert planet.ledger.nodes()[node].failures == 1
    planet.join("us-0", "us")  # with epoch 0: it has forgotten everything
    assert planet.ledger.nodes()[node].failures == 2
    assert planet.ledger.nodes()[node].known_s == planet.now_s


def test_why_names_what_binds_and_what_would_help() -> None:
    planet = Planet(nodes=1, devices=4)
    planet.run(planet.submit("holder", 3, regions=("us",)))
    job = planet.submit("job", 4, regions=("us",))
    snapshot, plan = planet.ledger.snapshot(planet.now_s), planet.plan()
    why = explain(snapshot, plan, planet.job(job), POLICY)
    assert "us-a with 1" in why.reasons[0].detail
    kinds = [r.kind for r in why.reasons]
    assert kinds == ["capacity", "reclaim", "policy"]
    assert "leave 1 of 2 nodes" in why.reasons[2].detail
    nowhere = planet.submit("nowhere", 1, device="H100")
    plan = planet.plan()
    snapshot = planet.ledger.snapshot(planet.now_s)
    why = explain(snapshot, plan, planet.job(nowhere), POLICY)
    assert (why.reasons[0].kind, "cpu" in why.reasons[0].detail) == ("device", True)


@pytest.mark.parametrize("intent", [Intent.RUN, Intent.HOLD])
def test_nodes_do_not_keep_the_memory_of_a_job_without_room_for_ever(intent: Intent) -> None:
    planet = Planet(nodes=1, devices=4, regions=("us",))
    job = planet.submit("job", regions=("eu",))
    image = ShardImage(NodeId("us-0"), (0, 1, 2, 3), "", 9, held=Held("t", "m", "/d", ()))
    handed = Checkpoint(1, 2, 9, planet.now_s, (image,))
    stored = Checkpoint(1, 1, 5, planet.now_s, (replace(image, held=None),))
    found = {"state": JobState.SUSPENDED, "handover": handed, "intent": intent, "incarnation": 1}
    planet.change(job, **found, since_s=planet.now_s, carried_s=30.0)
    assert not verbs(planet.tick(POLICY.handover_kept_s))
    assert not verbs(planet.tick(2.0)), "it is the only copy"
    planet.change(job, checkpoints=(stored,))
    assert verbs(planet.tick()) == {job: "let-go"}
    after = planet.job(job)
    assert (after.handover, after.carried_s, after.origin) == (None, 0.0, stored)
    assert "step 5" in after.message
    assert not verbs(planet.tick()), "once"
