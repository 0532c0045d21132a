"""Small jobs that start their ranks themselves, as carry.py has them: `launching.py CASE ...`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from carry import fed, train
from running import Run, network
from torch.nn.parallel import DistributedDataParallel


def _spawned(rank: int, args: argparse.Namespace, world: int, case: str) -> None:
    """What every tutorial does in the processes that it starts."""
    torch.set_num_threads(1)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "localhost", "29511"
    run = Run(args, rank, world)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    INNER[case](run)
    dist.destroy_process_group()


def _ddp(run: Run) -> None:
    model = DistributedDataParallel(network())
    train(run, model, torch.optim.AdamW(model.parameters(), 1e-2))


def _fed(run: Run) -> None:
    fed(run, persistent=False)


INNER: dict[str, Callable[[Run], None]] = {"ddp": _ddp, "fed": _fed}


def spawned(args: argparse.Namespace) -> None:
    """One process that starts its own two, as most tutorials do."""
    mp.spawn(_spawned, (args, 2, "ddp"), nprocs=2)


def forked_fed(args: argparse.Namespace) -> None:
    """The two are forked, and fork workers of their own."""
    mp.start_processes(_spawned, (args, 2, "fed"), nprocs=2, start_method="fork")


def launched(args: argparse.Namespace) -> None:
    """A program that runs torchrun itself, in the one rank that it has."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [
        str(Path(__file__).with_name("carry.py")),
        "ddp",
        "--out",
        str(args.out),
        "--steps",
        str(args.steps),
    ]
    subprocess.run([sys.executable, *torchrun, *words], check=True)


CASES: dict[str, Callable[[argparse.Namespace], None]] = {
    case.__name__.replace("_", "-"): case for case in (spawned, forked_fed, launched)
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    CASES[args.case](args)


if __name__ == "__main__":
    main()
