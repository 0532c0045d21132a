"""Small jobs of every shape in which people run PyTorch: `carry.py CASE --out DIR --steps N`.

Each rank logs the bits of what it computes, a line a step, and at the end those of all its
weights; while there is a file DIR/slow it takes its time. Nothing here knows that it may be cut.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from inferring import apart, grid, inference, pipeline
from running import Run, labels, network
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler


def train(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, forward: Any = None
) -> None:
    """The loop that everybody writes."""
    forward = model if forward is None else forward
    for _, x in zip(range(run.steps), run.batches(), strict=False):
        loss = cross_entropy(forward(x), labels(x))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    run.end(model)


def script(run: Run) -> None:
    """One process that never heard of torch.distributed."""
    model = network()
    train(run, model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))


def ddp(run: Run) -> None:
    dist.init_process_group("gloo")
    model = DistributedDataParallel(network())
    train(run, model, torch.optim.AdamW(model.parameters(), 1e-2))


def zero(run: Run) -> None:
    """The optimizer's state is spread over the ranks, its steps end with broadcasts."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(network())
    train(run, model, ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=1e-2))


def fsdp2(run: Run) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (run.world,))
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    train(run, model, torch.optim.Adam(model.parameters(), 1e-2))


def hsdp(run: Run) -> None:
    """Sharded in sub-groups of two, replicated between them, and a sub-group of the job's own."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, run.world // 2), mesh_dim_names=("replica", "shard"))
    evens = dist.new_group(list(range(0, run.world, 2)))
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _, x in zip(range(run.steps), run.batches(), strict=False):
        loss = cross_entropy(model(x), labels(x))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        shared = loss.detach().clone()
        if run.rank % 2 == 0:
            dist.all_reduce(shared, group=evens)
        run.log(loss, shared)
    run.end(model)


def accumulate(run: Run) -> None:
    dist.init_process_group("gloo")
    model = DistributedDataParallel(network(), gradient_as_bucket_view=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.steps)
    batches = run.batches()
    for _ in range(run.steps):
        with model.no_sync():
            for _ in range(3):
                x = next(batches)
                (cross_entropy(model(x), labels(x)) / 4).backward()
        x = next(batches)
        loss = cross_entropy(model(x), labels(x)) / 4
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        run.log(loss)
    run.end(model)


def optimizers(run: Run) -> None:
    """Two networks against each other; one learns twice as often as the other."""
    dist.init_process_group("gloo")
    torch.manual_seed(8)
    critic = DistributedDataParallel(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)))
    torch.manual_seed(9)
    maker = DistributedDataParallel(nn.Linear(8, 32))
    of_critic = torch.optim.SGD(critic.parameters(), 0.05)
    of_maker = torch.optim.RMSprop(maker.parameters(), 1e-3)
    noise = torch.Generator().manual_seed(run.rank)
    batches = run.batches()
    for step in range(run.steps):
        made = maker(torch.randn(16, 8, generator=noise))
        loss = critic(made.detach()).mean() - critic(next(batches)).mean()
        of_critic.zero_grad()
        loss.backward()
        of_critic.step()
        if step % 2:
            of_maker.zero_grad()
            (-critic(made).mean()).backward()
            of_maker.step()
        run.log(loss)
    run.end(critic, maker)


class Samples(Dataset[torch.Tensor]):
    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(32, generator=torch.Generator().manual_seed(index)) + torch.rand(1)


def fed(run: Run, *, persistent: bool, context: str | None = None) -> None:
    """Five epochs, so that workers are forked again, or kept."""
    torch.manual_seed(run.rank)
    samples = Samples(run.steps // 5 * 16 * run.world)
    sampler: DistributedSampler[Any] = DistributedSampler(samples, seed=1)
    loader = DataLoader(
        samples,
        16,
        sampler=sampler,
        num_workers=2,
        persistent_workers=persistent,
        multiprocessing_context=context,
    )
    model = DistributedDataParallel(network())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        for x in loader:
            loss = cross_entropy(model(x), labels(x))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss)
    run.end(model)


def forked(run: Run) -> None:
    dist.init_process_group("gloo")
    fed(run, persistent=False)


def persistent(run: Run) -> None:
    dist.init_process_group("gloo")
    fed(run, persistent=True)


def islands(run: Run) -> None:
    """Pairs that learn apart: nothing is ever said between them."""
    dist.init_process_group("gloo")
    pairs = [dist.new_group([first, first + 1]) for first in range(0, run.world, 2)]
    mine = pairs[run.rank // 2]
    model = DistributedDataParallel(network(), process_group=mine)
    train(run, model, torch.optim.AdamW(model.parameters(), 1e-2 * (1 + run.rank // 2)))


def evaluator(run: Run) -> None:
    """Two learn; the last takes their weights now and then, and tells what they are worth."""
    dist.init_process_group("gloo")
    last = run.world - 1
    learners = dist.new_group(list(range(last)))
    model = network()
    if run.rank < last:
        wrapped = DistributedDataParallel(model, process_group=learners)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step, x in zip(range(run.steps), run.batches(), strict=False):
        loss = torch.zeros(())
        if run.rank < last:
            loss = cross_entropy(wrapped(x), labels(x))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if step % 4 == 3:
            for value in model.state_dict().values():
                dist.broadcast(value, 0)
            worth = cross_entropy(model.eval()(x), labels(x)).detach()
            model.train()
            if run.rank == last:
                dist.send(worth, 0)
            elif run.rank == 0:
                dist.recv(worth, last)
            loss = worth
        run.log(loss)
    run.end(model)


def server(run: Run) -> None:
    """One holds the optimizer; the others send it gradients, and are sent weights."""
    dist.init_process_group("gloo")
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9) if run.rank == 0 else None
    for _, x in zip(range(run.steps), run.batches(), strict=False):
        loss = cross_entropy(model(x), labels(x))
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            assert parameter.grad is not None
            for worker in range(1, run.world) if run.rank == 0 else ():
                came = torch.empty_like(parameter)
                dist.recv(came, worker)
                parameter.grad += came
            if run.rank:
                dist.send(parameter.grad, 0)
        if optimizer is not None:
            optimizer.step()
        for parameter in model.parameters():
            dist.broadcast(parameter.data, 0)
        run.log(loss)
    run.end(model)


def eight(run: Run) -> None:
    ddp(run)


def overtaken(run: Run) -> None:
    """Each sends its weights on, and the other reads them a mini-batch later."""
    dist.init_process_group("gloo")
    other, model = 1 - run.rank, network()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    under_way: list[tuple[torch.Tensor, Any]] = []
    for _, x in zip(range(run.steps), run.batches(), strict=False):
        for _, work in under_way:
            came = torch.empty(4)
            dist.recv(came, other)
            work.wait()
            x = x + came.mean()
        sent = model[-1].bias.detach().clone()
        under_way = [(sent, dist.isend(sent, other))]
        optimizer.zero_grad()
        loss = cross_entropy(model(x), labels(x))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    dist.recv(torch.empty(4), other)
    under_way[0][1].wait()
    run.end(model)


def spawned_fed(run: Run) -> None:
    """Workers that are new interpreters, with locks that have names."""
    dist.init_process_group("gloo")
    fed(run, persistent=True, context="spawn")


def served_fed(run: Run) -> None:
    """Workers that a server forks, which listens on a socket of a file's name."""
    dist.init_process_group("gloo")
    fed(run, persistent=True, context="forkserver")


