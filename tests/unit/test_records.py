"""replace() is dataclasses.replace, only quicker."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from singularity.primitives.model import Job, JobId, JobSpec, JobState
from singularity.primitives.records import replace

JOB = Job(JobId("j"), JobSpec("job", ("train",)), 1)


def test_it_is_what_the_library_makes_of_it() -> None:
    for changes in ({}, {"state": JobState.RUNNING, "version": 3}, {"message": "why"}):
        ours, theirs = replace(JOB, **changes), dataclasses.replace(JOB, **changes)
        assert ours == theirs and hash(ours.id) == hash(theirs.id) and type(ours) is Job
    assert JOB.state is JobState.PENDING


def test_a_field_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="no field 'colour'"):
        replace(JOB, colour="red")  # type: ignore[call-arg]


def test_a_class_that_does_more_than_keep_its_fields_is_made_as_ever() -> None:
    @dataclass(frozen=True)
    class Checked:
        one: int
        two: int

        def __post_init__(self) -> None:
            assert self.one <= self.two

    assert replace(Checked(1, 2), one=2) == Checked(2, 2)
    with pytest.raises(AssertionError):
        replace(Checked(1, 2), one=3)
