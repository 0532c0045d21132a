"""What other policies do, where it can be worked out by hand; and the figures of a run."""

from __future__ import annotations

import pytest

from singularity.primitives.errors import InvalidSpec
from singularity.primitives.model import Tier
from singularity.scheduler.sim.compare import costs_of, policies, policy_of
from singularity.scheduler.sim.outcomes import Hour, Outcome, Run, rows, scorecard
from singularity.scheduler.sim.rivals import RIVALS, compete
from singularity.scheduler.sim.traces import Arrival, Trace


def trace(*jobs: tuple[float, float, int]) -> Trace:
    """Jobs by when they come, how long they take, and how many devices they want."""
    made = [Arrival(f"j{n}", *job, devices_min=job[2]) for n, job in enumerate(jobs)]
    return Trace("t", tuple(made))


def ended(policy: str, found: Trace, devices: int) -> list[float | None]:
    return [o.ended_s for o in compete(RIVALS[policy], found, devices, restart_s=10.0).outcomes]


def test_first_come_first_served_and_smaller_ones_fill_the_rest() -> None:
    found = trace((0, 100, 3), (1, 100, 4), (2, 10, 1))
    assert ended("fifo", found, 4) == [100, 200, 12]


def test_the_shortest_next_stops_nobody() -> None:
    found = trace((0, 100, 4), (1, 50, 4), (2, 10, 4))
    assert ended("sjf", found, 4) == [100, 160, 110]


def test_the_least_left_stops_others_who_pay_when_they_are_back() -> None:
    found = trace((0, 100, 4), (10, 50, 4))
    assert ended("srtf", found, 4) == [10 + 50 + 10 + 90, 60]


def test_who_was_served_little_goes_before_who_was_served_for_long() -> None:
    hour = 3600.0
    found = trace((0, 40 * hour, 1), (17 * hour, hour, 1))
    first, second = ended("las", found, 1)
    assert second == 18 * hour, "the first has had its sixteen hours"
    assert first == 41 * hour + 10.0


def test_our_rule_on_the_pool_serves_tiers_then_who_had_least() -> None:
    hour = 3600.0
    jobs = [
        Arrival("long", 0.0, 3 * hour, 1, 1, tier=Tier.BASIC),
        Arrival("short", 2 * hour, 60.0, 1, 1, tier=Tier.BASIC),
        Arrival("urgent", 2 * hour, 600.0, 1, 1, tier=Tier.PREMIUM),
    ]
    found = Trace("t", tuple(jobs))
    assert ended("levels", found, 1) == [3 * hour + 660 + 10, 2 * hour + 660, 2 * hour + 600]


def test_all_have_as_much_as_can_be() -> None:
    found = trace((0, 100, 4), (0, 100, 1))
    assert ended("maxmin", found, 4) == [pytest.approx(100 + 100 / 4), pytest.approx(100)]


@pytest.mark.parametrize("policy", sorted(RIVALS))
def test_nothing_is_lost_and_the_same_again_is_the_same(policy: str) -> None:
    jobs = [(7.0 * n, 30.0 + 13 * (n % 5), 1 + n % 4) for n in range(60)]
    one, other = (compete(RIVALS[policy], trace(*jobs), 6) for _ in range(2))
    assert one.digest == other.digest
    assert all(o.ended_s is not None and o.ended_s >= o.job.at_s + o.job.work_s - 1e-6
               for o in one.outcomes)  # fmt: skip
    assert max(one.busy) <= 6 + 1e-9


def test_the_scorecard_of_a_run_worked_out_by_hand() -> None:
    jobs = [
        Outcome(Arrival("a", 0.0, 100.0, 2, 2, tier=Tier.PREMIUM), 0.0, 100.0),
        Outcome(Arrival("b", 0.0, 100.0, 2, 2, tier=Tier.BASIC), 100.0, 200.0, preemptions=1),
    ]
    run = Run("x", 2, jobs, [0.0, 100.0, 200.0], [2, 2, 0], [4, 2, 0])
    run.hours = [
        Hour(Tier.PREMIUM, 10, 1, 10, 9, fitted=True),
        Hour(Tier.PREMIUM, 10, 9, 10, 1, fitted=False),
    ]
    card = scorecard(run)
    assert (card.utilisation, card.preemptions) == (1.0, 0.5)
    assert card.jct_h == pytest.approx(150 / 3600) and card.queue_h == pytest.approx(50 / 3600)
    assert card.attained == {"premium": 1.0, "standard": 1.0, "basic": 1.0}
    assert card.kept == {"premium": 0.9, "standard": None}
    # a: 100 s of work in a fleet wanted twice over; b: half of its 200 s so, half alone
    assert card.fairness == pytest.approx((100 / 200 + 200 / 150) / 2)
    table = rows([card, card])
    assert table[0] == ["", "x", "x"] and ["kept standard", "-", "-"] in table


def test_names_costs_and_settings_that_are_not_there_are_said() -> None:
    assert policies("all")[0] == "singularity" and policies("las, fifo") == ["las", "fifo"]
    for wrong in ("lottery", ""):
        with pytest.raises(InvalidSpec):
            policies(wrong)
    assert policy_of(["quantum_s=5"]).quantum_s == 5.0
    for wrong in ("quantum_s", "quantum=5", "quantum_s=long"):
        with pytest.raises(InvalidSpec):
            policy_of([wrong])
    given = costs_of(Trace("t", (), costs={"cut_s": 3.0}), {"restart_s": 7.0, "start_s": None})
    assert (given.cut_s, given.restart_s, given.start_s) == (3.0, 7.0, 0.0)
