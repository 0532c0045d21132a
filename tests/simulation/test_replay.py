"""Traces through the production scheduler: every job ends, no device is used twice, nothing of a
job's work is lost or made up, and the same again is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from singularity.primitives.errors import Unplaceable
from singularity.primitives.model import Tier
from singularity.scheduler.sim.outcomes import Run, scorecard
from singularity.scheduler.sim.replay import Costs, Replay
from singularity.scheduler.sim.traces import Arrival, Machines, Trace, read

EXAMPLE = Path(__file__).parents[2] / "examples" / "simulation.yaml"
FLEET = (Machines(4, 4),)
FREE = Costs(restart_s=0.0)


def random_trace(seed: int, jobs: int = 150, *, elastic: bool = False) -> Trace:
    rng, made = np.random.default_rng(seed), []
    for number, at_s in enumerate(np.cumsum(rng.exponential(400.0, jobs)).tolist()):
        devices = int(rng.choice([1, 1, 1, 2, 4, 8]))
        made.append(
            Arrival(
                f"j{number:03}",
                at_s,
                work_s=float(rng.lognormal(6.0, 1.6)),
                devices=devices,
                devices_min=1 if elastic else devices,
                tier=Tier(int(rng.choice(3, p=[0.1, 0.3, 0.6]))),
            )
        )
    return Trace("random", tuple(made))


def laws(run: Run, costs: Costs) -> None:
    assert max(run.busy) <= run.devices and min(run.busy) >= 0 and run.busy[-1] == 0
    for outcome in run.outcomes:
        job = outcome.job
        assert outcome.ended_s is not None and outcome.began_s is not None, job.name
        least_s = job.work_s + costs.restart_s * outcome.preemptions
        assert outcome.ended_s - outcome.began_s >= least_s - 1e-3, job.name
        assert outcome.lost_s == 0.0


@pytest.mark.parametrize("elastic", [False, True], ids=["rigid", "elastic"])
@pytest.mark.parametrize("seed", range(3))
def test_every_job_ends_and_does_exactly_its_work(seed: int, elastic: bool) -> None:
    costs = Costs(start_s=5.0, restart_s=60.0, cut_s=10.0, resize_s=1.0)
    trace = random_trace(seed, elastic=elastic)
    run = Replay(trace, FLEET, costs=costs).run()
    laws(run, costs)
    held_s = float(np.dot(run.busy[:-1], np.diff(run.times_s)))
    assert held_s >= sum(o.job.work_s * o.job.devices for o in run.outcomes) - 1.0
    assert sum(o.preemptions + o.resizes for o in run.outcomes) > 0, (
        "where nobody waits nothing is proven"
    )


@pytest.mark.parametrize("elastic", [False, True], ids=["rigid", "elastic"])
def test_promises_are_kept_whenever_the_demand_fits_and_machines_take_no_time(
    elastic: bool,
) -> None:
    card = scorecard(Replay(random_trace(5, elastic=elastic), FLEET, costs=FREE).run())
    assert card.kept == {"premium": 1.0, "standard": 1.0}


def test_alone_a_job_takes_as_long_as_it_takes() -> None:
    job = Arrival("j", 10.0, 1000.0, 8, 2)
    (outcome,) = Replay(Trace("t", (job,)), FLEET, costs=Costs(start_s=7.0)).run().outcomes
    assert (outcome.began_s, outcome.ended_s) == (17.0, 1017.0)
    (outcome,) = Replay(Trace("t", (job,)), (Machines(1, 4),), costs=FREE).run().outcomes
    assert outcome.ended_s == 2010.0, "on half of its devices twice as long"


def test_the_example_is_read_and_run() -> None:
    trace = read(EXAMPLE)
    run = Replay(trace, costs=Costs(**trace.costs)).run()
    assert scorecard(run).unfinished == 0
    premium = [o for o in run.outcomes if o.job.tier is Tier.PREMIUM]
    assert all(o.ended_s < o.job.at_s + 1.06 * o.job.work_s for o in premium if o.ended_s)


def test_a_job_that_could_never_run_is_refused_before_anything_is() -> None:
    wide = Trace("t", (Arrival("j", 0.0, 10.0, 32, 32),))
    with pytest.raises(Unplaceable):
        Replay(wide, FLEET)


def test_the_same_inputs_are_the_same_history_whatever_the_hash_seed() -> None:
    script = (
        "from singularity.scheduler.sim.replay import Replay\n"
        "from singularity.scheduler.sim.traces import read\n"
        "from pathlib import Path\n"
        f"print(Replay(read(Path({str(EXAMPLE)!r}))).run().digest)\n"
    )

    def digest(seed: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    assert digest("1") == digest("2") != ""
