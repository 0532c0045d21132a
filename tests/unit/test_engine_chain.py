"""The chain transparent → cooperative → restart: who takes a cut, and what if it cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleets import Planet
from fleets import verbs as verbs_of

from singularity.agent.barrier import CutState, Dumped, Verdict, View, give_up, react
from singularity.api.story import tell
from singularity.primitives import engines, verbs
from singularity.primitives.messages import Command, Cut, Report, Start, Stop
from singularity.primitives.model import (
    Engine,
    Goal,
    Job,
    JobId,
    JobSpec,
    JobState,
    Shard,
    ShardImage,
    Tier,
    Unable,
)
from singularity.primitives.nodes import Duty, NodeId, Scope, ScopeKind
from singularity.scheduler.explain import explain
from singularity.scheduler.policy import Policy

T, C, R = Engine
A, B = NodeId("a"), NodeId("b")
GANG = (Shard(A, 2), Shard(B, 2))


def said(job: Job, node: NodeId, phase: str = "running", **facts: Any) -> Report:
    found = {"job": job.id, "node": node, "incarnation": job.incarnation, "phase": phase}
    return Report.model_validate({**found, **facts})


def running(*chain: Engine, unable: Unable | None = None) -> Job:
    spec = JobSpec(name="j", run=("train",), ranks=4, devices=4, engines=chain)
    job = verbs.resume(Job(JobId("j"), spec, 4), GANG, 10.0).job
    for node in (A, B):
        report = said(job, node, unable=unable, reason="no CRIU" if unable else "")
        job = verbs.settle(job, report, 20.0).job
    assert job.state is JobState.RUNNING
    return job


def refuse(job: Job, unable: Unable | None = Unable.JOB, node: NodeId = A) -> verbs.Step:
    report = said(job, node, cut=job.cut, reason=f"{node}: a socket", unable=unable)
    return verbs.settle(job, report, 50.0)


def saved(job: Job, engine: Engine, phase: str = "running") -> Job:
    """Both shards durable; only rank 0's knows the step of a cooperative one."""
    for node, ranks, step in ((A, (0, 1), 7), (B, (2, 3), 7 if engine is T else 9)):
        image = ShardImage(node, ranks, f"d-{node}", step, engine=engine)
        job = verbs.settle(job, said(job, node, phase, cut=job.cut, image=image), 60.0).job
    return job


def asked(commands: tuple[Command, ...]) -> set[tuple[Engine, bool]]:
    return {(c.engine, c.keep_running) for c in commands if isinstance(c, Cut)}


def test_a_cut_that_can_never_be_taken_is_taken_by_the_next_engine_at_once() -> None:
    step = verbs.suspend(running(T, C), 40.0, target=(Shard(A, 4),))
    assert asked(step.commands) == {(T, False)}
    fell = refuse(step.job)
    assert asked(fell.commands) == {(C, False)} and fell.job.cut == 2
    assert fell.job.state is JobState.SUSPENDING and fell.job.target == (Shard(A, 4),)
    assert (fell.job.engine, fell.job.fallen_reason) == (C, "a: a socket")
    done = saved(fell.job, C, "dumped")
    assert done.state is JobState.STARTING, "and resumes on what was reserved"
    made = done.checkpoint
    assert made is not None and (made.engine, made.step) == (C, 7)


def test_a_report_of_the_cut_before_says_nothing_of_the_next() -> None:
    job = verbs.checkpoint(running(T, C), 40.0).job
    late = said(job, B, cut=job.cut, reason="b: a socket", unable=Unable.JOB)
    fell = refuse(job).job
    assert verbs.settle(fell, late, 51.0).job == fell


def test_what_may_pass_leads_nowhere() -> None:
    for chain in ((T,), (T, C), (T, C, R), (T, R)):
        step = verbs.suspend(running(*chain), 40.0)
        after = refuse(step.job, unable=None)
        assert after.commands == () and after.job.state is JobState.RUNNING
        assert after.job.engine is T and "a socket" in after.job.message


def test_without_another_engine_the_job_runs_on_and_says_why() -> None:
    after = refuse(verbs.suspend(running(T), 40.0).job)
    assert after.commands == () and after.job.state is JobState.RUNNING
    assert after.job.engine is None and after.job.retry_at_s > 50.0
    assert engines.label(after.job).startswith("none works") and "a socket" in engines.label(
        after.job
    )
    assert engines.next_up(after.job) is T, "it may have closed its socket by the next time"


def test_only_who_must_go_begins_again() -> None:
    periodic = refuse(verbs.checkpoint(running(T, R), 40.0).job)
    assert periodic.commands == () and periodic.job.state is JobState.RUNNING
    assert periodic.job.engine is R
    gone = refuse(verbs.suspend(periodic.job, 70.0).job)
    assert {type(c) for c in gone.commands} == {Stop}
    assert (gone.job.state, gone.job.goal) == (JobState.STOPPING, Goal.RETRY)
    for node in (A, B):
        gone = verbs.settle(gone.job, said(gone.job, node, "stopped"), 80.0)
    assert gone.job.state is JobState.SUSPENDED and gone.job.retry_at_s <= 80.0
    again = verbs.resume(gone.job, GANG, 90.0)
    assert all(c.origin is None for c in again.commands if isinstance(c, Start))
    assert again.job.engine is R, "who takes its devices had better know"


def test_restart_alone_stops_at_once_and_goes_back_to_what_counts() -> None:
    job = saved(verbs.checkpoint(running(T, R), 40.0).job, T)
    step = verbs.suspend(replace(job, fallen=1, fallen_by=Unable.NODE), 70.0)
    assert {type(c) for c in step.commands} == {Stop}
    assert step.job.checkpoints == job.checkpoints


