"""Jobs of several ranks in which nothing learns: no optimizer, hence no mini-batch to count."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from running import Run, labels, network
from torch.distributed.device_mesh import init_device_mesh


def inference(run: Run) -> None:
    """Nothing learns: a forward pass, and a sum over the ranks of what came out."""
    dist.init_process_group("gloo")
    model = network().eval()
    seen = torch.zeros(())
    for _, x in zip(range(run.steps), run.batches(), strict=False):
        with torch.inference_mode():
            right = (model(x).argmax(1) == labels(x)).float().sum()
            dist.all_reduce(right)
        seen += right
        run.log(right, seen)
    everybody: list[Any] = [None] * run.world
    dist.all_gather_object(everybody, float(seen))
    run.log(*everybody)
    run.end(model)


def apart(run: Run) -> None:
    """Inference by pairs that never meet, one at twice the pace of the other."""
    dist.init_process_group("gloo")
    pairs = [dist.new_group([first, first + 1]) for first in range(0, run.world, 2)]
    mine = run.rank // 2
    for step, x in zip(range(run.steps), run.batches(), strict=False):
        for _ in range(2 if mine and step % 3 else 1):
            dist.all_reduce(x, group=pairs[mine])
        run.log(x.sum())


def grid(run: Run) -> None:
    """Every rank in a row and in a column; no collective that all take part in."""
    mesh = init_device_mesh("cpu", (2, run.world // 2), mesh_dim_names=("row", "column"))
    for _, x in zip(range(run.steps), run.batches(), strict=False):
        y = x.tanh().sum(0)
        work = dist.all_reduce(x, group=mesh["row"].get_group(), async_op=True)
        dist.broadcast(y, group=mesh["column"].get_group(), group_src=0)
        work.wait()
        run.log(x.sum(), y.sum())


def pipeline(run: Run) -> None:
    """Stages that hand on what they have made, a batch ahead of the next."""
    dist.init_process_group("gloo")
    sent: list[Any] = []
    for step, x in zip(range(run.steps), run.batches(), strict=False):
        if run.rank:
            came = torch.empty_like(x)
            dist.recv(came, run.rank - 1, tag=step % 2)
            x += came
        if run.rank < run.world - 1:
            sent.append((x, dist.isend(x, run.rank + 1, tag=step % 2)))
            if len(sent) > 1:
                sent.pop(0)[1].wait()
        run.log(x.sum())
    for _, work in sent:
        work.wait()
