"""Everything else that torch.distributed offers, then FSDP2; one line of digests per step."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy

STEPS = 24


def one_step(step: int, pair: dist.ProcessGroup, everyone: dist.ProcessGroup) -> bytes:
    """Use each collective once; every result depends on step and rank."""
    rank, world = dist.get_rank(), dist.get_world_size()
    here = torch.arange(4.0) + rank + step
    seen = [here.clone()]
    late = dist.all_reduce(seen[0], async_op=True, group=everyone)

    seen.append(here.clone())
    dist.broadcast(seen[-1], src=step % world)
    gathered = [torch.zeros(4) for _ in range(world)]
    dist.all_gather(gathered, here)
    flat = torch.zeros(4 * world)
    dist.all_gather_single(flat, here)
    shard = torch.zeros(1)
    dist.reduce_scatter_single(shard, torch.arange(float(world)) * rank)
    reduced = here.clone()
    dist.reduce(reduced, 0)
    within = here.clone()
    dist.all_reduce(within, group=pair)
    spread = torch.zeros(2)
    dist.scatter(
        spread, [torch.full((2,), float(i * step)) for i in range(world)] if rank == 0 else None
    )
    crossed = torch.zeros(world)
    dist.all_to_all_single(crossed, torch.arange(float(world)) * (rank + step))
    seen += [*gathered, flat, shard, within, spread, crossed]
    if rank == 0:
        seen.append(reduced)

    received = torch.zeros(2)
    if rank % 2 == 0:
        dist.send(torch.full((2,), float(rank + step)), rank + 1)
    else:
        dist.recv(received, rank - 1)
    neighbour = torch.zeros(2)
    exchange = [
        dist.P2POp(dist.isend, here[:2].clone(), (rank + 1) % world),
        dist.P2POp(dist.irecv, neighbour, (rank - 1) % world),
    ]
    for work in dist.batch_isend_irecv(exchange):
        work.wait()
    seen += [received, neighbour, functional.all_reduce(here, "sum", everyone)]
    seen.append(functional.all_gather_single(here, 0, everyone))
    seen.append(functional.reduce_scatter_single(flat, "sum", 0, everyone))

    objects: list[object] = [None] * world
    dist.all_gather_object(objects, {"rank": rank, "step": step})
    assert objects == [{"rank": r, "step": step} for r in range(world)]
    letter = [("from zero", step) if rank == 0 else None]
    dist.broadcast_object_list(letter, 0)
    assert letter == [("from zero", step)]
    dist.barrier()
    dist.monitored_barrier()
    assert late is not None
    late.wait()
    digest = hashlib.sha256()
    for tensor in seen:
        digest.update(tensor.detach().numpy().tobytes())
    return digest.digest()[:8]


def all_collectives(log: TextIO) -> None:
    """Sub-groups made early and late, a Work held across boundaries, the job's own store keys."""
    rank, world = dist.get_rank(), dist.get_world_size()
    everyone = dist.new_group(list(range(world)))
    pairs = [dist.new_group([i, i + 1]) for i in range(0, world, 2)]
    store = dist.distributed_c10d._get_default_store()
    store.set(f"rank-{rank}", f"was here {rank}")
    torch.manual_seed(2)
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    held: dist.Work | None = None
    kept = torch.zeros(1)
    for step in range(STEPS):
        digest = one_step(step, pairs[rank // 2], everyone)
        if step % 7 == 3:
            late = dist.new_group(list(range(world)))
            dist.barrier(group=late)
            dist.destroy_process_group(late)
        if held is not None:
            held.wait()  # begun before the last boundary
        held, kept = None, torch.full((1,), float(rank + step))
        held = dist.all_reduce(kept, async_op=True)
        model(torch.full((1, 4), 0.1 * step)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        count = store.add("steps", 1)
        assert 1 <= count <= world * (step + 1)
        log.write(f"{digest.hex()} {float(model.weight.sum()).hex()}\n")
    assert held is not None
    held.wait()
    dist.barrier()
    assert store.add("steps", 0) == world * STEPS
    assert store.get(f"rank-{(rank + 1) % world}") == f"was here {(rank + 1) % world}".encode()
    log.write(f"kept {float(kept).hex()}\n")


def fsdp2(log: TextIO) -> None:
    """Sharded parameters: gathered in the forward pass, scattered in the backward pass."""
    rank, world = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(STEPS):
        images = torch.randn(8, 32, generator=generator)
        loss = cross_entropy(model(images), images[:, :4].argmax(1))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        log.write(f"{float(loss).hex()}\n")
    digest = hashlib.sha256()
    for parameter in model.parameters():
        assert isinstance(parameter, DTensor)
        digest.update(parameter.full_tensor().detach().numpy().tobytes())
    log.write(f"final {digest.hexdigest()}\n")


def main(out: Path) -> None:
    torch.set_num_threads(1)
    env = os.environ
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{env['MASTER_ADDR']}:{env['MASTER_PORT']}",
        rank=int(env["RANK"]),
        world_size=int(env["WORLD_SIZE"]),
    )
    with (out / f"rank-{dist.get_rank()}.txt").open("w", buffering=1) as log:
        all_collectives(log)
        fsdp2(log)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
