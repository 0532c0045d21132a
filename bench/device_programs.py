"""What the CPU device runs in bench/device.py: a small CNN that answers, and one that learns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import nn

MICRO = 1  # images of one block of the training
BLOCKS = 32  # blocks of one training step
STAGES = 3


def network(width: int) -> nn.ModuleList:
    return nn.ModuleList(
        [
            nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Flatten(), nn.Linear(width * 64, 10)),
        ]
    )


def programs() -> Mapping[str, Callable[[int], None]]:
    """`rt` answers one image, a block for each stage; `grad` adds up gradients, a block for each
    micro-batch; `step` is the optimizer's; `digest` prints a hash of the parameters."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    answering, learning = network(32), network(16)
    image = torch.randn(1, 3, 32, 32)
    images, labels = torch.randn(BLOCKS * MICRO, 3, 32, 32), torch.arange(BLOCKS * MICRO) % 10
    optimizer = torch.optim.SGD(learning.parameters(), lr=1e-3, momentum=0.9)
    between = [image]

    def rt(block: int) -> None:
        with torch.inference_mode():
            state = image if block == 0 else between[0]
            between[0] = answering[block](state)

    def grad(block: int) -> None:
        chosen = slice(block * MICRO, (block + 1) * MICRO)
        state = images[chosen]
        for stage in learning:
            state = stage(state)
        nn.functional.cross_entropy(state, labels[chosen]).backward()

    def step(_: int) -> None:
        optimizer.step()
        optimizer.zero_grad()

    def digest(_: int) -> None:
        found = hashlib.sha256()
        for parameter in learning.parameters():
            found.update(parameter.detach().numpy().tobytes())
        print(f"digest {found.hexdigest()}", flush=True)

    for warm in range(STAGES):
        rt(warm)
    return {"rt": rt, "grad": grad, "step": step, "digest": digest}
