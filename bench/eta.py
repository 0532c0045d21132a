"""How far estimates of when a job starts hold: jobs that come, queue, run and end under decide().

Durations are drawn anew for each job, from a distribution that its name stands for and that the
estimates only know by what has ended. `--days 6 --seeds 3`
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import numpy as np

from singularity.primitives.messages import Register, Report
from singularity.primitives.model import TERMINAL, Job, JobId, JobSpec, JobState, Tier
from singularity.primitives.nodes import NodeId
from singularity.scheduler.decide import decide
from singularity.scheduler.durations import Durations, Ran, running
from singularity.scheduler.eta import forecast
from singularity.scheduler.policy import Policy
from singularity.scheduler.rehearsal import due
from singularity.scheduler.sim.ledger import MemoryLedger

NODES, DEVICES = 8, 8
NAMES = {"small": (600.0, 1.0), "medium": (3_600.0, 0.7), "large": (14_400.0, 0.5)}
QUIET_S, BUSY_S = 60.0, 5.0  # from one round to the next, if nothing moves or something does
DAY_S = 86_400.0


class Course:
    """One seed: a fleet, a stream of jobs, and what was expected of each that had to wait."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.ledger, self.now_s, self.policy = MemoryLedger(), 0.0, Policy()
        self.lasts_s: dict[JobId, float] = {}
        self.ran_s: dict[JobId, float] = defaultdict(float)
        self.ended: list[Ran] = []
        self.expected: dict[JobId, tuple[float, float, float]] = {}
        self.started: dict[JobId, float] = {}
        self.forecast_s: list[float] = []
        for i in range(NODES):
            where = {"region": "us", "cluster": "us-1", "address": ""}
            register = Register(node=NodeId(f"n{i}"), device="sim", devices=DEVICES, **where)
            self.ledger.register(register, 0.0)

    def submit(self) -> None:
        name = str(self.rng.choice(list(NAMES)))
        devices = int(self.rng.choice([1, 2, 4, 8, 16]))
        number = len(self.lasts_s)
        sizes = {"ranks": devices, "devices": devices, "devices_max": devices}
        tier = Tier(int(self.rng.choice([0, 1, 2], p=[0.1, 0.3, 0.6])))
        spec = JobSpec(
            f"{name}-{number}", ("x",), device="sim", devices_min=devices, tier=tier, **sizes
        )
        job = Job(JobId(f"j{number:05}"), spec, devices, submitted_at_s=self.now_s)
        median_s, sigma = NAMES[name]
        self.lasts_s[job.id] = median_s * float(np.exp(sigma * self.rng.standard_normal()))
        self.ledger.submit(job)

    def step(self, after_s: float) -> bool:
        """Is anything on its way now?"""
        self.now_s += after_s
        for job in list(self.ledger.jobs().values()):
            if job.state not in TERMINAL:
                self._obey(job, after_s)
        snapshot = self.ledger.snapshot(self.now_s)
        plan = decide(snapshot, self.policy)
        self.ledger.commit(plan, self.now_s)
        for action in plan.actions:
            if action.verb == "resume":
                self.started.setdefault(action.job, self.now_s)
        new = [j for j in plan.pending if j not in self.expected]
        if new:
            began_s = time.process_time()
            known = Durations((*self.ended[-2_000:], *running(snapshot.jobs, self.now_s)))
            found = forecast(snapshot, known, self.policy)
            self.forecast_s.append(time.process_time() - began_s)
            for job in new:
                eta = found.get(job)
                if eta and eta.p50_s is not None and eta.p90_s is not None:
                    self.expected[job] = (self.now_s, eta.p50_s, eta.p90_s)
        return bool(plan.actions)

    def _obey(self, job: Job, after_s: float) -> None:
        """Agents do what they were told; ranks end when they have run for long enough."""
        if job.state is JobState.RUNNING:
            self.ran_s[job.id] += after_s
            if self.ran_s[job.id] >= self.lasts_s[job.id]:
                assert job.started_at_s is not None
                self.ended.append(_ran(job, self.now_s - job.started_at_s))
                for shard in job.placement:
                    said = {"job": job.id, "node": shard.node, "incarnation": job.incarnation}
                    self.ledger.record(Report(phase="exited", exit_code=0, **said), self.now_s)
                return
        while (report := next(due(self.ledger.jobs()[job.id]), None)) is not None:
            self.ledger.record(report, self.now_s)


def _ran(job: Job, seconds: float) -> Ran:
    return Ran(job.spec.project, job.spec.name, str(job.spec.kind), seconds)


def run(seed: int, days: float, load: float) -> Course:
    course = Course(seed)
    mean_s = float(np.mean([m * np.exp(s * s / 2) for m, s in NAMES.values()])) * np.mean(
        [1, 2, 4, 8, 16]
    )
    rate = load * NODES * DEVICES / mean_s
    busy = False
    while course.now_s < days * DAY_S:
        after_s = BUSY_S if busy else QUIET_S
        for _ in range(course.rng.poisson(rate * after_s)):
            course.submit()
        busy = course.step(after_s)
    return course


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=float, default=6.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--load", type=float, default=0.85)
    asked = parser.parse_args()
    print("seed   jobs  estimates  p50 held  p90 held  waited p50   p90  ms a forecast")
    for seed in range(asked.seeds):
        course = run(seed, asked.days, asked.load)
        took, p50, p90 = resolved(course)
        held = [float(np.mean(took <= said)) for said in (p50, p90)]
        waited = np.quantile(took, [0.5, 0.9])
        cost_ms = 1e3 * float(np.median(course.forecast_s))
        print(
            f"{seed:>4} {len(course.lasts_s):>6} {len(took):>10} {held[0]:>9.1%} {held[1]:>9.1%}"
            f" {waited[0]:>9.0f} s {waited[1]:>5.0f} {cost_ms:>8.1f}"
        )


def resolved(course: Course) -> list[np.ndarray]:
    """Of each estimate whose time has come: how long the job waited, and p50 and p90."""
    found = []
    for job, (at_s, p50_s, p90_s) in course.expected.items():
        begun_s = course.started.get(job)
        if begun_s is not None or course.now_s > at_s + p90_s:
            found.append((np.inf if begun_s is None else begun_s - at_s, p50_s, p90_s))
    return list(np.array(found).T)


if __name__ == "__main__":
    main()
