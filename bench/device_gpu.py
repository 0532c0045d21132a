"""Preemption on a real GPU: how much longer a real-time kernel takes beside best-effort kernels, in
one process under REEF's scheduler, and in two with the shim, by its gate and block by block; what
padding gives; whether what is preempted computes the same; and whether the driver takes a process
off the GPU.

The real-time kernel spins for 50 us on every processor; best-effort kernels spin for T us and fill
the device once or eight times. Latency is from the call to the end as this process sees it, less
the median of the same alone. In one process that holds what Python takes to see that the device is
quiet, which is measured too; in two there is no Python in the way.
"""

from __future__ import annotations

import random
import statistics
import time

from device_gpu_shim import two_processes
from device_model import quantile

from singularity.agent.device import events
from singularity.agent.device.kernels import RT, Footprint, Kernel, Launch, Level, QueueId, TaskId
from singularity.agent.device.reef import Policy, Sharing
from singularity.agent.gpu import CudaDriver, DriverRefused, prove
from singularity.agent.hal.cuda import CudaDevice, CudaManager
from singularity.agent.hal.driver import Driver
from singularity.agent.hal.nvml import open_nvml
from singularity.primitives.errors import DeviceUnavailable

RT_US, DEPTH = 50, 16
HALF_US, TURN = 200, 20  # of kernels that are padded
COMPILED_S = 30.0  # by then a pair is, or is none
FROZEN, HELD_UP_S = (0, 1, 8, 32, 128), 2.0  # streams; a GPU has fewer channels than the most
BLOCKS = 2  # of 1,024 threads, that fill a processor
PRIORITY = "stream priority"
CASES = {
    PRIORITY: Policy(Sharing.STREAMS),
    "window 8": Policy(window=8, level=Level.PENDING, padding=False),
    "gate": Policy(window=8, padding=False),
}
SPIN = """
.version 7.0
.target sm_70
.address_size 64
.visible .entry {name}(.param .u64 {name}_us)
{{
	.reg .pred %p<2>;
	.reg .b64 %d<5>;
	ld.param.u64 %d0, [{name}_us];
	mul.lo.u64 %d1, %d0, 1000;
	mov.u64 %d2, %globaltimer;
	add.u64 %d3, %d2, %d1;
$again:
	mov.u64 %d4, %globaltimer;
	setp.lt.u64 %p0, %d4, %d3;
	@%p0 bra $again;
	ret;
}}
"""


def latencies_us(
    device: CudaDevice, policy: Policy, waves: int, times: int, *, beside: bool
) -> list[float]:
    took: list[float] = []
    be = [Kernel("be", blocks=BLOCKS * device.caps.units * waves)] * DEPTH
    queue: QueueId | None = None

    def report(what: events.Report) -> None:
        if not isinstance(what, events.Finished):
            return
        if what.queue == RT:
            took.append((what.at_ns - what.submitted_ns) / 1e3)
        elif len(took) < times:
            driver.submit(what.queue, be)

    driver = Driver(device, policy, report)
    if beside:
        queue = driver.attach()
        driver.submit(queue, be)
    draw = random.Random(5)
    while len(took) < times:
        until_s = time.monotonic() + 0.002 + draw.random() * 0.002
        while time.monotonic() < until_s:
            device.pump(0.0005)
        goal = len(took) + 1
        driver.submit(RT, [Kernel("rt", blocks=BLOCKS * device.caps.units)])
        while len(took) < goal:
            device.pump(0.0)
    while driver.state.lanes[-1].tasks:
        device.pump(0.01)
    return took


def gpu(times: int, seconds: float, preemptions: int) -> list[str]:
    """Print the table; return what does not hold. Without a GPU one line, and nothing is wrong."""
    try:
        with open_nvml() as nvml:
            names, driver = [facts.name for facts in nvml.devices()], nvml.driver()
        device = CudaManager().open(0)
    except DeviceUnavailable as error:
        print(f"left out: {error.detail}")
        return []
    print(f"{names[0]}, driver {driver}, {device.caps.units} processors")
    try:
        wrong = one_process(device, times) + padded(device, times) + crowded(device, times)
    finally:
        device.close()
    wrong += two_processes(times, seconds, preemptions)
    try:
        print(f"a process was off the GPU and back in {prove(CudaDriver.open()):.2f} s")
    except DriverRefused as error:
        print(f"no process is taken off the GPU: {error}")
    return wrong


def one_process(device: CudaDevice, times: int) -> list[str]:
    wrong, seen_us = list[str](), polling_us(device, times)
    print(f"this process sees that the device is quiet within {seen_us:.0f} us (p99)")
    device.load(SPIN.format(name="rt"), "rt", 1024, [RT_US])
    for kernel_us in (50, 200, 1000):
        device.load(SPIN.format(name="be"), "be", 1024, [kernel_us])
        for waves in (1, 8):
            alone = latencies_us(device, CASES["gate"], waves, times, beside=False)
            base_us, p99 = statistics.median(alone), {}
            for title, policy in CASES.items():
                got = latencies_us(device, policy, waves, times, beside=True)
                p50 = statistics.median(got) - base_us
                p99[title] = quantile(got, 0.99) - base_us
                print(
                    f"T {kernel_us} us, {waves} waves, {title}: + p50 {p50:.0f},"
                    f" p99 {p99[title]:.0f} us"
                )
            most_us = kernel_us * waves + 15
            if p99["gate"] - seen_us > most_us:
                wrong.append(
                    f"T {kernel_us}, {waves} waves: the gate's p99 is {most_us} us at most, and"
                    f" {seen_us:.0f} for this process to see that the device is quiet"
                )
            if p99["gate"] >= p99[PRIORITY]:
                wrong.append(f"T {kernel_us}, {waves} waves: the gate is better than priority")
    return wrong


