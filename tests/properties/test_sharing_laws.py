"""Elastic jobs and quotas: who becomes wider, and who narrower for whom."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from singularity.primitives.model import WAITING, Job, JobState, Tier
from singularity.scheduler import elastic
from singularity.scheduler.draft import Draft
from singularity.scheduler.givers import Givers
from singularity.scheduler.offers import offered
from singularity.scheduler.placement import sizes, stay
from singularity.scheduler.sharing import narrowed, widths
from singularity.scheduler.space import Space
from singularity.scheduler.ways import cheapest, per_cluster
from tests.properties.test_quota_laws import PROJECTS, QUOTAS, Quotas, planet_of
from tests.unit.fleets import POLICY, Planet

ELASTIC = st.tuples(st.sampled_from(PROJECTS), st.integers(1, 6), st.sampled_from(Tier))
JOBS = st.lists(ELASTIC, min_size=2, max_size=9)
Asked = tuple[str, int, Tier]


def narrow(quotas: Quotas, jobs: list[Asked], leave: int) -> Planet:
    """Elastic jobs that run on less than they want, and some devices that have just come free."""
    planet = planet_of(quotas)
    for number in range(leave):
        planet.submit(f"leaves-{number}", 1, project="guests", tier=Tier.PREMIUM)
    planet.tick(10.0)
    planet.obey()
    for number, (project, devices, tier) in enumerate(jobs):
        facts = {"project": project, "tier": tier, "devices_min": 1, "checkpoint_every_s": 0.0}
        planet.submit(f"job-{number}", devices, **facts)
        planet.tick(10.0)
        planet.obey()
    for job in list(planet.ledger.jobs().values()):
        if job.spec.name.startswith("leaves") and job.state is JobState.RUNNING:
            planet.report(job.id, "exited", exit_code=0)
    planet.now_s += 10_000.0
    return planet


def without_waiting(planet: Planet) -> Planet:
    for job in list(planet.ledger.jobs().values()):
        if job.state in WAITING:
            planet.change(job.id, state=JobState.CANCELLED)
    return planet


@given(QUOTAS, JOBS, st.integers(1, 10))
@settings(max_examples=40)
@example(  # what one project has a claim to is what another could not borrow
    {"x": (2, None, None), "team": (2, 1, None)},
    [("team", 1, Tier.PREMIUM), ("team", 1, Tier.PREMIUM), ("x", 2, Tier.PREMIUM)],
    1,
)
def test_nobody_borrows_what_others_have_a_claim_to(
    quotas: Quotas, jobs: list[Asked], leave: int
) -> None:
    draft = Draft(narrow(quotas, jobs, leave).ledger.snapshot(12_000.0), POLICY)
    if not draft.quota.governs:
        return
    short = [j for j in draft.untouched(JobState.RUNNING) if elastic.short(draft, j, POLICY)]
    free = int(draft.free.sum())
    for tier in Tier:
        mine, later = ([j for j in short if of(j.tier, tier)] for of in (operator.eq, operator.gt))
        found = widths(draft, mine, POLICY, later) if mine else []
        after = draft.quota.copy()
        for job, wide in found:
            assert job.held < wide <= job.devices
            after.take(job, wide - job.held)
            for key in after.keys(job):
                said = after.said(key)
                assert said is None or said.most is None or after.use[key] <= said.most
        left = free - sum(wide - job.held for job, wide in found)
        assert left >= 0
        if any(after.surplus((job.spec.project, "cpu")) > 0 for job, _ in found):  # some borrow
            for job in later:
                most = job.held + max(0, after.room(job, left))
                claimed = after.claimable(job, [d for d in sizes(job, most) if d > job.held])
                assert left >= sum(claimed) - job.held * len(claimed), job.id


@given(QUOTAS, JOBS, st.integers(1, 10))
@settings(max_examples=40)
@example(  # two that are each promised all they want do not take it from each other by turns
    {},
    [("team", 1, Tier.STANDARD), *(("team", n, Tier.PREMIUM) for n in (2, 4, 4, 3, 1))],
    4,
)
def test_at_rest_whoever_could_be_wider_is(quotas: Quotas, jobs: list[Asked], leave: int) -> None:
    """And nobody waits for it: nothing stays idle for the sake of a claim that nobody makes."""
    planet = without_waiting(narrow(quotas, jobs, leave))
    for _ in range(12):
        planet.tick(10_000.0)
        planet.obey()
    draft = Draft(planet.ledger.snapshot(planet.now_s + 10_000.0), POLICY)
    if any(job.state in WAITING for job in draft.snapshot.jobs):
        return
    for job in draft.untouched(JobState.RUNNING):
        more = [d for d in sizes(job, draft.most(job)) if d > job.held]
        assert not any(stay(draft, job, d) for d in more), (job.id, more)


@given(QUOTAS, JOBS, ELASTIC)
@settings(max_examples=50)
def test_a_project_shares_with_an_equal_of_another_no_more_than_it_borrowed(
    quotas: Quotas, jobs: list[Asked], asker: Asked
) -> None:
    planet = narrow(quotas, jobs, 0)
    draft, blocked = asking(planet, asker)
    for wide, narrower in narrowed(draft, blocked, per_cluster(draft, blocked), POLICY):
        assert wide in sizes(blocked)
        given = Counter[tuple[str, str]]()
        for name, to in narrower.items():
            job = draft.snapshot.by_id[name]
            assert to < job.held
            given.update(dict.fromkeys(draft.quota.apart(job, blocked), job.held - to))
        if draft.quota.governs:
            assert all(count <= draft.quota.surplus(key) for key, count in given.items())


@given(QUOTAS, JOBS, ELASTIC)
@settings(max_examples=50)
def test_who_is_within_a_guarantee_gives_only_where_borrowers_are_not_enough(
    quotas: Quotas, jobs: list[Asked], asker: Asked
) -> None:
    """Whatever they have: they become narrower, or leave, before anybody at home does."""
    draft, blocked = asking(narrow(quotas, jobs, 0), asker)
    for devices in sizes(blocked):
        chosen = cheapest(draft, blocked, devices, POLICY)
        if all(o.borrowed for o in chosen):
            continue
        givers = Givers(draft, blocked, devices, POLICY, equals=False)
        cluster = int(draft.snapshot.cluster[draft.snapshot.row[min(chosen[0].job.nodes)]])
        space = Space(draft, blocked, devices)
        for job in givers.of(cluster):
            if draft.quota.borrows(job, blocked):
                space.add(offered(draft, job, (), POLICY, borrowed=True))
        assert not space.fits(), (devices, [o.job.id for o in chosen])


def asking(planet: Planet, asker: Asked) -> tuple[Draft, Job]:
    """A job that has just come, and nobody has looked at."""
    project, devices, tier = asker
    name = planet.submit("asks", devices, project=project, tier=tier, devices_min=1)
    draft = Draft(planet.ledger.snapshot(planet.now_s), POLICY)
    return draft, replace(draft.snapshot.by_id[name])
