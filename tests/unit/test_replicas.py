"""Jobs that are replicas: what their nodes tell of them, and what their crashes count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from singularity.primitives import replicas, verbs
from singularity.primitives.messages import Report, Start
from singularity.primitives.model import Engine, Intent, Job, JobId, JobSpec, JobState, Kind, Shard
from singularity.primitives.nodes import NodeId
from singularity.primitives.serving import ServiceId, Serving

N0 = NodeId("n0")


def replica() -> Job:
    spec = JobSpec(
        "cnn-1",
        ("serve", "--port", "$PORT"),
        kind=Kind.SERVE,
        engines=(Engine.RESTART,),
        retry_infra=1000,
        retry_user=1000,
        serving=Serving(ServiceId("s1"), 1, concurrency=4),
    )
    return Job(JobId("j1"), spec, 1, intent=Intent.HOLD)


def told(job: Job, **changes: object) -> Report:
    said = {"job": job.id, "node": N0, "incarnation": job.incarnation, "phase": "running"}
    return Report.model_validate({**said, **changes})


def running(endpoint: str = "") -> Job:
    started = verbs.resume(replicas.wake(replica()), (Shard(N0, 1),), 10.0).job
    return verbs.settle(started, told(started, endpoint=endpoint), 11.0).job


def test_its_node_is_told_how_it_serves() -> None:
    (start,) = verbs.resume(replica(), (Shard(N0, 1),), 10.0).commands
    assert isinstance(start, Start) and start.serving == replica().spec.serving


def test_it_is_ready_when_it_answers_and_while_it_is_not_leaving() -> None:
    job = running()
    assert not replicas.ready(job)
    job = verbs.settle(job, told(job, endpoint="10.0.0.1:80"), 12.0).job
    assert job.endpoint == "10.0.0.1:80" and replicas.ready(job)
    assert not replicas.ready(replicas.rest(job, 13.0))
    assert replicas.ready(replicas.wake(replicas.rest(job, 13.0)))
    assert not replicas.ready(verbs.settle(job, told(job), 12.0).job), "its health went"


def test_the_same_answer_again_changes_nothing() -> None:
    job = running("10.0.0.1:80")
    assert verbs.settle(job, told(job, endpoint="10.0.0.1:80"), 12.0).job == job


def test_a_new_life_answers_nowhere_yet() -> None:
    job = running("10.0.0.1:80")
    stopped = verbs.suspend(replicas.rest(job, 12.0), 13.0).job
    assert stopped.state is JobState.STOPPING
    at_rest = verbs.settle(stopped, told(stopped, phase="stopped"), 14.0).job
    assert at_rest.state is JobState.SUSPENDED
    assert at_rest.endpoint == "" and at_rest.leaving_at_s is None, "it has left"
    again = verbs.resume(replicas.wake(at_rest), (Shard(N0, 1),), 15.0).job
    assert again.endpoint == "" and again.leaving_at_s is None


def test_one_without_devices_is_at_rest_at_once() -> None:
    at_rest = replicas.rest(replicas.wake(replica()), 5.0)
    assert at_rest.intent is Intent.HOLD and at_rest.leaving_at_s is None


@pytest.mark.parametrize("code", [0, 3])
def test_a_server_that_ends_by_itself_has_crashed_and_is_tried_again(code: int) -> None:
    job = running("10.0.0.1:80")
    crashed = verbs.settle(job, told(job, phase="exited", exit_code=code), 12.0).job
    assert crashed.state is JobState.SUSPENDED and crashed.user_failures == 1
    assert crashed.retry_at_s > 12.0


def test_crashes_are_forgiven_to_one_that_served_for_a_while() -> None:
    job = replace(running("10.0.0.1:80"), user_failures=7)
    soon = verbs.settle(job, told(job, phase="exited", exit_code=1), 12.0).job
    late_s = 11.0 + replicas.SETTLED_S
    late = verbs.settle(job, told(job, phase="exited", exit_code=1), late_s).job
    assert (soon.user_failures, late.user_failures) == (8, 1)
