"""One process, no torch.distributed: the optimizer step is the only boundary there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

STEPS = 2000


def main(out: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(11)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with (out / "rank-0.txt").open("w", buffering=1) as log:
        for step in range(STEPS):
            loss = model(torch.randn(8, 16)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            log.write(f"{float(loss).hex()}\n")
            if step == STEPS // 2:  # a process of the job's own that uses torch, too
                subprocess.run([sys.executable, "-c", "import torch"], check=True)
        log.write(f"final {float(sum(p.sum() for p in model.parameters())).hex()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