def compiled(run: Run) -> None:
    """The model is machine code that torch wrote; C++, by the compiler of this machine."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(network())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    train(run, model, optimizer, torch.compile(model))


def compiled_step(run: Run) -> None:
    """The optimizer's step, too, is machine code."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, capturable=True)
    forward = torch.compile(model)
    step = torch.compile(optimizer.step)
    for _, x in zip(range(run.steps), run.batches(), strict=False):
        loss = cross_entropy(forward(x), labels(x))
        optimizer.zero_grad()
        loss.backward()
        step()
        run.log(loss)
    run.end(model)


def talk(run: Run) -> None:
    """What people call by themselves: barriers, broadcasts, gathers, whole objects."""
    dist.init_process_group("gloo")
    torch.manual_seed(6 + run.rank)
    model = nn.Linear(32, 1)
    for parameter in model.parameters():
        dist.broadcast(parameter.data, 0)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    for step, x in zip(range(run.steps), run.batches(), strict=False):
        loss = mse_loss(model(x), x.sum(1, keepdim=True))
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
        optimizer.step()
        optimizer.zero_grad()
        gathered = [torch.zeros(()) for _ in range(run.world)] if run.rank == 0 else None
        dist.gather(loss.detach(), gathered, 0)
        everybody: list[Any] = [None] * run.world
        dist.all_gather_object(everybody, {"rank": run.rank, "step": step})
        word = [f"step {step}" if run.rank == 0 else None]
        dist.broadcast_object_list(word, 0)
        dist.barrier()
        assert [e["step"] for e in everybody] == [step] * run.world
        run.log(loss, *(gathered or ()), word[0])
    run.end(model)


def by_hand(run: Run) -> None:
    """DDP's gradients, and a descent without torch.optim: cut within a backward pass."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(network(), bucket_cap_mb=0.005)
    for _, x in zip(range(run.steps), run.batches(), strict=False):
        loss = cross_entropy(model(x), labels(x))
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= 0.05 * parameter.grad
                parameter.grad = None
        run.log(loss)
    run.end(model)


def alone(run: Run) -> None:
    """One process that only infers: it has no boundary, and needs none."""
    model = network().eval()
    for _, x in zip(range(run.steps), run.batches(), strict=False):
        with torch.inference_mode():
            run.log(model(x).sum())
    run.end(model)


CASES: dict[str, Callable[[Run], None]] = {
    case.__name__.replace("_", "-"): case
    for case in (
        *(script, alone, ddp, zero, fsdp2, hsdp, accumulate, optimizers),
        *(forked, persistent, compiled, compiled_step, talk, inference, by_hand),
        *(
            apart,
            grid,
            pipeline,
            evaluator,
            server,
            islands,
            eight,
            overtaken,
            spawned_fed,
            served_fed,
        ),
    )
}


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(1)
    CASES[args.case](Run(args))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
