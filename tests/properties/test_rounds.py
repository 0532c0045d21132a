"""When another round is needed at once, and when it is enough to wait for somebody to ring."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.primitives.model import JobState, Tier
from singularity.scheduler.plan import Verb
from tests.unit.fleets import Planet, share

JOBS = st.fixed_dictionaries(
    {
        "devices": st.sampled_from([1, 2, 3, 4, 6, 8]),
        "tier": st.sampled_from(list(Tier)),
        "elastic": st.booleans(),
        "regions": st.sampled_from([(), ("us",), ("eu",)]),
        "same_node": st.booleans(),
        "shared": st.integers(0, 9).map(lambda n: n == 0),
    }
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.lists(JOBS, min_size=1, max_size=5)),
        st.tuples(st.just("end"), st.integers(0, 20)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 10.0, 700.0])),
    ),
    min_size=2,
    max_size=14,
)


def submit(planet: Planet, number: int, asked: dict[str, Any]) -> None:
    devices = asked["devices"]
    facts: dict[str, Any] = {"tier": asked["tier"], "regions": asked["regions"]}
    if asked["shared"]:
        devices, facts["share"] = 1, share(40)
    elif asked["elastic"]:
        facts["devices_min"] = 1
    if asked["same_node"] and devices <= 4:
        facts["same_node"] = True
    planet.submit(f"j{number:03}", devices, **facts)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_nothing_follows_from_jobs_that_start(steps: list[tuple[str, Any]]) -> None:
    """The scheduler waits after such a round (loops.Outcome): what they left idle nobody could
    use."""
    planet, number = Planet(), 0
    for what, said in steps:
        if what == "come":
            for asked in said:
                number += 1
                submit(planet, number, asked)
        elif what == "end":
            runs = [j for j in planet.ledger.jobs().values() if j.state is JobState.RUNNING]
            if runs:
                planet.report(runs[said % len(runs)].id, "exited", exit_code=0)
        plan = planet.tick(said if what == "wait" else 1.0)
        if plan.actions and all(a.verb is Verb.RESUME for a in plan.actions) and not plan.changes:
            assert planet.plan().actions == ()
        planet.obey()
