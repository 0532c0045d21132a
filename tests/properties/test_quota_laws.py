"""Whatever projects, jobs and changes there are: no limit is exceeded, and a lender gets back."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.primitives.errors import InvalidSpec
from singularity.primitives.model import TERMINAL, Intent, Tier
from singularity.primitives.projects import Usage, claim
from singularity.scheduler.decide import decide
from singularity.scheduler.draft import Draft
from singularity.scheduler.quota import Quota
from singularity.scheduler.snapshot import Snapshot
from tests.unit.fleets import POLICY, Planet

PROJECTS = ("team", "x", "y", "guests")
PARENT = {"x": "team", "y": "team"}
LIMITS = st.one_of(st.none(), st.integers(0, 6))
QUOTAS = st.dictionaries(
    st.sampled_from(PROJECTS[:3]), st.tuples(st.integers(0, 8), LIMITS, LIMITS), max_size=3
)
JOB = st.tuples(st.sampled_from(PROJECTS), st.integers(1, 5), st.sampled_from(Tier), st.booleans())
STEP = st.one_of(JOB, st.sampled_from(["round", "round", "end", "cancel"]))
Quotas = dict[str, tuple[int, int | None, int | None]]


def planet_of(quotas: Quotas, nodes: int = 3) -> Planet:
    planet = Planet(nodes=nodes, devices=4, regions=("us",))
    for name in PROJECTS:
        said = quotas.get(name)
        limits: dict[str, Any] = {}
        if said is not None:
            lend = None if said[2] is None else min(said[2], said[0])
            limits = {"guaranteed": said[0], "borrow": said[1], "lend": lend}
        try:
            planet.project(name, parent=PARENT.get(name, ""), **limits)
        except InvalidSpec:
            planet.project(name, parent=PARENT.get(name, ""))
    return planet


def submit(planet: Planet, asked: tuple[str, int, Tier, bool]) -> None:
    project, devices, tier, elastic = asked
    name = f"job-{len(planet.ledger.jobs()):02}"
    least = 1 if elastic else devices
    planet.submit(name, devices, project=project, tier=tier, devices_min=least)


def happen(planet: Planet, step: object, number: int) -> None:
    if isinstance(step, tuple):
        submit(planet, step)
        return
    living = [j for j in planet.ledger.jobs().values() if j.state not in TERMINAL]
    if step == "cancel" and living:
        planet.ledger.intend(living[number % len(living)].id, Intent.CANCEL, planet.now_s)
    elif step == "end" and (running := [j for j in living if j.state == "running"]):
        planet.report(running[number % len(running)].id, "exited", exit_code=0)
    planet.tick(10.0)
    planet.obey()


@given(QUOTAS, st.lists(STEP, max_size=30))
@settings(deadline=None, max_examples=60)
def test_no_project_ever_exceeds_what_it_has_and_may_borrow(
    quotas: Quotas, story: list[object]
) -> None:
    planet = planet_of(quotas)
    for number, step in enumerate(story):
        happen(planet, step, number)
        quota = Quota(planet.ledger.projects())
        for project in planet.ledger.projects():
            said = project.of("cpu")
            if said is not None and said.most is not None:
                assert quota.use[project.id, "cpu"] <= said.most
        for project in planet.ledger.projects():
            held = [j for j in planet.ledger.jobs().values() if j.spec.project == project.id]
            assert project.usage.devices == sum(map(claim, held))


@given(st.integers(1, 8), st.lists(st.tuples(st.sampled_from(Tier)), min_size=12, max_size=16),
       st.sampled_from(Tier))  # fmt: skip
@settings(deadline=None, max_examples=30)
def test_a_lender_gets_its_own_back(guaranteed: int, guests: list[tuple[Tier]], tier: Tier) -> None:
    """Every device is lent to jobs of any tier; the owner asks for all that is its own."""
    planet = planet_of({"team": (guaranteed, None, None)})
    for (theirs,) in guests:
        submit(planet, ("guests", 1, theirs, False))
    happen(planet, "round", 0)
    for _ in range(guaranteed):
        submit(planet, ("x", 1, tier, False))
    for _ in range(4):  # no more than eight jobs are stopped in one round
        happen(planet, "round", 0)
    mine = [j for j in planet.ledger.jobs().values() if j.spec.project == "x"]
    assert all(j.state == "running" for j in mine)
    assert planet.tick(10.0).actions == (), "and there it ends"


@given(QUOTAS, st.lists(JOB, min_size=6, max_size=20), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_who_waits_within_a_guarantee_waits_for_nobody_who_borrows(
    quotas: Quotas, jobs: list[tuple[str, int, Tier, bool]], late: int
) -> None:
    """In the end: for jobs of one device, which fit wherever there is one."""
    planet = planet_of(quotas)
    for project, _, tier, _ in jobs:
        submit(planet, (project, 1, tier, False))
    for number in range(8):
        happen(planet, "round", number)
    draft = Draft(planet.ledger.snapshot(planet.now_s))
    most = {}
    waiting = [j for j in draft.snapshot.jobs if j.state in ("pending", "suspended")]
    for job in waiting:
        most[job.spec.project] = min(most.get(job.spec.project, job.tier), job.tier)
    for job in waiting:
        if job.tier > most[job.spec.project] or draft.most(job) < 1:
            continue
        takes = [v.id for v in draft.untouched("running") if draft.quota.may_take(job, 1, v)]  # type: ignore[arg-type]
        assert not (draft.quota.claims(job, 1) and takes), (job.id, takes)


@given(QUOTAS, st.lists(STEP, max_size=15), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_the_order_of_what_is_told_is_of_no_matter(
    quotas: Quotas, story: list[object], chance: random.Random
) -> None:
    planet = planet_of(quotas)
    for number, step in enumerate(story):
        happen(planet, step, number)
    one = planet.ledger.snapshot(planet.now_s + 1.0)
    jobs, nodes, projects = list(one.jobs), list(one.nodes), list(one.projects)
    for order in (jobs, nodes, projects):
        chance.shuffle(order)
    other = Snapshot.build(nodes, jobs, one.now_s, one.drains, one.acknowledged_s)
    other = replace(other, projects=tuple(projects))
    assert decide(one, POLICY) == decide(other, POLICY)


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1e5)), max_size=20), st.floats(0, 1e6))
def test_usage_does_not_depend_on_when_it_was_looked_at(
    changes: list[tuple[int, float]], until_s: float
) -> None:
    at_s, plain, looked = 0.0, Usage(), Usage()
    for more, after_s in changes:
        looked = looked.changed("cpu", 0, at_s + after_s / 2)
        at_s += after_s
        plain, looked = plain.changed("cpu", more, at_s), looked.changed("cpu", more, at_s)
    found = plain.until(at_s + until_s)
    assert abs(found - looked.until(at_s + until_s)) <= 1e-6 * max(1.0, found)
    assert found >= 0.0
