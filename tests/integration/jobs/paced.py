"""A small DDP training at a steady pace: one line a step, the bits of its loss; ends at --steps, or
soon after --until is there."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--pause-s", type=float, default=0.01)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--until", type=Path)
args = parser.parse_args()

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 4)))
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
data = torch.Generator().manual_seed(rank)
with (args.out / f"loss-{rank}.csv").open("a", buffering=1) as log:
    for step in range(args.steps):
        x = torch.randn(16, 32, generator=data)
        loss = nn.functional.cross_entropy(model(x), x[:, :4].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.write(f"{step},{loss.item().hex()}\n")
        time.sleep(args.pause_s)
        if args.until and step % 20 == 19:
            over = torch.tensor(int(rank == 0 and args.until.exists()))
            dist.broadcast(over, 0)
            if over:
                break
dist.destroy_process_group()
