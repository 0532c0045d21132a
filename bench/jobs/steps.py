"""Prints the seconds of each of --steps DDP steps of a small network, after some to warm up."""

import argparse
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--hidden", type=int, default=512)
args = parser.parse_args()
dist.init_process_group("gloo")
torch.manual_seed(dist.get_rank())
model = DistributedDataParallel(
    nn.Sequential(nn.Linear(256, args.hidden), nn.ReLU(), nn.Linear(args.hidden, 10))
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
x, y = torch.randn(64, 256), torch.randint(0, 10, (64,))
began_s = time.perf_counter()
for step in range(args.steps + 20):
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    now_s = time.perf_counter()
    if step >= 20 and dist.get_rank() == 0:
        print(f"{now_s - began_s:.9f}")
    began_s = now_s
dist.destroy_process_group()
