"""What the small jobs of every shape share: their log, their pace, a network and its data."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

_SLOW_S = 0.04


class Run:
    """One rank's log, and its pace."""

    def __init__(self, args: argparse.Namespace, rank: int = -1, world: int = 0) -> None:
        self.args, self.steps = args, int(args.steps)
        self.rank = rank if rank >= 0 else int(os.environ.get("RANK", "0"))
        self.world = world or int(os.environ.get("WORLD_SIZE", "1"))
        self._out = Path(args.out)
        self._log = (self._out / f"loss-{self.rank}.csv").open("w", buffering=1)
        self._step = 0

    def log(self, *values: object) -> None:
        bits = (float(v).hex() if isinstance(v, torch.Tensor | float) else str(v) for v in values)
        self._log.write(",".join((str(self._step), *bits)) + "\n")
        self._step += 1
        if (self._out / "slow").exists():
            time.sleep(_SLOW_S)

    def end(self, *models: nn.Module) -> None:
        digest = hashlib.sha256()
        for model in models:
            for value in model.state_dict().values():
                whole = value.full_tensor() if isinstance(value, DTensor) else value
                digest.update(whole.detach().numpy().tobytes())
        self._log.write(f"weights {digest.hexdigest()}\n")

    def batches(self, wide: int = 32) -> Iterator[torch.Tensor]:
        """The same for ever, another for each rank."""
        generator = torch.Generator().manual_seed(1000 + self.rank)
        while True:
            yield torch.randn(16, wide, generator=generator)


def network(wide: int = 64) -> nn.Sequential:
    torch.manual_seed(7)
    layers = [nn.Linear(32, wide), nn.BatchNorm1d(wide), nn.Tanh(), nn.Linear(wide, 4)]
    return nn.Sequential(*layers)


def labels(x: torch.Tensor) -> torch.Tensor:
    return x[:, :4].argmax(1)
