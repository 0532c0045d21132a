"""Train a small CNN on scikit-learn's digits with plain PyTorch DDP.

It knows nothing of Singularity: `torchrun --nproc-per-node 4 train.py --out result` runs it too.
Rank 0 writes one line a step to OUT/loss.csv (the exact bits of the loss, in hex) and, at the end,
the weights to OUT/weights.pt.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32, help="images per rank and step")
    parser.add_argument("--width", type=int, default=64, help="channels of the first layer")
    parser.add_argument("--rest-s", type=float, default=0.0, help="after each step, to last longer")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    data = TensorDataset(images, torch.tensor(digits.target))
    sampler = DistributedSampler(data, num_replicas=world, rank=rank, seed=0)
    loader = DataLoader(data, batch_size=args.batch, sampler=sampler)

    model = DistributedDataParallel(cnn(args.width))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    args.out.mkdir(parents=True, exist_ok=True)
    log = (args.out / "loss.csv").open("w", buffering=1) if rank == 0 else None

    step = 0
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        for x, y in loader:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            if log is not None:
                log.write(f"{step},{(mean / world).item().hex()}\n")
            time.sleep(args.rest_s)
        if rank == 0:
            print(f"epoch {epoch + 1}/{args.epochs} loss {(mean / world).item():.4f}", flush=True)

    if rank == 0:
        torch.save(model.module.state_dict(), args.out / "weights.pt")
    dist.destroy_process_group()


def cnn(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(2 * width * 16, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


if __name__ == "__main__":
    main()
