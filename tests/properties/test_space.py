"""What is kept up to date, offer by offer and device by device, is what is found by looking at
everything; whatever jobs, quotas, shares and topologies there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.primitives.model import Job, JobState, Tier
from singularity.primitives.topology import Near, Topology
from singularity.scheduler.draft import Draft
from singularity.scheduler.offers import Offer, offered
from singularity.scheduler.placement import find, sizes, stay
from singularity.scheduler.price import of_leaving
from singularity.scheduler.quota import UNBOUND, Quota
from singularity.scheduler.space import Space, room_for
from tests.properties.test_quota_laws import PROJECTS, QUOTAS, Quotas, planet_of
from tests.unit.fleets import POLICY, Planet, share

TOPOLOGIES = (
    {},
    {"same_node": True},
    {"topology": Topology(same_rack=True)},
    {"topology": Topology(prefer=Near.NODE)},
    {"topology": Topology(spread=Near.NODE)},
    {"topology": Topology(spread=Near.RACK, apart="group")},
    {"topology": Topology(apart="group")},
    {"ranks": 2},
    {"share": share(40)},
)
JOB = st.tuples(
    st.sampled_from(PROJECTS),
    st.integers(1, 6),
    st.sampled_from(Tier),
    st.booleans(),
    st.sampled_from(range(len(TOPOLOGIES))),
)
Asked = tuple[str, int, Tier, bool, int]


def crowded(quotas: Quotas, jobs: list[Asked], ended: set[int]) -> Planet:
    """Some jobs run, some are on their way out, some wait."""
    planet = planet_of(quotas, nodes=2)
    for n, rack in enumerate(("a", "a", "b")):
        planet.join(f"eu-{n}", "eu", 4, rack=rack)
    for number, (project, devices, tier, elastic, kind) in enumerate(jobs):
        extra: dict[str, Any] = dict(TOPOLOGIES[kind])
        if (ranks := extra.pop("ranks", devices)) < devices:
            devices -= devices % ranks
        least = 1 if elastic and "share" not in extra else devices
        facts = {"project": project, "tier": tier, "devices_min": least, "ranks": ranks}
        name = planet.submit(f"job-{number:02}", devices, **facts, **extra)
        planet.tick(10.0)
        planet.obey()
        if number in ended and planet.job(name).state is JobState.RUNNING:
            planet.report(name, "exited", exit_code=0)
    planet.tick(10.0)
    return planet


def offers_of(draft: Draft, job: Job) -> list[Offer]:
    """To leave, to shrink by every number of devices, and to move elsewhere."""
    found = [offered(draft, job, (), POLICY, borrowed=True)]
    for devices in sizes(job, most=job.held - 1) if job.held > 1 else ():
        if target := stay(draft, job, devices):
            found.append(offered(draft, job, target, POLICY, borrowed=True))
    homeless = replace(job, placement=(), target=())
    if job.spec.share is None and (target := find(draft, homeless, job.held)):
        price = of_leaving(job, draft.snapshot.now_s, POLICY)
        found.append(Offer(job, target, price, moves=True))
    return found


@given(
    QUOTAS,
    st.lists(JOB, min_size=3, max_size=14),
    st.sets(st.integers(0, 13), max_size=5),
    st.lists(st.integers(0, 1000), min_size=1, max_size=25),
)
@settings(deadline=None, max_examples=80)
def test_what_is_kept_by_offers_is_what_all_nodes_say(
    quotas: Quotas, jobs: list[Asked], ended: set[int], picks: list[int]
) -> None:
    draft = Draft(crowded(quotas, jobs, ended).ledger.snapshot(2_000.0), POLICY)
    running = [j for j in draft.untouched(JobState.RUNNING) if draft.can_cut(j)]
    for blocked in draft.snapshot.jobs:
        every = [o for job in running if job.id != blocked.id for o in offers_of(draft, job)]
        for devices in sizes(blocked):
            space, made = Space(draft, blocked, devices), list[Offer]()
            for pick in picks if every else ():
                each = every[pick % len(every)]
                mine = [o for o in made if o.job.id == each.job.id]
                if each in made:
                    made.remove(each)
                    space.drop(each)
                elif not any(o.moves or each.moves for o in mine):  # either it moves or it gives
                    made.append(each)
                    space.add(each)
                there = room_for(draft, blocked, devices, made)
                assert space.fits() == bool(there), (blocked.id, devices)


@given(QUOTAS, st.lists(JOB, min_size=2, max_size=10), st.lists(st.integers(0, 99), max_size=12))
@settings(deadline=None, max_examples=60)
def test_what_is_remembered_of_quotas_is_what_they_say(
    quotas: Quotas, jobs: list[Asked], changes: list[int]
) -> None:
    draft = Draft(crowded(quotas, jobs, set()).ledger.snapshot(2_000.0), POLICY)
    quota, every = draft.quota, draft.snapshot.jobs
    for number in (0, *changes):
        job, devices = every[number % len(every)], number % 5
        (quota.take, quota.expect, quota.promise)[number % 3](job, devices)
        less = Counter[tuple[str, str]]()
        for other in every[: number % 4]:
            less.update(dict.fromkeys(quota.keys(other), number % 3))
        free, counted = number % 12, {key for each in every for key in quota.keys(each)}
        if any(quota._then(key) < less[key] for key in counted):
            continue  # nobody gives back more than there is
        for asker in every if quota.governs else ():
            anew = quota.copy()
            assert quota.bound(asker, free) == anew.bound(asker, free)
            kept = besides(quota, asker, lambda key: quota.use[key])
            assert anew._keep_now.besides(quota._path(asker), "cpu") == kept
            room = room_later(quota, asker, free, less)
            for devices in range(9):
                assert quota.admits_later(asker, devices, free, less) == (devices <= room)


def room_later(quota: Quota, job: Job, free: int, less: Counter[tuple[str, str]]) -> int:
    def use(key: tuple[str, str]) -> int:
        return quota._then(key) - less[key]

    rooms = [UNBOUND]
    for key in quota.keys(job):
        said = quota.said(key)
        if said and said.most is not None:
            rooms.append(said.most - use(key))
    if (kept := besides(quota, job, use)) > 0:
        own = quota.keys(job)[0]
        rooms.append(max(free - kept, quota._owns(own) - use(own)))
    return min(rooms)


def besides(quota: Quota, job: Job, use: Callable[[tuple[str, str]], int]) -> int:
    """Idle devices that others keep, down the branches that the job is not in: the plain rule."""

    def kept(project: str) -> int:
        said = quota.said((project, "cpu"))
        mine = (said.kept if said else 0) - use((project, "cpu"))
        return max(sum(map(kept, quota.parts(project))), mine)

    path = (*quota._path(job), "")
    return sum(kept(part) for above in path for part in quota.parts(above) if part not in path)
