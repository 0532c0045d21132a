"""A small DDP training that saves itself when it is signalled, and goes on from what it saved.

Rank 0 writes --ckpt at its next step boundary; data is drawn by step and rank, so that one file is
all there is to know. --after says what it does once it has saved: go on, end, or never save at all;
--deaf installs no handler, and --fifo holds a pipe whose other end is outside the job.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--ckpt", type=Path, required=True)
parser.add_argument("--after", choices=("go-on", "end", "never"), default="go-on")
parser.add_argument("--save-s", type=float, default=0.0)
parser.add_argument("--pause-s", type=float, default=0.01)
parser.add_argument("--deaf", action="store_true")
parser.add_argument("--fifo", type=Path)
args = parser.parse_args()

asked = False


def hear(number: int, frame: object) -> None:
    global asked
    asked = True


if not args.deaf:
    signal.signal(signal.SIGUSR1, hear)
pipe = os.open(args.fifo, os.O_WRONLY) if args.fifo else None

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
inner = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 4))
optimizer = torch.optim.Adam(inner.parameters(), 1e-3)
first = 0
if args.ckpt.exists():
    saved = torch.load(args.ckpt)
    inner.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    first = saved["step"]
model = DistributedDataParallel(inner)
log = args.out / f"loss-{rank}.csv"
known = log.read_text().splitlines(keepends=True)[:first] if log.exists() else []
with log.open("w", buffering=1) as file:
    file.writelines(known)
    for step in range(first, args.steps):
        x = torch.randn(16, 32, generator=torch.Generator().manual_seed(1000 * step + rank))
        loss = nn.functional.cross_entropy(model(x), x[:, :4].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        file.write(f"{step},{loss.item().hex()}\n")
        if asked and args.after != "never":
            asked = False
            if rank == 0:
                state = {"model": inner.state_dict(), "optimizer": optimizer.state_dict()}
                args.ckpt.parent.mkdir(parents=True, exist_ok=True)
                with args.ckpt.open("wb") as out:  # slowly and in place: whoever reads it must wait
                    torch.save({**state, "step": step + 1}, out)
                    out.flush()
                    time.sleep(args.save_s)
            if args.after == "end":
                break
        time.sleep(args.pause_s)
if args.after != "end":
    dist.destroy_process_group()
