"""The real communicators: built from a spec, dropped at a park, built again elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed import ProcessGroup

GLOO, NCCL = "gloo", "nccl"


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """All it takes to build a group again with the same members, ranks and numerics."""

    name: str  # torch's name; the same on every member
    key: str  # names this group alone on the store, even when torch uses a name twice
    rank: int
    size: int
    members: tuple[int, ...]  # ranks in the world; () is everyone
    devices: tuple[tuple[str, str], ...]  # (device type, backend)
    timeout: timedelta
    options: Any = None  # the user's ProcessGroupNCCL.Options


def device_backends(backend: str) -> tuple[tuple[str, str], ...]:
    """(device type, backend) pairs that torch would build for `backend` on this machine."""
    wanted = c10d.BackendConfig(c10d.Backend(backend)).get_device_backend_map()
    cuda = torch.cuda.is_available()
    pairs = [(str(device), str(kind)) for device, kind in wanted.items()]
    return tuple((device, kind) for device, kind in pairs if device == "cpu" or cuda)


def carries(backend: str) -> bool:
    """Whether every communicator that `backend` names is one that build() can rebuild."""
    pairs = device_backends(backend)
    return bool(pairs) and all(kind in (GLOO, NCCL) for _, kind in pairs)


def build(spec: GroupSpec, store: Store, ip: str) -> ProcessGroup:
    """Connect the group through `store`; blocks until every member does the same.

    ip  this rank's own address; "" is 127.0.0.1, never a guess by host name
    RuntimeError from torch when a member does not come within the group's timeout.
    """
    store = PrefixStore(spec.key, store)
    group = ProcessGroup(store, spec.rank, spec.size)
    built: dict[str, tuple[ProcessGroup.BackendType, Any]] = {}
    for device, kind in spec.devices:
        if kind not in built:
            made = _gloo(spec, PrefixStore(kind, store), ip) if kind == GLOO else _nccl(spec, store)
            if not built:
                group._set_default_backend(made[0])
            made[1]._set_sequence_number_for_group()
            built[kind] = made
        group._register_backend(torch.device(device), *built[kind])
    group._set_group_name(c10d.GroupName(spec.name))
    group._set_group_desc("singularity")
    return group


def _gloo(spec: GroupSpec, store: Store, ip: str) -> tuple[ProcessGroup.BackendType, Any]:
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # stub lags
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=ip or "127.0.0.1")]
    options._timeout = spec.timeout
    options.global_ranks_in_group = list(spec.members)
    options.group_name = c10d.GroupName(spec.name)
    backend = dist.ProcessGroupGloo(store, spec.rank, spec.size, options)
    return ProcessGroup.BackendType.GLOO, backend


def _nccl(spec: GroupSpec, store: Store) -> tuple[ProcessGroup.BackendType, Any]:
    """Not yet tried on hardware."""
    options = spec.options or c10d.ProcessGroupNCCL.Options()
    options._timeout = spec.timeout
    options.global_ranks_in_group = list(spec.members)
    options.group_name = spec.name
    backend = c10d.ProcessGroupNCCL(PrefixStore(NCCL, store), spec.rank, spec.size, options)
    return ProcessGroup.BackendType.NCCL, backend
