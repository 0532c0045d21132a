"""Laws of the modelled device under the real scheduler and the real driver."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from singularity.agent.device import events
from singularity.agent.device.kernels import RT, Caps, Kernel, Level, QueueId, TaskId
from singularity.agent.device.reef import Mode, Policy, Sharing
from singularity.agent.hal.driver import Driver
from singularity.agent.hal.model import Costs, ModelDevice

KERNELS = st.builds(
    Kernel,
    name=st.just("k"),
    blocks=st.integers(1, 40),
    us=st.sampled_from([5.0, 60.0, 300.0]),
    wave_us=st.sampled_from([(), (20.0, 30.0, 50.0)]),
    idempotent=st.booleans(),
    collective=st.sampled_from([False, False, True]),
)
TASKS = st.lists(KERNELS, min_size=1, max_size=5)
ARRIVALS = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(0, 2), TASKS), min_size=1, max_size=25
)
CAPS = st.sampled_from(
    [
        Caps(8, Level.PENDING),
        Caps(8, Level.INFLIGHT, stall=True, pad=True),
        Caps(8, Level.INFLIGHT, flush=True),
        Caps(8, Level.RUNNING, flush=True, pad=True),
        Caps(8, Level.RUNNING, stall=True),
    ]
)


def drive(
    caps: Caps, costs: Costs, policy: Policy, arrivals: list[tuple[int, int, list[Kernel]]]
) -> tuple[ModelDevice, Driver, list[events.Report], dict[TaskId, list[Kernel]]]:
    device, reports = ModelDevice(caps, costs, trace=True), list[events.Report]()
    driver = Driver(device, policy, reports.append)
    queues = (RT, driver.attach(), driver.attach())
    tasks = {}
    for at_us, queue, kernels in sorted(arrivals, key=lambda a: a[0]):
        device.run(at_us)
        tasks[driver.submit(queues[queue], kernels)] = kernels
    device.run(1e9)
    return device, driver, reports, tasks


@given(CAPS, st.booleans(), st.sampled_from(list(Sharing)), ARRIVALS)
@settings(max_examples=150, deadline=None)
def test_all_blocks_run_once_and_all_tasks_end(
    caps: Caps, yields: bool, sharing: Sharing, arrivals: list[tuple[int, int, list[Kernel]]]
) -> None:
    policy = Policy(sharing=sharing, window=3)
    device, driver, reports, tasks = drive(caps, Costs(yields=yields), policy, arrivals)
    wanted = Counter(
        (task, index, block)
        for task, kernels in tasks.items()
        for index, kernel in enumerate(kernels)
        for block in range(kernel.blocks)
    )
    assert device.ran == wanted
    ended = sorted(r.task for r in reports if isinstance(r, events.Finished))
    assert ended == sorted(tasks)
    assert driver.state.mode is Mode.NORMAL


@given(CAPS, ARRIVALS)
@settings(max_examples=50, deadline=None)
def test_the_same_work_takes_the_same_time_every_time(
    caps: Caps, arrivals: list[tuple[int, int, list[Kernel]]]
) -> None:
    first = drive(caps, Costs(), Policy(), arrivals)[2]
    assert first == drive(caps, Costs(), Policy(), arrivals)[2]


@given(st.floats(50, 2000), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_a_reset_takes_the_device_back_in_its_own_time_however_long_kernels_are(
    us: float, window: int
) -> None:
    caps, costs = Caps(8, Level.RUNNING, flush=True), Costs()
    policy = Policy(window=window)
    be = [Kernel("be", blocks=8, us=us)] * 20
    arrivals = [(0, 1, be), (777, 0, [Kernel("rt", blocks=8, us=10)])]
    reports = drive(caps, costs, policy, arrivals)[2]
    took_ns = [r.took_ns for r in reports if isinstance(r, events.Preempted)]
    most_us = costs.reset_us + costs.drain_us * window
    assert len(took_ns) == 1 and took_ns[0] <= (most_us + 1) * 1e3


def test_a_queue_that_closes_while_it_runs_frees_its_units() -> None:
    device = ModelDevice(Caps(8, Level.INFLIGHT, stall=True), Costs(disturbance=0.0))
    reports: list[events.Report] = []
    driver = Driver(device, Policy(), reports.append)
    one, other = driver.attach(), driver.attach()
    driver.submit(one, [Kernel("long", blocks=8, us=1000)])
    driver.submit(other, [Kernel("short", blocks=8, us=100)])
    device.run(100)  # both at half speed: half of the short one is done
    driver.detach(one)
    device.run(150)
    assert [r.at_ns for r in reports if isinstance(r, events.Finished)] == [150_000]
    assert [lane.queue for lane in driver.state.lanes] == [RT, QueueId(2)]