def padded(device: CudaDevice, times: int) -> list[str]:
    """A real-time kernel on half of the processors, again and again, and best-effort blocks beside;
    the pair is compiled twice, the second time from what the driver has kept."""
    wrong, count = list[str](), max(1, times // TURN)
    device.load(SPIN.format(name="half"), "half", 256, [HALF_US])
    device.load(SPIN.format(name="fill"), "fill", 256, [HALF_US // 4])
    for title, policy in {
        "one after the other": Policy(window=4, padding=False),
        "padded": Policy(window=4),
        "padded, the pair compiled before": Policy(window=4),
    }.items():
        took_us, blocks, known_s = _turns(device, policy, count)
        line = f"a turn of {TURN} real-time kernels and as much beside, {title}:"
        compiled = f"; the pair came within {known_s:.2f} s" if policy.padding else ""
        p50, p99 = statistics.median(took_us), quantile(took_us, 0.99)
        print(f"{line} p50 {p50:.0f}, p99 {p99:.0f} us, {blocks} blocks padded{compiled}")
        if policy.padding and not blocks:
            wrong.append(f"{title}: best-effort blocks run beside a kernel on half of the GPU")
    return wrong


def _turns(device: CudaDevice, policy: Policy, count: int) -> tuple[list[float], int, float]:
    """What real-time tasks took, how many blocks were padded, and when the pair was there."""
    took, ended = list[float](), 0

    def report(what: events.Report) -> None:
        nonlocal ended
        if isinstance(what, events.Finished):
            ended += 1
            if what.queue == RT:
                took.append((what.at_ns - what.submitted_ns) / 1e3)

    units, slice_us = device.caps.units, HALF_US / 4
    half = Kernel("half", blocks=max(1, units // 2), us=float(HALF_US))
    fill = Kernel("fill", blocks=8 * units, us=4 * slice_us, wave_us=(1.2 * slice_us,))
    driver = Driver(device, policy, report)
    queue, began_s = driver.attach(), time.monotonic()

    def turn() -> None:
        goal = ended + 2
        driver.submit(RT, [half] * TURN)
        driver.submit(queue, [fill])
        while ended < goal:
            device.pump(0.0)

    while policy.padding and not any(driver.state.pairs.values()):
        turn()
        if time.monotonic() - began_s > COMPILED_S:
            break
    known_s = time.monotonic() - began_s
    took.clear()
    for _ in range(count):
        turn()
    return took, driver.state.lanes[1].account.padded_blocks, known_s


class _Ends:
    """Counts what has ended."""

    def __init__(self) -> None:
        self.of: dict[QueueId, int] = {}

    def on_complete(self, queue: QueueId, task: TaskId, index: int) -> None:
        self.of[queue] = self.of.get(queue, 0) + 1

    def on_torn(
        self, queue: QueueId, task: TaskId, index: int, *, ran: int, again: int
    ) -> None: ...

    def on_evict(self, queue: QueueId, task: TaskId, index: int) -> None: ...

    def on_quiesce(self, queue: QueueId) -> None: ...

    def on_fused(self, rt: str, be: str, footprint: Footprint | None) -> None: ...


def crowded(device: CudaDevice, times: int) -> list[str]:
    """A real-time kernel beside streams that have launches and are frozen at their gates."""
    device.load(SPIN.format(name="rt"), "rt", 1024, [RT_US])
    kernel, wrong, alone_us = Kernel("rt", blocks=1), list[str](), 0.0
    for count in FROZEN:
        ends = _Ends()
        rt = device.queue(RT, ends)
        others = {id_: device.queue(id_, ends) for id_ in map(QueueId, range(1, count + 1))}
        for id_, queue in others.items():
            queue.deactivate()
            queue.launch(Launch(id_, TaskId(1), 0, kernel, 0, 1))
        took_us, held_up = list[float](), False
        while len(took_us) < times and not held_up:
            began_s = time.perf_counter()
            rt.launch(Launch(RT, TaskId(1), len(took_us), kernel, 0, 1))
            while ends.of.get(RT, 0) <= len(took_us) and not held_up:
                device.pump(0.0)
                held_up = time.perf_counter() - began_s > HELD_UP_S
            took_us.append((time.perf_counter() - began_s) * 1e6)
        p50 = statistics.median(took_us)
        alone_us = alone_us or p50
        told = (
            f"waits for more than {HELD_UP_S:g} s" if held_up else f"+ p50 {p50 - alone_us:.0f} us"
        )
        print(f"a real-time kernel beside {count} frozen streams: {told}")
        if held_up:
            wrong.append(f"{count} frozen streams hold up no real-time kernel")
        if any(map(ends.of.get, others)):
            wrong.append(f"nothing of {count} frozen streams runs")
        for queue in others.values():
            queue.reactivate()
        while any(queue.depth() for queue in (rt, *others.values())):
            device.pump(0.01)
        for queue in others.values():
            queue.close()
    return wrong


def polling_us(device: CudaDevice, times: int) -> float:
    """What three looks at a queue with something in it take, when nothing comes of them."""
    device.load(SPIN.format(name="long"), "long", 1024, [200_000])
    driver = Driver(device, CASES["gate"], lambda _: None)
    queue, took = driver.attach(), []
    driver.submit(queue, [Kernel("long", blocks=1)])
    for _ in range(times):
        began_ns = time.perf_counter_ns()
        for _ in range(3):
            device.pump(0.0)
        took.append((time.perf_counter_ns() - began_ns) / 1e3)
    while driver.state.lanes[-1].tasks:
        device.pump(0.01)
    return quantile(took, 0.99)
