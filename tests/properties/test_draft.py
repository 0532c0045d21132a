"""Whatever a plan takes and promises: no node is said to have more for others than it has."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from singularity.primitives.model import WAITING, Job, JobState
from singularity.scheduler.draft import Draft
from singularity.scheduler.placement import find, sizes, stay
from singularity.scheduler.plan import Action, Verb
from tests.unit.fleets import POLICY, Planet, share

KINDS = (share(40), share(70, 4), share(25, 4), None)
JOBS = st.lists(st.tuples(st.sampled_from(range(len(KINDS))), st.integers(1, 4)), max_size=9)
STEPS = st.lists(
    st.tuples(st.sampled_from(["suspend", "resize", "resume", "promise"]), st.integers(0, 9)),
    max_size=12,
)


def planet_of(jobs: list[tuple[int, int]], going: set[int]) -> Planet:
    """Some jobs run, some change their size or are on their way out, some wait."""
    planet = Planet(nodes=2, devices=4, regions=("us",))
    for number, (kind, devices) in enumerate(jobs):
        least = 1 if KINDS[kind] is None else devices
        planet.submit(f"j{number}", devices, share=KINDS[kind], devices_min=least)
    planet.tick()
    planet.obey()
    draft = Draft(planet.ledger.snapshot(planet.now_s), POLICY)
    for number, job in enumerate(draft.untouched(JobState.RUNNING)):
        if number in going:
            change(draft, "suspend" if job.spec.share else "resize", job)
    planet.ledger.commit(draft.plan(), planet.now_s)
    for number in range(3):
        planet.submit(f"late{number}", 2, share=KINDS[number])
    return planet


def change(draft: Draft, what: str, job: Job) -> None:
    """What a pass could do with the job, if anything."""
    if draft.touched(job):
        return
    if job.state in WAITING and what in ("resume", "promise"):
        free = draft.unclaimed() if what == "promise" else None
        if there := find(draft, job, job.devices, free=free):
            if what == "promise":
                draft.promise(job, there)
            else:
                draft.take(Action(Verb.RESUME, job.id, job.version, "fits", there))
    elif job.state is JobState.RUNNING and what == "suspend":
        verb = Verb.SUSPEND if draft.can_cut(job) else Verb.STOP
        draft.take(Action(verb, job.id, job.version, "must go"))
    elif job.state is JobState.RUNNING and what == "resize" and draft.can_cut(job):
        for devices in sizes(job, most=job.held - 1) if job.spec.share is None else ():
            if there := stay(draft, job, devices):
                draft.take(Action(Verb.SCALE, job.id, job.version, "shrinks", there))
                return


def no_more_than_there_is(draft: Draft) -> None:
    for row, total in enumerate(draft.snapshot.total.tolist()):
        shared = len(draft.parts.left(row, (), soon=True))
        assert draft.unclaimed()[row] + shared <= total, (row, shared)


@given(JOBS, st.sets(st.integers(0, 8)), STEPS)
@example([(3, 2)], {0}, [("suspend", 0)])  # a job that is giving up some of its devices
@example([(1, 2)], {0}, [("resume", 3)])  # devices that are being left, for somebody else
@settings(deadline=None)
def test_no_node_has_more_for_others_than_its_devices(
    jobs: list[tuple[int, int]], going: set[int], steps: list[tuple[str, int]]
) -> None:
    planet = planet_of(jobs, going)
    draft = Draft(planet.ledger.snapshot(planet.now_s), POLICY)
    no_more_than_there_is(draft)
    for what, number in steps:
        change(draft, what, draft.snapshot.jobs[number % len(draft.snapshot.jobs)])
        no_more_than_there_is(draft)
