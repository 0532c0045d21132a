"""A small training whose every step is told twice: appended to a log that stays open, and written
under a name that is opened anew each time."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--by-the-clock", action="store_true")
parser.add_argument("--break-on", type=Path)
parser.add_argument("--slow", action="store_true")
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
        if args.by_the_clock:
            x = x + time.time() % 1.0
        loss = nn.functional.cross_entropy(model(x), x[:, :4].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if args.break_on and args.break_on.exists() and step < int(args.break_on.read_text()):
            sys.exit(7)
        log.write(f"{step},{loss.item().hex()}\n")
        if rank == 0:
            (args.out / "last.txt").write_text(f"{step}\n")
        time.sleep(0.5 if args.slow else 0.02)
dist.destroy_process_group()
