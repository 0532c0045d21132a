"""A service beside a training on one processor, as two ranks with shares of one device: the latency
of the service and the pace of the training, alone, left to the kernel, and with the limits that an
agent sets. Both are real PyTorch processes and live through all of it; what changes is which cgroup
they are in. Each round has every case once, so that what else the machine does meets all alike.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from device_frozen import FREEZER, Frozen, freezing
from device_model import quantile

from singularity.agent.device.fare import Fare
from singularity.agent.runtime.cgroup import Cgroup, Limits, Seat, make_cgroup
from singularity.primitives.sharing import DeviceShare

RT_MILLI, BE_MILLI = 400, 600
ALONE, BESIDE, PLAIN, SHARED = "service alone", "training alone", "plain sharing", "shares"
FROZEN = "shares, frozen by REEF"
CASES = (ALONE, BESIDE, PLAIN, SHARED, FROZEN)
SETTLE_S = 0.6


def serve(out: Path, rate: float, tell: int) -> None:
    """A line for each inference: when it was due, how much later it was done, and how long the
    thread was able to run and did not. It says `b` before and `e` after it."""
    torch, model, image = _network(96)
    due_s = time.monotonic()
    with out.open("w", buffering=1) as log, torch.inference_mode():
        while True:
            due_s = max(due_s + 1 / rate, time.monotonic() - 1.0)  # after a stop: no crowd
            time.sleep(max(0.0, due_s - time.monotonic()))
            before_ns = _waited_ns()
            os.write(tell, b"b")
            model(image)
            done_s = time.monotonic()
            os.write(tell, b"e")
            log.write(f"{due_s} {done_s - due_s} {(_waited_ns() - before_ns) / 1e6}\n")


def _waited_ns() -> int:
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1])


def train(out: Path) -> None:
    """A line for each step: when it was done."""
    torch, model, _ = _network(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    with out.open("w", buffering=1) as log:
        while True:
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            log.write(f"{time.monotonic()} 0 0\n")


def _network(width: int):  # type: ignore[no-untyped-def]
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(width * 64, 10)),
    )
    return torch, model, torch.randn(1, 3, 32, 32)


@dataclass
class Rank:
    """One of the two, as a process that writes what it does to a file."""

    process: subprocess.Popen[bytes]
    log: Path
    heard: int  # the end of a pipe where it says what it does
    wake: int  # and the other

    def let(self, run: bool) -> None:
        os.kill(self.process.pid, signal.SIGCONT if run else signal.SIGSTOP)

    def enter(self, group: Cgroup) -> None:
        for path in group.paths:
            (path / "cgroup.procs").write_text(str(self.process.pid))

    def since(self, began_s: float, ended_s: float) -> list[tuple[float, float]]:
        """The other figures of the lines that begin between these times."""
        lines = [tuple(map(float, line.split())) for line in self.log.read_text().splitlines()]
        return [(one, two) for at_s, one, two in lines if began_s <= at_s < ended_s]


@dataclass
class Outcome:
    p99_ms: list[float] = field(default_factory=list)  # of each round
    all_ms: list[float] = field(default_factory=list)
    kept_ms: list[float] = field(default_factory=list)  # able to run in a request, and not let
    free_us: list[float] = field(default_factory=list)  # until the others were told to stop
    steps_per_s: list[float] = field(default_factory=list)
    slowdown: list[float] = field(default_factory=list)


@contextmanager
def groups() -> Iterator[dict[str, tuple[Cgroup, Cgroup]]]:
    """What the service and the training are in: two groups of a device that the kernel treats
    alike, and those that an agent makes."""
    name, made = f"bench-{os.getpid()}", dict[str, tuple[Cgroup, Cgroup]]()
    for case in (PLAIN, SHARED):
        pair = []
        for which, milli in (("rt", RT_MILLI), ("be", BE_MILLI)):
            seat = Seat(f"{name}-plain", 1.0, 1000, first=True)
            if case == SHARED:
                seat = Seat(name, 1.0, milli, first=which == "rt")
            group, reason = make_cgroup(f"{name}-{case[:5]}-{which}", Limits(seat=seat))
            assert group is not None, reason
            pair.append(group)
        made[case] = (pair[0], pair[1])
    made[ALONE] = made[BESIDE] = made[PLAIN]
    made[FROZEN] = made[SHARED]
    try:
        yield made
    finally:
        for group in {id(g): g for pair in made.values() for g in pair}.values():
            group.remove()


@contextmanager
def ranks(rate: float, core: int) -> Iterator[tuple[Rank, Rank]]:
    with tempfile.TemporaryDirectory() as name:
        found = []
        for role in ("serve", "train"):
            log = Path(name) / role
            argv = [sys.executable, __file__, "--role", role, "--rate", str(rate)]
            pinned = ["taskset", "-c", str(core), *argv, "--log", str(log)]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            heard, tell = os.pipe()
            pinned += ["--tell", str(tell)]
            process = subprocess.Popen(pinned, env=env, pass_fds=[tell])
            found.append(Rank(process, log, heard, tell))
        try:
            while not all(r.log.exists() and r.log.stat().st_size for r in found):
                time.sleep(0.1)
            yield found[0], found[1]
        finally:
            for one in found:
                one.process.kill()
                one.process.wait()
                os.close(one.heard)
                os.close(one.wake)


def measure(seconds: float, rounds: int, rate: float, core: int) -> dict[str, Outcome]:
    got = {case: Outcome() for case in CASES}
    if others := os.sched_getaffinity(0) - {core}:  # who freezes is not in the way
        os.sched_setaffinity(0, others)
    with groups() as made, ranks(rate, core) as (service, training):
        for turn in range(rounds):
            for case in random.Random(turn).sample(CASES, len(CASES)):  # who follows whom matters
                with frozen(case, service, training) as freezer:
                    _one(case, (service, training), made[case], seconds, got[case])
                got[case].free_us += freezer.preempt_us if freezer else []
    return got


@contextmanager
def frozen(case: str, service: Rank, training: Rank) -> Iterator[Frozen | None]:
    if case != FROZEN:
        yield None
        return
    group = FREEZER / f"bench-{os.getpid()}"
    with freezing(group, training.process.pid, service.heard, service.wake) as found:
        yield found


def _one(
    case: str,
    both: tuple[Rank, Rank],
    groups: Sequence[Cgroup],
    seconds: float,
    into: Outcome,
) -> None:
    service, training = both
    service.let(case != BESIDE)
    training.let(case != ALONE)
    for rank, group in zip(both, groups, strict=True):
        rank.enter(group)
    time.sleep(SETTLE_S)
    began_s, before = time.monotonic(), groups[1].usage()
    time.sleep(seconds)
    ended_s, after = time.monotonic(), groups[1].usage()
    if found := service.since(began_s, ended_s):
        late_ms = [1e3 * late_s for late_s, _ in found]
        into.kept_ms += [ms for _, ms in found]
        into.p99_ms.append(quantile(late_ms, 0.99))
        into.all_ms += late_ms
    into.steps_per_s.append(len(training.since(began_s, ended_s)) / seconds)
    if before and after and case != ALONE:
        ran_s, waited_s = after.cpu_s - before.cpu_s, after.waited_s - before.waited_s
        fare = Fare().after(DeviceShare(BE_MILLI, 0), seconds, ran_s + waited_s, ran_s)
        into.slowdown.append(fare.slowdown or 0.0)


def table(got: dict[str, Outcome], rate: float) -> bool:
    """Print it; does the order that must hold hold?"""
    alone, training = statistics.median(got[ALONE].p99_ms), got[BESIDE].steps_per_s
    print(f"training alone: {statistics.median(training):.1f} steps/s")
    for case in CASES:
        if case == BESIDE:
            continue
        one = got[case]
        p99_ms = statistics.median(one.p99_ms)
        line = f"{case}, {rate:g}/s: p50 {statistics.median(one.all_ms):.2f}, p99 {p99_ms:.2f} ms"
        line += f" ({min(one.p99_ms):.2f} to {max(one.p99_ms):.2f}; {p99_ms / alone - 1:+.0%})"
        if case != ALONE:
            pace = statistics.median(one.steps_per_s) / statistics.median(training)
            line += f", training at {pace:.0%}, slowed {statistics.median(one.slowdown):.2f}x"
        line += f"; kept off the core p50 {statistics.median(one.kept_ms):.3f}"
        line += f", p99 {quantile(one.kept_ms, 0.99):.2f} ms of a request"
        if one.free_us:
            line += f"; REEF told the others after {statistics.median(one.free_us):.0f} us"
        print(line)
    return statistics.median(got[SHARED].p99_ms) < statistics.median(got[PLAIN].p99_ms)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each case and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=20.0, help="inferences a second")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--role", choices=("serve", "train"), help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tell", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == "serve":
        serve(args.log, args.rate, args.tell)
    elif args.role == "train":
        train(args.log)
    elif not table(measure(args.seconds, args.rounds, args.rate, args.core), args.rate):
        print("does not hold: the p99 with shares is below that of plain sharing", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
