"""The primitives: what each report does to a job in each state, and what it never does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from singularity.primitives import cuts, verbs
from singularity.primitives.holdings import at_risk_s, holdings
from singularity.primitives.messages import Cut, Report, Start, Stop
from singularity.primitives.model import Goal, Job, JobId, JobSpec, JobState, Shard, ShardImage
from singularity.primitives.nodes import NodeId

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
GANG = (Shard(A, 2), Shard(B, 2))


def fresh(**spec: Any) -> Job:
    found: dict[str, Any] = {"name": "j", "run": ("train",), "ranks": 4, "devices": 4}
    return Job(JobId("j"), JobSpec(**{**found, **spec}), devices=4)


def report(node: NodeId, phase: str, incarnation: int = 1, **found: Any) -> Report:
    facts = {"job": "j", "node": node, "incarnation": incarnation, "phase": phase, **found}
    return Report.model_validate(facts)


def image(node: NodeId, step: int = 10) -> ShardImage:
    ranks = (0, 1) if node == A else (2, 3)
    return ShardImage(node, ranks, f"digest-{node}-{step}", step)


def settle(job: Job, *reports: Report, now_s: float = 50.0) -> Job:
    for each in reports:
        job = verbs.settle(job, each, now_s).job
    return job


def running(**spec: Any) -> Job:
    job = verbs.resume(fresh(**spec), GANG, 10.0).job
    return settle(job, report(A, "running"), report(B, "running"), now_s=20.0)


def saved(job: Job, step: int, now_s: float = 60.0) -> Job:
    """The job with one more checkpoint, running on."""
    job = verbs.checkpoint(job, now_s).job
    found = {"incarnation": job.incarnation, "cut": job.cut}
    return settle(
        job,
        report(A, "running", image=image(A, step), **found),
        report(B, "running", image=image(B, step), **found),
    )


# -- resume --------------------------------------------------------------------------------------


def test_resume_starts_every_shard_with_its_own_ranks_and_slots() -> None:
    step = verbs.resume(fresh(ranks=8), GANG, 10.0)
    starts = [c for c in step.commands if isinstance(c, Start)]
    assert [s.node for s in starts] == [A, B]
    assert [s.ranks for s in starts] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert [s.slots for s in starts] == [(0, 0, 1, 1), (0, 0, 1, 1)]
    assert step.job.state is JobState.STARTING and step.job.incarnation == 1
    assert all(s.origin is None and s.gang == (A, B) and s.world == 8 for s in starts)


def test_resume_restores_each_rank_from_the_image_that_holds_it() -> None:
    job = settle(saved(running(), 10), report(A, "lost"), report(B, "stopped"))
    assert job.state is JobState.SUSPENDED
    (start,) = verbs.resume(job, (Shard(C, 4),), 90.0).commands
    assert isinstance(start, Start) and start.origin is not None
    assert start.incarnation == 2 and start.origin.step == 10
    assert {i.node for i in start.origin.shards} == {A, B}, "one node now holds all ranks"


def test_a_job_runs_when_every_shard_does() -> None:
    job = verbs.resume(fresh(), GANG, 10.0).job
    job = settle(job, report(A, "running"), report(A, "running"))
    assert job.state is JobState.STARTING and job.awaiting == {B}
    assert settle(job, report(B, "running")).state is JobState.RUNNING


# -- reports that must change nothing ------------------------------------------------------------


@pytest.mark.parametrize("phase", ["running", "dumped", "stopped", "exited", "lost", "refused"])
def test_what_an_older_incarnation_or_a_stranger_says_changes_nothing(phase: str) -> None:
    job = settle(running(), report(A, "lost"), report(B, "stopped"))
    job = verbs.resume(job, GANG, 70.0).job
    for stale in (report(A, phase, 1, exit_code=1), report(C, phase, 2, exit_code=1)):
        assert verbs.settle(job, stale, 80.0) == verbs.Step(job)


@pytest.mark.parametrize(
    "said",
    [
        report(A, "running"),
        report(A, "exited", exit_code=0),
        report(A, "running", cut=1, image=image(A)),
    ],
)
def test_a_repeated_report_changes_nothing(said: Report) -> None:
    job = verbs.checkpoint(running(), 30.0).job
    once = settle(job, said)
    assert settle(once, said) == once


def test_what_has_ended_hears_nothing_any_more() -> None:
    job = settle(running(), report(A, "exited", exit_code=0), report(B, "exited", exit_code=0))
    assert job.state is JobState.SUCCEEDED and job.exit_code == 0
    assert settle(job, report(A, "lost"), report(B, "exited", exit_code=1)) == job


# -- checkpoints ---------------------------------------------------------------------------------


def test_a_checkpoint_counts_only_when_every_shard_holds_it() -> None:
    job = verbs.checkpoint(running(), 30.0).job
    job = settle(job, report(A, "running", cut=1, image=image(A)))
    assert job.checkpoint is None and job.dumping == {B}
    job = settle(job, report(B, "running", cut=1, image=image(B)))
    assert job.checkpoint is not None
    assert (job.checkpoint.cut, job.checkpoint.step, job.checkpoint.at_s) == (1, 10, 30.0)
    assert job.state is JobState.RUNNING and not job.dumping


def test_shards_of_different_steps_are_no_checkpoint() -> None:
    job = verbs.checkpoint(running(), 30.0).job
    job = settle(
        job,
        report(A, "running", cut=1, image=image(A, 10)),
        report(B, "running", cut=1, image=image(B, 11)),
    )
    assert job.checkpoint is None and not job.dumping and "different steps" in job.message


def test_the_answer_to_an_earlier_cut_does_not_count_for_this_one() -> None:
    job = verbs.checkpoint(saved(running(), 10), 70.0).job
    late = report(B, "running", cut=1, image=image(B, 10))
    assert job.cut == 2 and settle(job, late).dumping == {A, B}


def test_as_many_checkpoints_are_kept_as_its_owner_wants_newest_first() -> None:
    job = running(checkpoint_keep=2)
    for step in (10, 20, 30):
        job = saved(job, step)
    assert [c.step for c in job.checkpoints] == [30, 20]


def test_progress_at_risk_counts_from_the_last_checkpoint_of_this_life() -> None:
    job = running()
    assert at_risk_s(job, 100.0) == 80.0
    assert at_risk_s(saved(job, 10, now_s=60.0), 100.0) == 40.0


# -- suspend -------------------------------------------------------------------------------------


def test_a_suspended_job_holds_nothing_once_all_its_shards_are_dumped() -> None:
    step = verbs.suspend(running(), 30.0)
    assert all(isinstance(c, Cut) and not c.keep_running for c in step.commands)
    job = settle(step.job, report(A, "dumped", cut=1, image=image(A)))
    assert job.state is JobState.SUSPENDING and sum(holdings(job).values()) == 4
    job = settle(job, report(B, "dumped", cut=1, image=image(B)))
    assert job.state is JobState.SUSPENDED and not holdings(job) and job.checkpoint is not None


def test_a_migration_reserves_its_target_and_starts_there_at_once() -> None:
    job = verbs.migrate(running(), (Shard(C, 4),), 30.0).job
    assert holdings(job) == {A: 2, B: 2, C: 4}
    job = settle(job, report(A, "dumped", cut=1, image=image(A)))
    done = verbs.settle(job, report(B, "dumped", cut=1, image=image(B)), 60.0)
    assert done.job.state is JobState.STARTING and done.job.nodes == {C}
    assert [type(c) for c in done.commands] == [Start] and holdings(done.job) == {C: 4}


def test_a_target_on_a_node_it_holds_reserves_only_what_is_more() -> None:
    job = verbs.scale(running(), (Shard(A, 3), Shard(C, 1)), 30.0).job
    assert holdings(job) == {A: 3, B: 2, C: 1}


def test_a_dump_that_failed_lets_the_job_run_on_and_frees_the_reservation() -> None:
    job = verbs.migrate(running(), (Shard(C, 4),), 30.0).job
    job = settle(job, report(A, "running", cut=1, reason="the disk is full"), now_s=40.0)
    assert job.state is JobState.RUNNING and not job.dumping and not job.target
    assert "disk is full" in job.message and job.retry_at_s > 40.0 and job.dump_failures == 1
    late = settle(job, report(B, "running", cut=1, image=image(B)))
    assert late.checkpoint is None and late.state is JobState.RUNNING


def test_a_lost_reservation_is_let_go_of_and_the_job_does_not_notice() -> None:
    job = verbs.migrate(running(), (Shard(C, 4),), 30.0).job
    step = verbs.failover(job, frozenset({C}), 40.0, "node c lost")
    assert step.job.state is JobState.SUSPENDING and not step.job.target and not step.commands


# -- failures ------------------------------------------------------------------------------------


def test_a_lost_node_stops_the_survivors_and_only_then_is_the_job_free() -> None:
    step = verbs.failover(running(), frozenset({A}), 40.0, "node a lost")
    assert [(type(c), c.node) for c in step.commands] == [(Stop, B)]
    assert holdings(step.job) == {B: 2}, "what runs may hold devices until it says it does not"
    job = settle(step.job, report(B, "stopped"))
    assert job.state is JobState.SUSPENDED and job.infra_failures == 1 and not holdings(job)


def test_a_gang_with_no_survivor_is_free_at_once() -> None:
    step = verbs.failover(running(), frozenset({A, B}), 40.0, "both lost")
    assert step.job.state is JobState.SUSPENDED and not step.commands


def test_the_users_program_fails_the_job_once_its_peers_are_stopped() -> None:
    job = settle(running(), report(A, "exited", exit_code=3))
    assert job.state is JobState.STOPPING and job.goal is Goal.FAIL and job.awaiting == {B}
    job = settle(job, report(B, "stopped"))
    assert job.state is JobState.FAILED and job.exit_code == 3 and "code 3" in job.message


@pytest.mark.parametrize(
    ("spec", "code", "ends"),
    [
        ({"retry_user": 1}, 3, JobState.SUSPENDED),
        ({"retry_user": 1, "retry_exit_codes": (3,)}, 3, JobState.SUSPENDED),
        ({"retry_user": 1, "retry_exit_codes": (4,)}, 3, JobState.FAILED),
        ({"retry_user": 0}, 3, JobState.FAILED),
    ],
)
def test_a_crash_is_tried_again_only_as_its_owner_said(
    spec: dict[str, Any], code: int, ends: JobState
) -> None:
    job = settle(running(**spec), report(A, "exited", exit_code=code), report(B, "stopped"))
    assert job.state is ends


@pytest.mark.parametrize("phase", ["lost", "refused"])
def test_a_lost_peer_explains_the_crash(phase: str) -> None:
    job = settle(running(), report(A, "exited", exit_code=1), report(B, phase))
    assert job.state is JobState.SUSPENDED and job.user_failures == 0 and job.exit_code is None


def test_a_lost_node_explains_the_crash_of_its_peer() -> None:
    job = settle(running(), report(A, "exited", exit_code=1))
    job = verbs.failover(job, frozenset({B}), 60.0, "node b lost").job
    assert job.state is JobState.SUSPENDED and job.user_failures == 0


def test_a_job_that_is_refused_too_often_fails() -> None:
    job = fresh(retry_infra=2)
    for incarnation in (1, 2, 3):
        assert job.state in (JobState.PENDING, JobState.SUSPENDED)
        job = verbs.resume(job, GANG, 10.0).job
        job = settle(
            job,
            report(A, "refused", incarnation, reason="no memory"),
            report(B, "stopped", incarnation),
        )
    assert job.state is JobState.FAILED and job.message == "no memory"


def test_a_checkpoint_ends_the_count_of_failures_in_a_row() -> None:
    job = settle(running(), report(A, "lost"), report(B, "stopped"))
    job = settle(
        verbs.resume(job, GANG, 70.0).job, report(A, "running", 2), report(B, "running", 2)
    )
    assert job.infra_failures == 1 and saved(job, 10).infra_failures == 0


def test_a_corrupt_image_drops_the_newest_checkpoint_and_no_other() -> None:
    job = saved(saved(running(), 10), 20)
    job = settle(job, report(A, "lost"), report(B, "stopped"))
    job = verbs.resume(job, GANG, 70.0).job
    job = settle(job, report(A, "refused", 2, corrupt=True, reason="does not verify"))
    assert [c.step for c in job.checkpoints] == [10]
    job = settle(job, report(B, "refused", 2, corrupt=True, reason="does not verify"))
    assert [c.step for c in job.checkpoints] == [10], "both shards mean the same checkpoint"
    assert job.state is JobState.SUSPENDED


def test_a_corrupt_image_is_dropped_though_a_peer_gave_up_first() -> None:
    job = settle(saved(saved(running(), 10), 20), report(A, "lost"), report(B, "stopped"))
    job = verbs.resume(job, GANG, 70.0).job
    job = settle(job, report(A, "refused", 2, reason="the ranks did not find each other"))
    job = settle(job, report(B, "refused", 2, corrupt=True, reason="does not verify"))
    assert [c.step for c in job.checkpoints] == [10]


def test_backoff_doubles_and_is_bounded() -> None:
    waits = [cuts.backoff_s(n) for n in range(1, 12)]
    assert waits[:4] == [2.0, 4.0, 8.0, 16.0] and max(waits) == cuts.BACKOFF_MOST_S
    assert waits == sorted(waits)


# -- cancel --------------------------------------------------------------------------------------


def test_cancel_overrules_what_a_stop_was_for_and_nothing_overrules_cancel() -> None:
    job = verbs.cancel(running(), 30.0).job
    job = verbs.failover(job, frozenset({A}), 40.0, "node a lost").job
    assert job.goal is Goal.CANCEL
    assert settle(job, report(B, "exited", exit_code=1)).state is JobState.CANCELLED


def test_a_waiting_job_is_cancelled_at_once() -> None:
    assert verbs.cancel(fresh(), 30.0).job.state is JobState.CANCELLED


# -- what may be forgotten -----------------------------------------------------------------------


def test_a_report_may_be_forgotten_only_when_repeating_it_can_never_matter() -> None:
    job = running()
    assert not verbs.settled(job, report(A, "running"))
    assert not verbs.settled(job, report(A, "exited", exit_code=0)), "its peers run yet"
    done = settle(job, report(A, "exited", exit_code=0), report(B, "exited", exit_code=0))
    assert verbs.settled(done, report(A, "exited", exit_code=0))
    assert verbs.settled(replace(job, incarnation=2), report(A, "lost"))
    assert verbs.settled(None, report(A, "stopped"))


def test_a_hung_rank_stops_the_gang_whole_and_every_node_keeps_its_stacks() -> None:
    job = saved(running(), step=10)
    step = verbs.settle(job, report(A, "hung", reason="rank 0 has made no step"), 90.0)
    assert step.job.state is JobState.STOPPING and step.job.hangs == 1
    assert step.job.message == "rank 0 has made no step"
    told = {(c.node, c.stacks) for c in step.commands if isinstance(c, Stop)}
    assert told == {(A, True), (B, True)}, "the node that found it has its ranks still"
    again = verbs.settle(step.job, report(B, "hung", reason="rank 2 too"), 91.0)
    assert again.job == step.job, (
        "its peers hang with it: that is one failure, and no end of theirs"
    )
    free = settle(step.job, report(A, "stopped"), report(B, "stopped"))
    assert free.state is JobState.SUSPENDED and free.infra_failures == 1
    assert free.retry_at_s > 90.0 and free.checkpoint is not None


def test_a_job_that_hangs_too_often_fails() -> None:
    job = running(retry_infra=0)
    job = settle(job, report(A, "hung"), report(A, "stopped"), report(B, "stopped"))
    assert job.state is JobState.FAILED


def test_a_job_that_hangs_in_a_cut_or_a_resize_is_stopped_all_the_same() -> None:
    for busy in (verbs.suspend(running(), 30.0).job, verbs.checkpoint(running(), 30.0).job):
        job = settle(busy, report(B, "hung"))
        assert (job.state, job.dumping, job.target) == (JobState.STOPPING, frozenset(), ())


def test_the_pause_of_a_cut_is_that_of_its_slowest_node_and_old_ones_fade() -> None:
    job, pauses_s = running(checkpoint_keep=1), []
    for barrier_s in (1.0, 2.0, 2.0):
        job = verbs.checkpoint(job, 60.0).job
        for node in (A, B):
            slow_s = barrier_s if node == B else 0.1
            seconds = {"barrier": slow_s, "dump": 1.0, "store": 0.5, "fetch": 7.0}
            made = {"cut": job.cut, "image": image(node), "seconds": seconds}
            job = settle(job, report(node, "running", **made))
        pauses_s.append(job.pause_s)
    assert pauses_s == [2.5, 3.0, 3.25]
    assert job.cut_ended_s == 50.0
