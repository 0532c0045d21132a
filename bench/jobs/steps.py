"""DDP steps of a small network, without end; rank 0 prints when each ended and its seconds."""

import argparse
import itertools
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--hidden", type=int, default=512)
parser.add_argument("--frozen", type=int, default=0, help="square layers below that do not learn")
parser.add_argument("--momentum", type=float, default=0.0)
args = parser.parse_args()
dist.init_process_group("gloo")
torch.manual_seed(dist.get_rank())
below = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(args.frozen))).requires_grad_(False)
wide = 2048 if args.frozen else 256
above = nn.Sequential(nn.Linear(wide, args.hidden), nn.ReLU(), nn.Linear(args.hidden, 10))
model = DistributedDataParallel(nn.Sequential(below, above))
optimizer = torch.optim.SGD(above.parameters(), lr=0.01, momentum=args.momentum)
x, y = torch.randn(64, wide), torch.randint(0, 10, (64,))
began_s = time.perf_counter()
for _ in itertools.count():
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ended_s = time.perf_counter()
    if dist.get_rank() == 0:
        print(f"{ended_s:.9f} {ended_s - began_s:.9f}", flush=True)
    began_s = ended_s
