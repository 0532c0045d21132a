"""A job goes back to an earlier checkpoint because its owner says so."""

from __future__ import annotations

import pytest
from fleets import Planet, verbs

from singularity.primitives import cuts
from singularity.primitives.errors import Conflict, NotFound
from singularity.primitives.messages import Start, Stop
from singularity.primitives.model import Intent, JobId, JobState


def saved(planet: Planet, job: JobId, times: int = 2) -> list[tuple[int, int]]:
    """It runs, and has that many checkpoints; newest first."""
    planet.run(job)
    for _ in range(times):
        planet.ledger.request_checkpoint(job, planet.now_s)
        planet.tick()
        planet.report(job, "running", cut=True)
    return [(c.incarnation, c.cut) for c in planet.job(job).checkpoints]


def begins_from(planet: Planet, job: JobId) -> tuple[int, int] | None:
    started = [c for e in planet.ledger.unsent() if isinstance(c := e.command, Start)]
    origin = next(s for s in reversed(started) if s.job == job).origin
    return (origin.incarnation, origin.cut) if origin else None


def test_a_running_job_is_stopped_and_begins_from_the_chosen_one() -> None:
    planet = Planet()
    job = planet.submit("job", 2, checkpoint_keep=3)
    newest, chosen, _ = saved(planet, job, 3)
    planet.ledger.go_back(job, chosen, planet.now_s)
    assert verbs(planet.tick()) == {job: "go-back"}
    assert isinstance(planet.ledger.unsent()[-1].command, Stop)
    found = planet.job(job)
    assert found.back_to is None and found.state is JobState.STOPPING
    assert newest not in [(c.incarnation, c.cut) for c in found.checkpoints]
    assert len(found.checkpoints) == 2, "older ones are kept"
    planet.report(job, "stopped")
    planet.tick()
    assert begins_from(planet, job) == chosen
    planet.report(job, "running")
    assert planet.job(job).incarnation == found.incarnation + 1
    assert planet.tick().actions == (), "once is enough"


def test_a_suspended_job_only_forgets_what_came_after() -> None:
    planet = Planet()
    job = planet.submit("job", 2)
    _, chosen = saved(planet, job)
    planet.ledger.intend(job, Intent.HOLD, planet.now_s)
    planet.tick()
    planet.report(job, "dumped")
    (last, newest) = ((c.incarnation, c.cut) for c in planet.job(job).checkpoints)
    assert newest != chosen, "two are kept, and its suspension made one more"
    planet.ledger.go_back(job, newest, planet.now_s)
    assert verbs(planet.tick()) == {job: "go-back"}
    assert planet.job(job).state is JobState.SUSPENDED
    assert last not in [(c.incarnation, c.cut) for c in planet.job(job).checkpoints]
    planet.ledger.intend(job, Intent.RUN, planet.now_s)
    planet.tick()
    assert begins_from(planet, job) == newest


def test_one_that_was_replaced_meanwhile_stops_nobody() -> None:
    planet = Planet()
    job = planet.submit("job", 2)
    _, oldest = saved(planet, job)
    planet.ledger.request_checkpoint(job, planet.now_s)
    planet.tick()
    planet.ledger.go_back(job, oldest, planet.now_s)
    planet.report(job, "running", cut=True)
    assert verbs(planet.tick()) == {job: "go-back"}
    found = planet.job(job)
    assert found.state is JobState.RUNNING and len(found.checkpoints) == 2
    assert "kept no more" in found.message and planet.tick().actions == ()


def test_a_cut_in_flight_does_not_count_any_more() -> None:
    planet = Planet()
    job = planet.submit("job", 2)
    newest, chosen = saved(planet, job)
    planet.ledger.request_checkpoint(job, planet.now_s)
    planet.tick()
    planet.ledger.go_back(job, chosen, planet.now_s)
    planet.tick()
    planet.report(job, "running", cut=True)
    assert [(c.incarnation, c.cut) for c in planet.job(job).checkpoints] == [chosen]
    assert newest != chosen


def test_what_is_not_there_or_over_is_said() -> None:
    planet = Planet()
    job = planet.submit("job", 2)
    newest, _ = saved(planet, job)
    with pytest.raises(NotFound, match="has no checkpoint 9-9") as caught:
        cuts.named(planet.job(job), "9-9")
    assert caught.value.facts["near"] == ["1-2", "1-1"]
    assert cuts.named(planet.job(job), "1-2").cut == newest[1]
    planet.ledger.intend(job, Intent.CANCEL, planet.now_s)
    planet.tick()
    planet.report(job, "stopped")
    with pytest.raises(Conflict, match="has cancelled"):
        planet.ledger.go_back(job, newest, planet.now_s)