def test_a_node_that_can_dump_nothing_says_so_at_the_start_and_another_life_is_another_try() -> (
    None
):
    job = running(T, C, unable=Unable.NODE)
    assert (job.engine, job.fallen_reason) == (C, "no CRIU")
    assert asked(verbs.checkpoint(job, 40.0).commands) == {(C, True)}
    done = saved(verbs.suspend(job, 40.0).job, C, "dumped")
    assert done.state is JobState.SUSPENDED
    assert verbs.resume(done, GANG, 90.0).job.engine is T


def test_success_proves_an_engine() -> None:
    fallen = refuse(verbs.checkpoint(running(T, R), 40.0).job).job
    assert fallen.engine is R
    tried = verbs.suspend(fallen, 70.0)
    assert asked(tried.commands) == {(T, False)}, "before work is lost, once more"
    again = saved(tried.job, T, "dumped")
    assert (again.engine, again.fallen_reason) == (T, "")


def test_who_comes_back_from_files_is_given_what_rank_0_wrote() -> None:
    job = saved(verbs.suspend(running(C), 40.0).job, C, "dumped")
    starts = [c for c in verbs.resume(job, GANG, 90.0).commands if isinstance(c, Start)]
    found = [sorted(i.node for i in s.origin.shards) for s in starts if s.origin]
    assert found == [[A], [A, B]]


def test_a_node_whose_processors_cannot_run_the_image_is_no_failure_and_not_asked_again() -> None:
    planet = Planet(nodes=2, devices=4, regions=("us",))
    job = planet.submit("j", 4)
    planet.run(job)
    planet.tick()
    first = planet.job(job).placement[0].node
    planet.report(job, "refused", unfit=True, reason="the image may use avx512f")
    found = planet.job(job)
    assert (found.unfit, found.infra_failures) == ({first}, 0)
    assert verbs_of(planet.tick()) == {"j": "resume"}
    second = planet.job(job).placement[0].node
    assert second != first
    planet.report(job, "refused", unfit=True, reason="the image may use avx512f")
    plan = planet.tick()
    assert verbs_of(plan) == {}
    (reason, *_) = plan.pending[job]
    assert reason.kind == "processor" and first in reason.detail and second in reason.detail


def lossy(planet: Planet, job: JobId) -> None:
    planet.change(job, fallen=1, fallen_by=Unable.JOB, fallen_reason="a socket")


def test_work_that_would_be_lost_is_taken_last_and_the_reason_tells_how_much() -> None:
    planet = Planet(nodes=1, devices=4, regions=("us",))
    cheap = planet.submit("cheap", 2, tier=Tier.BASIC, engines=(T, R))
    dear = planet.submit("dear", 2, tier=Tier.STANDARD)
    planet.run(cheap, dear)
    lossy(planet, cheap)
    planet.submit("urgent", 2, tier=Tier.PREMIUM)
    assert verbs_of(planet.tick(100.0)) == {"dear": "suspend"}, "although it is the more urgent"
    planet = Planet(nodes=1, devices=4, regions=("us",))
    cheap = planet.submit("cheap", 4, tier=Tier.BASIC, engines=(T, R))
    planet.run(cheap)
    lossy(planet, cheap)
    planet.submit("urgent", 4, tier=Tier.PREMIUM)
    (action,) = planet.tick(100.0).actions
    assert action.verb == "suspend" and "100 s of work are lost" in action.reason
    assert action.price is not None and action.price > 4 * 100.0


def test_a_drain_says_what_it_costs_and_no_checkpoint_is_due() -> None:
    planet = Planet(nodes=1, devices=4, regions=("us", "eu"))
    job = planet.submit("j", 4, engines=(R,), checkpoint_every_s=10.0)
    planet.run(job)
    assert verbs_of(planet.tick(50.0)) == {}, "nothing is kept, so nothing is taken"
    node = planet.job(job).placement[0].node
    snapshot = planet.ledger.snapshot(planet.now_s)
    why = explain(snapshot, planet.plan(), planet.job(job), Policy())
    assert ("engine", "restart, of which nothing is kept: its owner said so") in [
        (r.kind, r.detail) for r in why.reasons
    ]
    planet.ledger.set_duty(Scope(ScopeKind.NODE, node), Duty.DRAINING, planet.now_s)
    (action,) = planet.tick(1.0).actions
    assert action.verb == "migrate" and "51 s of work are lost" in action.reason
    planet.report(job, "stopped")
    assert verbs_of(planet.tick()) == {"j": "resume"}
    assert planet.job(job).placement[0].node != node


@pytest.mark.parametrize(("chain", "label"), [((T, C), "cooperative"), ((T, R), "restart")])
def test_the_history_tells_when_the_engine_changes(chain: tuple[Engine, ...], label: str) -> None:
    job = verbs.checkpoint(running(*chain), 40.0).job
    lines = tell(job, refuse(job).job, "a: a socket", {}, 50.0)
    (line,) = [x for x in lines if x.event == "engine"]
    assert line.facts["engine"] == label and "a socket" in str(line.facts["why"])


def test_what_one_node_can_never_do_every_node_of_the_gang_hears() -> None:
    cut = react(CutState((A, B)), View(A, dumped=Dumped.FAILED, reason="x", unable=Unable.NODE))
    heard = react(cut, View(B)).order
    assert (heard.verdict, heard.unable, heard.reason) == (Verdict.ABORT, Unable.NODE, "a: x")
    assert give_up(CutState((A, B)), "too late").order.unable is None, "time may help"
