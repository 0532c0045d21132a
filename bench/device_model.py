"""The device scheduler on a modelled device: preemption latency by level, and DISB workloads."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import device_plot

from singularity.agent.device import events
from singularity.agent.device.kernels import RT, Caps, Kernel, Level, QueueId
from singularity.agent.device.reef import Policy, Sharing
from singularity.agent.hal.driver import Driver
from singularity.agent.hal.model import Costs, ModelDevice

# -- levels ----------------------------------------------------------------------------------------

WINDOW = 8
# Published for a GV100, window 8: level -> nominal kernel -> (p50, p99) microseconds.
PUBLISHED = {
    1: {100: (795.9, 1053.2), 500: (4705.6, 5280.1), 1000: (10043.6, 10582.0)},
    2: {100: (89.1, 148.3), 500: (434.7, 674.2), 1000: (891.2, 1276.8)},
    3: {100: (25.4, 40.7), 500: (25.5, 36.4), 1000: (23.0, 34.0)},
}
LEVELS = {
    1: (Caps(80, Level.PENDING), Level.PENDING),
    2: (Caps(80, Level.INFLIGHT, flush=True), Level.INFLIGHT),
    3: (Caps(80, Level.RUNNING, flush=True), Level.RUNNING),
}
GV100 = Costs(flag_us=8, drain_us=2, reset_us=20)
TOLERANCE = 0.35


def quantile(values: Sequence[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def kernel_us(nominal: int) -> float:
    """How long a kernel of that nominal length really took there. The slowest drain of a full
    window is all of it, so the published p99 of level 1 says."""
    return PUBLISHED[1][nominal][1] / WINDOW


def preempt_us(level: int, nominal: int, times: int) -> list[float]:
    caps, down_to = LEVELS[level]
    device, took = ModelDevice(caps, GV100), list[float]()
    us = kernel_us(nominal)

    def report(what: events.Report) -> None:
        if isinstance(what, events.Preempted):
            took.append(what.took_ns / 1e3)
        elif what.queue == queue:
            driver.submit(queue, [Kernel("be", caps.units, us)] * 64)

    driver = Driver(device, Policy(window=WINDOW, level=down_to, padding=False), report)
    queue = driver.attach()
    driver.submit(queue, [Kernel("be", caps.units, us)] * 64)
    draw = random.Random(1)
    for i in range(times):
        device.run((i + 1) * 40 * us + draw.random() * 10 * us)
        driver.submit(RT, [Kernel("rt", caps.units, 20)])
    device.run((times + 1) * 40 * us)
    return took


def levels(times: int = 300, plot: Path | None = None) -> list[str]:
    """Print the curve; return what lies outside of what was published."""
    wrong, rows = [], dict[str, tuple[float, ...]]()
    for level, row in PUBLISHED.items():
        for nominal, (p50, p99) in row.items():
            took = preempt_us(level, nominal, times)
            mine = quantile(took, 0.5)
            rows[f"level {level}, {nominal} us"] = (mine, quantile(took, 0.99), p50, p99)
            print(
                f"level {level}, kernels of {nominal:4d} us: p50 {mine:8.1f}, p99"
                f" {quantile(took, 0.99):8.1f} us; published {p50:8.1f}, {p99:8.1f}"
            )
            if level < 3 and abs(mine / p50 - 1) > TOLERANCE:
                wrong.append(f"level {level} at {nominal} us: {mine / p50 - 1:+.0%} of published")
            if level == 3 and mine > 36:
                wrong.append(f"level 3 at {nominal} us: {mine:.0f} us, more than 36")
    names = ("p50", "p99", "p50 as published", "p99 as published")
    device_plot.pairs(plot, rows, names, "us until the device is free")
    return wrong


# -- DISB ------------------------------------------------------------------------------------------

UNITS = 60


@dataclass(frozen=True)
class Profile:
    """Kernels of one inference as they were published: how many, microseconds, share of small."""

    count: int
    latency_us: float
    mean_us: float
    most_us: float
    small: float


VGG, RESNET, DENSENET, INCEPTION, BERT = (
    "VGG-19",
    "ResNet-152",
    "DenseNet-201",
    "Inception-v3",
    "BERT",
)
PROFILES = {
    VGG: Profile(71, 4824, 75, 252, 0.61),
    RESNET: Profile(207, 13233, 77, 240, 0.54),
    DENSENET: Profile(207, 3743, 30, 660, 0.93),
    INCEPTION: Profile(146, 8273, 65, 464, 0.17),
    BERT: Profile(205, 5426, 36, 84, 0.32),
}
ALL = tuple(PROFILES)


def kernels(model: str) -> list[Kernel]:
    """Kernels with the published number, mean, longest and share of small grids.

    What is between is drawn: durations from an exponential, grids from all sizes alike on a
    logarithmic scale. Durations are scaled to the latency of the whole: profiled one by one they
    were longer.
    """
    profile, draw = PROFILES[model], random.Random(model)
    us = [min(profile.most_us, draw.expovariate(1 / profile.mean_us)) for _ in range(profile.count)]
    us[draw.randrange(profile.count)] = profile.most_us
    scale = profile.latency_us / sum(us)
    small = round(profile.small * profile.count)
    blocks = [_drawn(draw, 1, UNITS - 1) for _ in range(small)]
    blocks += [_drawn(draw, UNITS, 8 * UNITS) for _ in range(profile.count - small)]
    draw.shuffle(blocks)
    pairs = zip(blocks, us, strict=True)
    return [_kernel(f"{model}/{i}", b, u * scale) for i, (b, u) in enumerate(pairs)]


def _drawn(draw: random.Random, least: int, most: int) -> int:
    return round(math.exp(draw.uniform(math.log(least), math.log(most))))


def _kernel(name: str, blocks: int, us: float) -> Kernel:
    """A second block on a unit adds half of what the first takes, up to four at once."""
    deep = min(4, -(-blocks // UNITS))
    wave_us = us / -(-blocks // (UNITS * deep))
    alone_us = wave_us / (0.5 + 0.5 * deep)
    waves = tuple(alone_us * (1 + 0.5 * k) for k in range(4))
    return Kernel(name, blocks, us, waves)


@dataclass(frozen=True)
class Workload:
    """rate 0: the next inference begins when the last is done."""

    rt: tuple[str, ...]
    rate: float
    be: tuple[str, ...]
    poisson: bool = False


WORKLOADS = {
    "A": Workload((VGG,), 100, (RESNET,)),
    "B": Workload((VGG,), 0, (RESNET,)),
    "C": Workload((VGG,), 100, ALL),
    "D": Workload(ALL, 20, ALL),
    "E": Workload(ALL, 20, ALL, poisson=True),
}
FULL = Caps(UNITS, Level.RUNNING, flush=True, pad=True)
POLICIES: dict[str, tuple[Caps, Policy]] = {
    "sequential": (FULL, Policy(Sharing.TURNS)),
    "streams": (FULL, Policy(Sharing.STREAMS)),
    "wait": (FULL, Policy(level=Level.INFLIGHT, padding=False)),
    "gate": (Caps(UNITS, Level.INFLIGHT, stall=True), Policy(padding=False)),
    "gate+pad": (Caps(UNITS, Level.INFLIGHT, stall=True, pad=True), Policy()),
    "reset": (FULL, Policy(padding=False)),
    "REEF": (FULL, Policy()),
}


@dataclass(frozen=True)
class Outcome:
    rt_us: float  # mean latency of the real-time inferences
    per_s: float  # inferences of both classes
    preempt_us: float  # median until the device was free; 0 where nothing was preempted


class Run:
    """One workload under one policy for `seconds` of the model's time."""

    def __init__(self, workload: Workload, caps: Caps, policy: Policy, seconds: float) -> None:
        self.workload, self.until_us = workload, seconds * 1e6
        self.device = ModelDevice(caps)
        self.driver = Driver(self.device, policy, self._report)
        self.models = {name: kernels(name) for name in ALL}
        self.latency_us: list[float] = []
        self.preempted_us: list[float] = []
        self.be_done = 0
        self.be: dict[QueueId, str] = {}

    def _report(self, what: events.Report) -> None:
        if isinstance(what, events.Preempted):
            self.preempted_us.append(what.took_ns / 1e3)
        elif what.queue == RT:
            self.latency_us.append((what.at_ns - what.submitted_ns) / 1e3)
            if not self.workload.rate:
                self.driver.submit(RT, self.models[self.workload.rt[0]])
        else:
            self.be_done += 1
            self.driver.submit(what.queue, self.models[self.be[what.queue]])

    def _arrivals(self) -> list[tuple[float, str]]:
        """(microseconds, model): clients start evenly apart, then keep their rate."""
        if not self.workload.rate:
            return [(0.0, self.workload.rt[0])]
        draw, found = random.Random(7), []
        gap_us = 1e6 / self.workload.rate
        for number, model in enumerate(self.workload.rt):
            at_us = gap_us * number / len(self.workload.rt)
            while at_us < self.until_us:
                found.append((at_us, model))
                at_us += draw.expovariate(1 / gap_us) if self.workload.poisson else gap_us
        return sorted(found)

    def outcome(self, best_effort: bool) -> Outcome:
        for model in self.workload.be if best_effort else ():
            queue = self.driver.attach()
            self.be[queue] = model
            self.driver.submit(queue, self.models[model])
        for at_us, model in self._arrivals():
            self.device.run(at_us)
            self.driver.submit(RT, self.models[model])
        self.device.run(self.until_us)
        done = len(self.latency_us) + self.be_done
        preempt_us = statistics.median(self.preempted_us) if self.preempted_us else 0.0
        return Outcome(statistics.mean(self.latency_us), done * 1e6 / self.until_us, preempt_us)


