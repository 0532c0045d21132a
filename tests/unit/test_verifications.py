"""Jobs that verify others: when they start, whom they make way for, and what their end tells."""

from __future__ import annotations

from typing import Any

from fleets import Planet, verbs

from singularity.primitives.asides import shadow
from singularity.primitives.findings import Certificate, Finding
from singularity.primitives.messages import Cut, Report, Start
from singularity.primitives.model import Aside, Intent, JobId, JobState, Tier
from singularity.primitives.nodes import Duty, NodeId, Scope, ScopeKind

SHADOW = JobId("shadow")
LATER_S = 6.0  # after which a cut may be taken for it


def verify(planet: Planet, of: JobId, cut: int = 0, number: int = 0) -> JobId:
    made = shadow(planet.job(of), Aside(of, 4, min(cut, 1), cut), SHADOW, planet.now_s + number)
    planet.ledger.submit(made)
    return made.id


def found(planet: Planet, finding: Finding = Finding.IDENTICAL, **more: Any) -> None:
    """The ranks aside come to their end."""
    (shard,) = planet.job(SHADOW).placement
    report = Report(
        job=SHADOW,
        node=shard.node,
        incarnation=1,
        phase="exited",
        exit_code=0,
        certificate=Certificate(finding, "because", step=7, **more),
    )
    planet.ledger.record(report, planet.now_s)


def started(planet: Planet, job: JobId) -> None:
    """Its shadow runs, after a cut that was taken for it."""
    planet.tick(LATER_S)
    planet.report(job, "running", cut=True)
    planet.tick()
    planet.report(SHADOW, "running")


def test_a_cut_is_taken_restored_aside_on_idle_devices_and_certified() -> None:
    planet = Planet()
    job = planet.submit("a", 2)
    planet.run(job)
    verify(planet, job)
    assert verbs(planet.tick(LATER_S)) == {job: "checkpoint"}
    cut = planet.ledger.unsent()[-1].command
    assert isinstance(cut, Cut)
    assert cut.note_after == 4
    planet.report(job, "running", cut=True)
    assert verbs(planet.tick()) == {SHADOW: "resume"}
    start = planet.ledger.unsent()[-1].command
    assert isinstance(start, Start)
    assert start.aside == Aside(job, 4)
    assert start.origin is not None
    assert [i.digest for i in start.origin.shards] == ["digest"]
    planet.report(SHADOW, "running")
    found(planet)
    assert planet.job(SHADOW).state is JobState.SUCCEEDED
    told = planet.job(job).certificate
    assert told == planet.job(SHADOW).certificate
    assert told is not None
    assert (told.finding, told.by, told.at_s) == (Finding.IDENTICAL, SHADOW, planet.now_s)
    assert planet.job(job).state is JobState.RUNNING
    assert sum(n.used for n in planet.ledger.nodes().values()) == 2


def test_no_job_is_cut_for_an_answer_that_cannot_come() -> None:
    planet = Planet(nodes=1, regions=("us",))
    job = planet.submit("a", 4)
    planet.run(job)
    verify(planet, job)
    plan = planet.tick(LATER_S)
    assert plan.actions == ()
    assert [r.kind for r in plan.pending[SHADOW]][-1] == "idle"
    assert verbs(planet.tick(301.0)) == {SHADOW: "cancel"}
    assert planet.job(job).cut == 0


def test_one_that_finds_no_idle_devices_gives_up_and_says_so() -> None:
    planet = Planet(nodes=1, regions=("us",))
    job = planet.submit("a", 4, checkpoint_every_s=30.0)
    planet.run(job)
    planet.tick(40.0)
    planet.report(job, "running", cut=True)
    verify(planet, job, cut=1)
    planet.tick()
    assert planet.job(SHADOW).state is JobState.PENDING
    planet.tick(301.0)
    assert planet.job(SHADOW).state is JobState.CANCELLED
    told = planet.job(job).certificate
    assert told is not None
    assert (told.finding, told.cut) == (Finding.INCOMPARABLE, 1)
    assert "no devices were idle" in told.reason


