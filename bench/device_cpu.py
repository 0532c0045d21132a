"""Real inference beside real training on the CPU device, under each way to share it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import device_plot
import device_programs
from device_model import quantile

from singularity.agent.device import events
from singularity.agent.device.kernels import RT, Kernel, QueueId
from singularity.agent.device.reef import Policy, Sharing
from singularity.agent.hal.cpu import CpuDevice
from singularity.agent.hal.driver import Driver

INFERENCE = [Kernel("rt", blocks=device_programs.STAGES)]
STEP = [Kernel("grad", blocks=device_programs.BLOCKS, idempotent=False), Kernel("step")]
RATES = (20, 100)  # inferences a second
AHEAD = 2  # steps that the training submits before it waits for the first
POLICIES = {
    "sequential": Policy(Sharing.TURNS),
    "plain sharing": Policy(Sharing.STREAMS),
    "preempting": Policy(padding=False),
}


@dataclass
class Outcome:
    rt_ms: list[float]
    steps_per_s: float
    preempt_ms: list[float]
    p99_ms: list[float] = field(default_factory=list)  # of each round


def run(policy: Policy, rate: float, seconds: float, *, training: bool, core: int) -> Outcome:
    device, got = CpuDevice("device_programs:programs", [core]), Outcome([], 0.0, [])
    steps = 0
    learner: QueueId | None = None

    def report(what: events.Report) -> None:
        nonlocal steps
        if isinstance(what, events.Preempted):
            got.preempt_ms.append(what.took_ns / 1e6)
        elif what.queue == RT:
            got.rt_ms.append((what.at_ns - what.submitted_ns) / 1e6)
        else:
            steps += 1
            driver.submit(what.queue, STEP)

    driver = Driver(device, policy, report)
    if training:
        learner = driver.attach()
        for _ in range(AHEAD):
            driver.submit(learner, STEP)
    began_s = time.monotonic()
    due_s, until_s = began_s + 0.5, began_s + 0.5 + seconds
    while (now_s := time.monotonic()) < until_s:
        if rate and now_s >= due_s:
            driver.submit(RT, INFERENCE)
            due_s += 1 / rate
            continue
        device.pump(max(0.0, (min(due_s, until_s) if rate else until_s) - now_s))
    got.steps_per_s = steps / (time.monotonic() - began_s)
    device.close()
    return got


def cpu(seconds: float, rounds: int, core: int, plot: Path | None = None) -> list[str]:
    """Print the table; return what does not hold. Each round runs every case once, so that what
    else the machine does meets all of them alike; p99 is the median of that of the
    rounds."""
    cases = {("alone", 0): (POLICIES["preempting"], True)}
    for rate in RATES:
        cases["alone", rate] = (POLICIES["preempting"], False)
        cases |= {(title, rate): (policy, True) for title, policy in POLICIES.items()}
    got = {case: Outcome([], 0.0, []) for case in cases}
    for _ in range(rounds):
        for case, (policy, training) in cases.items():
            one = run(policy, case[1], seconds, training=training, core=core)
            got[case].rt_ms += one.rt_ms
            if one.rt_ms:
                got[case].p99_ms.append(quantile(one.rt_ms, 0.99))
            got[case].preempt_ms += one.preempt_ms
            got[case].steps_per_s += one.steps_per_s / rounds
    print(f"training alone: {got['alone', 0].steps_per_s:.1f} steps/s")
    ran = {case: one for case, one in got.items() if one.rt_ms}
    rows = {
        f"{title}, {rate}/s": (statistics.median(one.rt_ms), statistics.median(one.p99_ms))
        for (title, rate), one in ran.items()
    }
    device_plot.pairs(plot, rows, ("p50", "p99"), "ms an inference, beside training")
    return [law for rate in RATES for law in _judge(got, rate)]


def _judge(got: dict[tuple[str, int], Outcome], rate: int) -> list[str]:
    alone = got["alone", rate].rt_ms
    base_ms = statistics.median(got["alone", rate].p99_ms)
    print(f"{rate}/s alone: p50 {statistics.median(alone):.2f}, p99 {base_ms:.2f} ms")
    p99_ms = {}
    for title in POLICIES:
        one = got[title, rate]
        p99_ms[title] = statistics.median(one.p99_ms)
        line = (
            f"{rate}/s {title}: p50 {statistics.median(one.rt_ms):.2f}, p99 {p99_ms[title]:.2f} ms"
        )
        line += f" ({p99_ms[title] / base_ms - 1:+.0%}), training at"
        line += f" {one.steps_per_s / got['alone', 0].steps_per_s:.0%}"
        if one.preempt_ms:
            line += f"; the device was free after {statistics.median(one.preempt_ms):.2f} ms (p50)"
        print(line)
    if p99_ms["preempting"] < p99_ms["sequential"]:
        return []
    return [f"{rate}/s: the p99 while preempting is below that of taking turns"]
