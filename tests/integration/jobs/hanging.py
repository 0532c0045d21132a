"""A small DDP training of which one rank waits for ever, in code of the user's, at --at; not again
once --marker is there, which the test puts there when it has seen enough."""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--at", type=int, required=True)
parser.add_argument("--marker", type=Path, required=True)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()


def wait_for_what_never_comes() -> None:
    threading.Event().wait()


dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(nn.Linear(8, 4))
optimizer = torch.optim.SGD(model.parameters(), 1e-2)
data = torch.Generator().manual_seed(rank)
with (args.out / f"loss-{rank}.csv").open("a", buffering=1) as log:
    for step in range(args.steps):
        loss = model(torch.randn(4, 8, generator=data)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.write(f"{step},{loss.item().hex()}\n")
        time.sleep(0.02)
        if rank == 1 and step == args.at and not args.marker.exists():
            wait_for_what_never_comes()
dist.destroy_process_group()