def test_it_makes_way_for_any_job_that_could_use_its_devices() -> None:
    planet = Planet(nodes=1, regions=("us",))
    job = planet.submit("a", 2)
    planet.run(job)
    verify(planet, job)
    started(planet, job)
    other = planet.submit("b", 2, tier=Tier.BASIC)
    assert verbs(planet.tick()) == {SHADOW: "cancel"}
    planet.report(SHADOW, "stopped")
    assert verbs(planet.tick())[other] == "resume"
    told = planet.job(job).certificate
    assert told is not None
    assert "wanted by b" in told.reason


def test_it_is_never_cut_moved_or_shrunk_but_leaves_a_node_that_is_drained() -> None:
    planet = Planet(nodes=2, regions=("us",))
    job = planet.submit("a", 2)
    planet.run(job)
    verify(planet, job)
    started(planet, job)
    planet.ledger.request_checkpoint(SHADOW, planet.now_s)
    planet.ledger.intend(SHADOW, Intent.HOLD, planet.now_s)
    assert SHADOW not in verbs(planet.tick(100.0))
    (node,) = planet.job(SHADOW).nodes
    planet.ledger.set_duty(Scope(ScopeKind.NODE, node), Duty.DRAINING, planet.now_s)
    assert verbs(planet.tick())[SHADOW] == "cancel"


def test_a_node_that_is_lost_or_starts_anew_ends_it_for_good() -> None:
    planet = Planet(nodes=2, regions=("us",))
    job = planet.submit("a", 4)
    planet.run(job)
    verify(planet, job)
    started(planet, job)
    (node,) = planet.job(SHADOW).nodes
    planet.join(node, "us")  # with another epoch than the ledger's
    assert planet.job(SHADOW).state is JobState.FAILED
    told = planet.job(job).certificate
    assert told is not None
    assert "started anew" in told.reason
    assert planet.job(job).state is JobState.RUNNING
    assert planet.ledger.nodes()[NodeId(node)].used == 0


def test_a_job_that_cannot_be_cut_is_told_why_and_runs_on() -> None:
    planet = Planet()
    job = planet.submit("a", 2)
    planet.run(job)
    verify(planet, job)
    for _ in range(3):
        planet.tick(20.0)
        for shard in planet.job(job).placement:
            said = Report(
                job=job,
                node=shard.node,
                incarnation=1,
                phase="running",
                cut=planet.job(job).cut,
                reason="a TCP connection",
            )
            planet.ledger.record(said, planet.now_s)
    planet.tick()
    told = planet.job(job).certificate
    assert told is not None
    assert told.finding is Finding.INCOMPARABLE
    assert "a TCP connection" in told.reason
    assert planet.job(job).state is JobState.RUNNING


def test_a_preflight_waits_for_its_job_and_ends_with_it() -> None:
    planet = Planet(nodes=1, regions=("us",))
    first = planet.submit("first", 4)
    planet.run(first)
    job = planet.submit("a", 2)
    verify(planet, job, number=2)
    assert planet.tick(1_000.0).pending[SHADOW][-1].kind == "cut"
    planet.ledger.intend(job, Intent.CANCEL, planet.now_s)
    planet.tick()
    planet.tick()
    assert planet.job(SHADOW).state is JobState.CANCELLED
    told = planet.job(job).certificate
    assert told is not None
    assert "has cancelled before" in told.reason


def test_a_checkpoint_that_is_not_kept_cannot_be_verified() -> None:
    planet = Planet()
    job = planet.submit("a", 2)
    planet.run(job)
    verify(planet, job, cut=9)
    planet.tick()
    told = planet.job(job).certificate
    assert told is not None
    assert "does not keep checkpoint 1-9" in told.reason
