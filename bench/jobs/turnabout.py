"""DDP steps in an interposed rank, turn about by way of the interposer and past it.

Past it: DDP has one of torch's own groups, and no step is counted. So both ways have the same
process, with all that chance has given it. Several networks of each way, built in turns, for one
may lie better in memory than another. Rank 0 prints for each turn which way it was, and the wall
clock's and the processor's seconds of a step.
"""

import argparse
import time

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import optimizer as optim

PLAIN, INTERPOSED = 0, 1
WARM_STEPS = 20

parser = argparse.ArgumentParser()
parser.add_argument("--hidden", type=int, default=2048)
parser.add_argument("--turns", type=int, default=40, help="of each network")
parser.add_argument("--steps", type=int, default=40, help="a turn")
parser.add_argument("--built", default="0110", help="which way each network goes, in their order")
args = parser.parse_args()
dist.init_process_group("gloo")
torch.manual_seed(dist.get_rank())
virtual, hooks = dist.group.WORLD, dict(optim._global_optimizer_post_hooks)
seams = c10d._new_process_group_helper.__self__
c10d._new_process_group_helper = seams._plain_new_group
plain = dist.new_group(backend="gloo")
assert type(plain) is not type(virtual), "this group is interposed too"
assert len(hooks) == 1, "the interposer hooks the optimizers' step, and nobody else"


def network(way: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    layers = nn.Sequential(nn.Linear(256, args.hidden), nn.ReLU(), nn.Linear(args.hidden, 10))
    group = virtual if way == INTERPOSED else plain
    return DistributedDataParallel(layers, process_group=group), torch.optim.SGD(
        layers.parameters(), lr=0.01
    )


def turn(way: int, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """Seconds of a step: by the wall clock, and of the processor."""
    optim._global_optimizer_post_hooks.clear()
    if way == INTERPOSED:
        optim._global_optimizer_post_hooks.update(hooks)
    began = time.perf_counter(), time.process_time()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ended = time.perf_counter(), time.process_time()
    return [(b - a) / steps for a, b in zip(began, ended, strict=True)]


x, y = torch.randn(64, 256), torch.randint(0, 10, (64,))
built = [int(way) for way in args.built]
networks = [(way, *network(way)) for way in built]
for each in networks:
    turn(*each, WARM_STEPS)
for number in range(args.turns):
    order = networks if number % 2 == 0 else networks[::-1]
    for each in order:
        wall_s, cpu_s = turn(*each, args.steps)
        if dist.get_rank() == 0:
            print(f"{each[0]} {wall_s:.9f} {cpu_s:.9f}", flush=True)
