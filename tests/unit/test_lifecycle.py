"""The table of states: which edges exist, and that nothing moves along others."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from singularity.primitives.errors import IllegalTransition
from singularity.primitives.lifecycle import TABLE, Event, advance
from singularity.primitives.model import ACTIVE, TERMINAL, WAITING, Job, JobId, JobSpec, JobState

JOB = Job(JobId("j"), JobSpec("j", ("true",)), devices=1)


def in_state(state: JobState) -> Job:
    return replace(JOB, state=state, version=7)


MISSING = sorted(set(product(JobState, Event)) - TABLE.keys())


@pytest.mark.parametrize(("state", "event"), MISSING)
def test_an_edge_that_does_not_exist_is_refused(state: JobState, event: Event) -> None:
    with pytest.raises(IllegalTransition, match=event):
        advance(in_state(state), event, 1.0)


@pytest.mark.parametrize(("edge", "to"), TABLE.items())
def test_an_edge_is_one_version_and_one_time(edge: tuple[JobState, Event], to: JobState) -> None:
    state, event = edge
    moved = advance(in_state(state), event, 5.0, message="why")
    assert (moved.state, moved.version, moved.since_s, moved.message) == (to, 8, 5.0, "why")


def test_what_has_ended_stays_ended() -> None:
    assert not [edge for edge in TABLE if edge[0] in TERMINAL]


def test_every_state_is_waiting_active_or_ended() -> None:
    assert set(JobState) == WAITING | ACTIVE | TERMINAL
    assert len(WAITING) + len(ACTIVE) + len(TERMINAL) == len(JobState)


def test_every_state_can_be_reached_and_left_until_the_end() -> None:
    reached, todo = {JobState.PENDING}, [JobState.PENDING]
    while todo:
        state = todo.pop()
        found = {to for (at, _), to in TABLE.items() if at is state} - reached
        reached |= found
        todo += sorted(found)
    assert reached == set(JobState)
    for state in set(JobState) - TERMINAL:
        assert any(at is state and to is not state for (at, _), to in TABLE.items()), state


def test_a_running_job_never_fails_without_being_stopped_first() -> None:
    """Devices are given back only when every survivor has said so."""
    failing = {at for (at, _), to in TABLE.items() if to is JobState.FAILED}
    assert failing == {JobState.STOPPING, JobState.SUSPENDED}
