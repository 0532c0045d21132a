"""What the interposer does for one collective and for one optimizer step, a thousand times over.

In one process, by way of it and past it, turn about, with torch's own stand-in for a communicator
below, so that nothing is counted but calls. A collective is what DDP's reducer makes of one
bucket: called from C++, and waited for there. Prints for each the microseconds of the processor
that it takes more by way of the interposer: the median of all turns, and the quartiles.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch.testing._internal.distributed.fake_pg import FakeStore

from singularity.agent.interposer.cut import Rank
from singularity.agent.interposer.groups import Links, VirtualGroup
from singularity.agent.interposer.inner import GroupSpec
from singularity.agent.interposer.page import Page
from singularity.agent.interposer.slots import Slots

PLAIN, INTERPOSED = c10d.GroupName("plain"), c10d.GroupName("interposed")

parser = argparse.ArgumentParser()
parser.add_argument("--turns", type=int, default=100)
parser.add_argument("--calls", type=int, default=1000, help="in a turn")
args = parser.parse_args()


def took_us(call: Callable[[], object]) -> float:
    began_ns = time.thread_time_ns()
    for _ in range(args.calls):
        call()
    return (time.thread_time_ns() - began_ns) / args.calls / 1e3


def told(what: str, plain: Callable[[], object], interposed: Callable[[], object]) -> None:
    found = []
    for number in range(args.turns):
        both = (plain, interposed) if number % 2 == 0 else (interposed, plain)
        taken = {call: took_us(call) for call in both}
        found.append(taken[interposed] - taken[plain])
    low, median, high = statistics.quantiles(found, n=4)
    print(f"{what}: {median:.2f} us more ({low:.2f} to {high:.2f})", flush=True)


dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
with tempfile.TemporaryDirectory() as scratch:
    links = Links(Slots(Path(scratch)), world=2)
    rank = Rank(Page.create(Path(scratch) / "page"), links)
    spec = GroupSpec("0", "0.0", 0, 2, (), (("cpu", "gloo"),), timedelta(minutes=1))
    virtual = VirtualGroup(spec, links)
    virtual.attach(dist.new_group())
    c10d._register_process_group(PLAIN, dist.new_group())
    c10d._register_process_group(INTERPOSED, virtual)
    tensor, ops = torch.zeros(4), torch.ops._c10d_functional

    def collective(group: c10d.GroupName) -> None:
        ops.wait_tensor(ops.all_reduce(tensor, "sum", group))

    told("a collective", lambda: collective(PLAIN), lambda: collective(INTERPOSED))
    optimizer = torch.optim.SGD([tensor], lr=0.01)
    told("an optimizer step", lambda: None, lambda: rank.boundary(optimizer))
