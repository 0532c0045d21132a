"""DDP steps in an interposed rank, turn about by way of the interposer and past it.

One network, with three wrappers of DDP around it, of which one is used at a time: PLAIN has the
very communicator that is inside the interposed group, and no step is counted; INTERPOSED has that
group, and the hook that counts steps; AGAIN is PLAIN once more, and says what the comparison is
worth. So all ways have the same process, weights, gradients, threads and sockets; only the buckets
lie elsewhere in memory, for which there are several networks. Turns follow each other in all six
orders. Each rank prints a line for each turn: the round, the way, and the wall clock's and the
processor's seconds of a step.
"""

import argparse
import itertools
import time
import types

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import optimizer as optim

PLAIN, INTERPOSED, AGAIN = WAYS = 0, 1, 2
WARM_STEPS = 20

parser = argparse.ArgumentParser()
parser.add_argument("--hidden", type=int, default=2048)
parser.add_argument("--networks", type=int, default=2)
parser.add_argument("--rounds", type=int, default=60, help="of each network; six are all orders")
parser.add_argument("--steps", type=int, default=4, help="a turn")
parser.add_argument("--first", type=int, default=0, help="in which order the wrappers are built")
args = parser.parse_args()
dist.init_process_group("gloo")
torch.manual_seed(dist.get_rank())
virtual, hooks = dist.group.WORLD, dict(optim._global_optimizer_post_hooks)
assert type(virtual) is not type(virtual.inner), "the interposer never loaded"
assert len(hooks) == 1, "the interposer hooks the optimizers' step, and nobody else"
GROUPS = {PLAIN: virtual.inner, INTERPOSED: virtual, AGAIN: virtual.inner}
ORDERS = list(itertools.permutations(WAYS))
Ways = dict[int, nn.Module]


def network(number: int) -> tuple[Ways, torch.optim.Optimizer]:
    layers = nn.Sequential(nn.Linear(256, args.hidden), nn.ReLU(), nn.Linear(args.hidden, 10))
    order = ORDERS[(args.first + number) % len(ORDERS)]
    ways = {way: DistributedDataParallel(layers, process_group=GROUPS[way]) for way in order}
    for way in (PLAIN, AGAIN):  # torch's own, where the interposer enters every other
        own = DistributedDataParallel._pre_forward.__wrapped__
        ways[way]._pre_forward = types.MethodType(own, ways[way])
    return ways, torch.optim.SGD(layers.parameters(), lr=0.01)


def turn(way: int, ways: Ways, optimizer: torch.optim.Optimizer, steps: int) -> tuple[float, float]:
    """Seconds of a step: by the wall clock, and of the processor."""
    optim._global_optimizer_post_hooks.clear()
    if way == INTERPOSED:
        optim._global_optimizer_post_hooks.update(hooks)
    model = ways[way]
    began = time.perf_counter(), time.process_time()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ended = time.perf_counter(), time.process_time()
    return (ended[0] - began[0]) / steps, (ended[1] - began[1]) / steps


x, y = torch.randn(64, 256), torch.randint(0, 10, (64,))
networks = [network(number) for number in range(args.networks)]
for each in networks:
    for way in WAYS:
        turn(way, *each, WARM_STEPS)
lines = []
for number in range(args.rounds):
    for which, each in enumerate(networks):
        for way in ORDERS[number % len(ORDERS)]:
            wall_s, cpu_s = turn(way, *each, args.steps)
            lines.append(f"{number * args.networks + which} {way} {wall_s:.9f} {cpu_s:.9f}")
print("\n".join(lines))
