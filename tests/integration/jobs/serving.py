"""A small service: so many inferences a second of a small CNN, one line of latency each (ms); ends
when --until is there. Requests that come while one is served wait for it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float, default=20.0)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--until", type=Path, required=True)
args = parser.parse_args()

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(16 * 32 * 32, 10),
).eval()  # fmt: skip
image = torch.randn(1, 3, 32, 32)
due_s = time.monotonic()
with args.out.open("a", buffering=1) as log, torch.inference_mode():
    while not args.until.exists():
        due_s += 1 / args.rate
        time.sleep(max(0.0, due_s - time.monotonic()))
        model(image)
        log.write(f"{(time.monotonic() - due_s) * 1e3:.3f}\n")
