"""How tightly best-effort work is held, set by what real-time work takes (agent/device/pace.py),
over the modelled device, with launches that cannot wait there: DISB A and C with windows that stay,
and with the pace. What an inference takes alone is measured before, for the model cannot hold one
side for a look.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from device_model import WORKLOADS, Run, Workload

from singularity.agent.device.kernels import Caps, Level
from singularity.agent.device.pace import FIRST, FORGET, LADDER, Bound, Look, Pace, Rule, paced
from singularity.agent.device.reef import Policy

LOOK_US = 50_000.0
CAPS = Caps(60, Level.PENDING)
RULES = LADDER[:5]  # the longer pauses after real-time work are the shims', and not modelled
BOUND = Bound(judged=710)  # ten inferences


def policy(rule: Rule) -> Policy:
    return Policy(window=rule.window, level=Level.PENDING, padding=False)


class Paced(Run):
    """A run in which the rule is set anew every 50 ms, or stays."""

    def follow(self, alone_us: float, *, fixed: int | None) -> tuple[float, float, list[int]]:
        """Mean microseconds of an inference, best-effort ones a second, and the rungs by look; of
        the second half, when it has settled."""
        for model in self.workload.be:
            queue = self.driver.attach()
            self.be[queue] = model
            self.driver.submit(queue, self.models[model])
        count = len(self.models[self.workload.rt[0]])
        pace = Pace(alone_s=alone_us / count / 1e6, known=FORGET)
        if fixed is not None:
            pace = replace(pace, rung=fixed)
        seen, rungs, half = 0, list[int](), (0, 0)
        for at_us, model in [*self._arrivals(), (self.until_us, "")]:
            while (look_us := (len(rungs) + 1) * LOOK_US) <= at_us:
                self.device.run(look_us)
                state = self.driver.state
                self.driver.state = replace(state, policy=policy(LADDER[pace.rung]))
                took = self.latency_us[seen:]
                seen += len(took)
                look = Look(len(took) * count, sum(took) / 1e6, beside=not pace.trial)
                if fixed is None and not pace.trial:
                    pace = paced(pace, look, BOUND)
                    pace = replace(pace, rung=min(pace.rung, len(RULES) - 1))
                pace = replace(pace, trial=False)
                rungs.append(pace.rung)
                if look_us * 2 <= self.until_us:
                    half = (len(self.latency_us), self.be_done)
            self.device.run(at_us)
            if model:
                self.driver.submit(0, self.models[model])  # type: ignore[arg-type]
        rate = (self.be_done - half[1]) * 2e6 / self.until_us
        return statistics.mean(self.latency_us[half[0] :]), rate, rungs[len(rungs) // 2 :]


def pace(seconds: float) -> list[str]:
    """Print the table; return what does not hold."""
    wrong = []
    for name in ("A", "C"):
        workload: Workload = WORKLOADS[name]
        alone = Run(workload, CAPS, Policy(padding=False), 3.0).outcome(best_effort=False).rt_us
        costs = list[float]()
        for fixed in (*range(len(RULES)), None):
            run = Paced(workload, CAPS, policy(RULES[FIRST]), seconds)
            took_us, rate, rungs = run.follow(alone, fixed=fixed)
            costs.append(took_us / alone - 1)
            how = f"window {RULES[fixed].window}" if fixed is not None else "paced"
            told = f"{name} {how}: RT {costs[-1]:+.1%}, {rate:.1f} best-effort inferences/s"
            if fixed is None:
                usual = statistics.mode(rungs)
                share = rungs.count(usual) / len(rungs)
                told += f"; window {RULES[usual].window} for {share:.0%} of the time"
            print(told)
        if costs[-1] > max(BOUND.most - 1, min(costs[:-1])) + 0.01:
            wrong.append(f"{name}: paced, real-time work takes 10 % longer at most, where it can")
    return wrong