Table = dict[tuple[str, str], tuple[float, float, float]]  # overhead, total, preemption us


def disb(seconds: float = 3.0, plot: Path | None = None) -> list[str]:
    """Print RT overhead / total throughput of each policy; return what does not hold."""
    table: Table = {}
    for name, workload in WORKLOADS.items():
        alone = Run(workload, *POLICIES["REEF"], seconds).outcome(best_effort=False)
        for title, (caps, policy) in POLICIES.items():
            got = Run(workload, caps, policy, seconds).outcome(best_effort=True)
            row = (got.rt_us / alone.rt_us - 1, got.per_s / alone.per_s, got.preempt_us)
            table[name, title] = row
            print(
                f"{name} {title:10s}: RT {row[0]:+9.1%}, total {row[1]:.2f},"
                f" preempts in {row[2]:4.0f} us"
            )
    if plot is not None:
        draw_disb(table, plot)
    return _judge(table)


def _judge(table: Table) -> list[str]:
    laws: list[tuple[str, Callable[[], bool]]] = [
        *(
            (f"{w}: REEF costs real-time work 2 % at most", lambda w=w: table[w, "REEF"][0] <= 0.02)  # type: ignore[misc]
            for w in ("A", "C", "D")
        ),
        (
            "D: REEF does 1.15 x wait at least",
            lambda: _total(table, "REEF") >= 1.15 * _total(table, "wait"),
        ),
        (
            "D: a reset is 4 x faster than waiting",
            lambda: 4 * table["D", "reset"][2] <= table["D", "wait"][2],
        ),
        ("A: REEF does more than real-time work alone", lambda: table["A", "REEF"][1] > 1.2),
    ]
    return [law for law, holds in laws if not holds()]


def _total(table: Table, policy: str) -> float:
    return table["D", policy][1]


def draw_disb(table: Table, path: Path) -> None:
    """A PNG of both figures, where matplotlib is installed; says what it did."""
    try:
        from matplotlib import pyplot
    except ImportError:
        print(device_plot.NONE)
        return
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    for number, title in enumerate(POLICIES):
        at = [i + number / (len(POLICIES) + 2) for i in range(len(WORKLOADS))]
        width = 1 / (len(POLICIES) + 2)
        axes[0].bar(at, [1 + table[w, title][0] for w in WORKLOADS], width, label=title)
        axes[1].bar(at, [table[w, title][1] for w in WORKLOADS], width)
    axes[0].set(yscale="log", ylabel="RT latency, of RT alone")
    axes[1].set(ylabel="throughput, of RT alone")
    for axis in axes:
        axis.set_xticks([i + 0.4 for i in range(len(WORKLOADS))], list(WORKLOADS))
    axes[0].legend(fontsize=7)
    device_plot.save(figure, path)
