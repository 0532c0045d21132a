"""Services in a replay: what training lends comes back, no device is used twice, and the looks that
are not rounds change nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np

from singularity.primitives.model import Tier
from singularity.scheduler.sim.inference import Inference
from singularity.scheduler.sim.loads import Queue, Rates, drawn
from singularity.scheduler.sim.outcomes import Run, scorecard
from singularity.scheduler.sim.replay import Costs, Replay
from singularity.scheduler.sim.traces import Arrival, Machines, Serves, Trace

FLEET = (Machines(2, 4),)
COSTS = Costs(restart_s=60.0, ready_s=20.0, stall_s=10.0, gap_s=1.0)
WAVE = Rates(600, (10.0, 10.0, 30.0, 30.0, *[5.0] * 60), (1.0,) * 64)
SERVICE = Serves("s", WAVE, per_replica=10.0, least=1, most=6)
JOB = Arrival("train", 0.0, 1e6, devices=8, devices_min=2)


class EveryLook(Inference):
    """Each look at a load is a round."""

    def _look(self, pool, number):  # type: ignore[no-untyped-def]
        service = self._books.service(pool.id)
        super()._look(pool, number)
        self._books.remember(service)
        self._changed = True


@cache
def run() -> Run:
    replay = Inference(Trace("t", (JOB,), services=(SERVICE,)), FLEET, costs=COSTS)
    found = replay.run()
    assert not [job for job, _ in replay._ledger.loans() if job != "train"]
    return found


def test_training_lends_in_place_and_grows_back() -> None:
    (outcome,) = run().outcomes
    assert outcome.resizes >= 3 and outcome.preemptions == 0 and outcome.lost_s == 0.0
    assert min(run().busy[2:]) <= 8 - 4 and run().busy[-1] >= 8 - 2
    card = scorecard(run())
    assert card.unfinished == 1 and card.in_time["s"] > 0.9
    assert card.scalings["s"] >= 2 and card.service_device_h["s"] < 6 * 38_400 / 3600


def test_work_is_what_was_held_less_the_stalls() -> None:
    (outcome,) = run().outcomes
    times = [*run().times_s, 38_400.0]
    held = [b * (u - f) for b, (f, u) in zip(run().busy, pairwise(times), strict=True)]
    did_s = outcome.done_s * JOB.devices
    least_s = outcome.resizes * COSTS.stall_s * JOB.devices_min
    most_s = outcome.resizes * COSTS.restart_s * JOB.devices  # where a resize needs a cut
    assert least_s <= sum(held) - did_s <= most_s


def test_looks_that_are_no_rounds_change_nothing() -> None:
    """Of the services; whoever trains may be given devices a little sooner by more rounds."""
    trace = Trace("t", (), services=(replace(SERVICE, rates=WAVE.upto(6000.0)),))
    at_once = replace(COSTS, gap_s=0.0)
    found, every = (kind(trace, FLEET, costs=at_once).run() for kind in (Inference, EveryLook))
    assert every.digest == found.digest and every.pools == found.pools
    assert every.rounds > 10 * found.rounds
    card = scorecard(found)
    assert card.jobs == 0 and card.in_time["s"] > 0.9 and card.jct_h == card.preemptions == 0.0


def test_a_promise_above_the_service_is_kept() -> None:
    """Premium training gives what it can spare of its promise to a service of its tier, and a
    service of a lower tier gets nothing of it."""
    job = replace(JOB, tier=Tier.PREMIUM)
    low = replace(SERVICE, tier=Tier.BASIC)
    found = Inference(Trace("t", (job,), services=(low,)), FLEET, costs=COSTS).run()
    assert found.outcomes[0].preemptions == found.outcomes[0].resizes == 0


def test_a_queue_loses_nobody() -> None:
    rng = np.random.default_rng(1)
    for fresh_first in (False, True):
        queue, came, served = Queue(5, fresh_first), 0.0, 0.0
        for count in rng.poisson(10.0, 500).tolist():
            came += count
            served += queue.second(float(count), 9.0)
        assert abs(came - served - queue.waiting) < 1e-6
        assert queue.late <= queue.broken <= came


def test_requests_are_as_many_and_as_uneven_as_was_said() -> None:
    found = drawn(Rates(5000, (50.0,), (8.0,)), seed=3)
    assert abs(found.arrivals.mean() - 50.0) < 1.5
    assert 7.0 < found.arrivals.var() / found.arrivals.mean() < 9.0
    assert 6.0 < found.spread[100:].mean() < 10.0


def test_who_leaves_while_a_resize_stalls_owes_the_rest_of_the_stall() -> None:
    """Its step was below zero, and no agent reports that."""
    urgent = Arrival("urgent", 100.0, 4e3, 6, 6, tier=Tier.PREMIUM)
    more = replace(urgent, name="more", at_s=200.0, devices=2, devices_min=2)
    slow = replace(COSTS, stall_s=600.0)
    trace = Trace("t", (replace(JOB, work_s=4e4), urgent, more))
    found = {o.job.name: o for o in Replay(trace, FLEET, costs=slow).run().outcomes}
    train = found["train"]
    assert train.resizes >= 1 and train.preemptions == 1 and train.lost_s == 0.0
    assert train.ended_s is not None and found["more"].ended_s is not None
