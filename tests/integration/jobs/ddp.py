"""A plain DDP job: buckets, batch norm, unused parameters, accumulation, forked loader workers."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

STEPS, BATCH = 24, 8


class Samples(Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 2 * STEPS * BATCH * dist.get_world_size()

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.randn(32, generator=torch.Generator().manual_seed(index))
        return image, int(image[:4].argmax())


class Branches(nn.Module):
    """One of two branches in use; the other's parameters get no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(32, 4), nn.Linear(32, 4)])
        self.calls = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        answer: torch.Tensor = self.branches[self.calls // 3 % 2](image)
        return answer


def layers() -> nn.Sequential:
    first = [nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*first, nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


def main(out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    assert dist.get_backend() == "gloo"
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(7)
    models = [
        DistributedDataParallel(layers(), bucket_cap_mb=0.01, gradient_as_bucket_view=True),
        DistributedDataParallel(layers(), bucket_cap_mb=0.005, static_graph=True),
        DistributedDataParallel(Branches(), find_unused_parameters=True),
    ]
    torch.manual_seed(100 + rank)
    sampler: DistributedSampler[Any] = DistributedSampler(Samples(), world, rank, seed=3)
    loader = DataLoader(Samples(), BATCH, sampler=sampler, num_workers=2)
    with (out / f"rank-{rank}.txt").open("w", buffering=1) as log:
        for model in models:
            optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
            batches = iter(loader)
            for _ in range(STEPS):
                if not model.static_graph:  # which torch does not let accumulate
                    with model.no_sync():
                        images, labels = next(batches)
                        cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
                images, labels = next(batches)
                loss = cross_entropy(model(images), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
                log.write(f"{float(loss).hex()}\n")
        digest = hashlib.sha256()
        for model in models:
            for value in model.state_dict().values():
                digest.update(value.numpy().tobytes())
        log.write(f"final {digest.hexdigest()}\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
