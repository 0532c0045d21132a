"""Where things are: the node's own directory, the run directory, and the shared volume."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from singularity.primitives.messages import Start
from singularity.primitives.model import JobId

from .runtime.processes import for_ranks
from .scratch import Scratch

_SLOTS_A_NODE = 64  # so that ranks of two nodes of one machine never share a token


@dataclass(frozen=True, slots=True)
class Layout:
    """`run` has the same path on every node; `volume` is one directory for all of them."""

    node_dir: Path
    run: Path
    volume: Path
    scratch: Scratch

    def sandbox(self, start: Start, rank: int) -> Path:
        return self.sandboxes / f"{start.job}.{start.incarnation}.{rank}"

    @property
    def sandboxes(self) -> Path:
        return self.node_dir / "sandboxes"

    @property
    def lease(self) -> Path:
        """Until when ranks may run (runtime/lease.py)."""
        return self.node_dir / "lease"

    @property
    def inject(self) -> Path:
        return self.run / "inject"

    @property
    def devices(self) -> Path:
        """Of the node's own, for nodes of one machine may share `run`, and on a file system of
        memory: files of others cannot be registered with a GPU."""
        mark = zlib.crc32(str(self.node_dir.absolute()).encode())
        return self.run / "devices" / f"{self.node_dir.name}-{mark:08x}"

    @property
    def shims(self) -> tuple[Path, Path]:
        """Where what is loaded into ranks may be kept. CRIU opens libraries by name, and the first
        is the same on every node; the second is so where node directories are."""
        return self.run / "shim", self.node_dir / "shim"

    def page(self, job: JobId, rank: int) -> Path:
        return self.run / job / f"rank-{rank}.page"

    def job(self, job: JobId) -> Path:
        """All that the volume keeps of a job but its images."""
        return self.volume / "jobs" / job

    def log(self, job: JobId, rank: int) -> Path:
        return self.job(job) / "logs" / f"rank-{rank}.log"

    def stacks(self, start: Start) -> Path:
        return self.job(start.job) / "stacks" / str(start.incarnation)

    def view(self, start: Start) -> Path:
        """Where the copies are kept that ranks aside write to."""
        return self.node_dir / "views" / f"{start.job}.{start.incarnation}"

    def rendezvous(self, start: Start, cut: int) -> Path:
        """The FileStore of one generation; never used twice."""
        return self.job(start.job) / "rendezvous" / f"{start.incarnation}-{cut}"

    def record(self, job: JobId, incarnation: int, cut: int) -> Path:
        return self.records / f"{job}.{incarnation}.{cut}.json"

    @property
    def records(self) -> Path:
        return self.node_dir / "cuts"

    def asked(self, job: JobId) -> Path:
        """What a node must not forget once it has told ranks to save themselves."""
        return self.node_dir / "asked" / f"{job}.json"

    def make(self, start: Start) -> None:
        """Every directory that the ranks of `start` will look for."""
        for path in (self.page(start.job, 0), self.log(start.job, 0), self.rendezvous(start, 0)):
            path.parent.mkdir(parents=True, exist_ok=True)


def generation(start: Start, cut: int) -> int:
    """Numbers the rendezvous of a gang: after its start (cut 0) and after each cut. Equal on all
    nodes, never repeated in the life of a job (for 65,535 lives of 65,535 cuts)."""
    return (start.incarnation % 0xFFFF) << 16 | cut % 0xFFFF


def slot(start: Start, rank: int) -> int:
    """The token a rank takes turns by, or -1 when it has its devices to itself."""
    mine = start.slots[start.ranks.index(rank)]
    if start.slots.count(mine) == 1:
        return -1
    return start.gang.index(start.node) * _SLOTS_A_NODE + mine


def environment(
    start: Start, rank: int, layout: Layout, base: Mapping[str, str], address: str
) -> dict[str, str]:
    """What the rank's process finds in its environment, in rising order of right of way: the
    node's own (PATH, HOME, LANG), ours, the user's, and what the user must not change."""
    user = dict(start.env)
    path = os.pathsep.join(p for p in (str(layout.inject), user.get("PYTHONPATH", "")) if p)
    return {
        **for_ranks(base),
        "OMP_NUM_THREADS": "1",
        # What the driver cannot take off a GPU: multicast memory, and host memory of its own kind.
        "NCCL_NVLS_ENABLE": "0",
        "NCCL_CUMEM_HOST_ENABLE": "0",
        # Equal in all ranks, or the same strings lie elsewhere in each, and little of their memory
        # is stored once. Still another number for every job.
        "PYTHONHASHSEED": str(zlib.crc32(start.job.encode())),
        "PYTHONUNBUFFERED": "1",
        "MASTER_ADDR": address or "127.0.0.1",
        "MASTER_PORT": "29500",
        **user,
        "PYTHONPATH": path,
        "RANK": str(rank),
        "WORLD_SIZE": str(start.world),
        "LOCAL_RANK": str(start.ranks.index(rank)),
        "LOCAL_WORLD_SIZE": str(len(start.ranks)),
        "GROUP_RANK": str(start.gang.index(start.node)),
        "GROUP_WORLD_SIZE": str(len(start.gang)),
        "ROLE_RANK": str(rank),
        "SINGULARITY_JOB": start.job,
        "SINGULARITY_INCARNATION": str(start.incarnation),
        "SINGULARITY_PAGE": str(layout.page(start.job, rank)),
        **({"SINGULARITY_ALONE": "1"} if start.world == 1 else {}),
    }
