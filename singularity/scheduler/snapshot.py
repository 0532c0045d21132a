"""An immutable picture of the fleet, as arrays. Row i of every node array is one node, in id order.

total, free      int64[N]   accelerators; free excludes placements and reserved targets, and what is
                            given out in shares
memory           int64[N]   bytes of each of them, 0 where no shares are to be had
preempts, whole  bool[N]    real-time shares are; whole devices are
region, cluster  int32[N]   dense codes into `region_names`, `cluster_names`
device           int32[N]   dense codes into `device_names`
rack             int32[N]   dense codes into `rack_names`, which are of one cluster each
ready            bool[N]    new work may be placed there
lost, draining   bool[N]
ailing           bool[N]    something went wrong there lately
failures         int64[N]   how often each was lost since
known_s          float64[N] when it was first heard of
fleet            `free` of the nodes that are ready and give out whole devices, indexed by domain;
                 copy it to change it

`traffic` is what services there are and how they are loaded.
`acknowledged_s` is when an operator last approved of the evictions until then. Whoever builds one
adds the `projects` that there are, by id, and the `tariffs`. `lined` are those that wait, where
somebody keeps them in lines, and `steady` those that run as they should, where somebody does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from singularity.primitives.drains import Drain
from singularity.primitives.health import WELL
from singularity.primitives.holdings import Tally
from singularity.primitives.maintenance import Maintenance
from singularity.primitives.model import Job, JobId
from singularity.primitives.nodes import Node, NodeId, Scope, ScopeKind
from singularity.primitives.projects import Project
from singularity.primitives.rebalancing import Rebalancing
from singularity.primitives.tariffs import Tariff

from .fleet.gangs import Fleet
from .fleet.layout import lay_out
from .lines import Lined, loose_of
from .steady import Steady
from .traffic import Traffic

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Snapshot:
    now_s: float
    nodes: tuple[Node, ...]
    row: Mapping[NodeId, int]
    total: Ints
    free: Ints
    memory: Ints
    preempts: Flags
    whole: Flags
    region: Codes
    cluster: Codes
    device: Codes
    rack: Codes
    region_names: tuple[str, ...]
    cluster_names: tuple[str, ...]
    device_names: tuple[str, ...]
    rack_names: tuple[str, ...]
    ready: Flags
    lost: Flags
    draining: Flags
    ailing: Flags
    failures: Ints
    known_s: Floats
    fleet: Fleet
    jobs: tuple[Job, ...]
    by_id: Mapping[JobId, Job]
    drains: tuple[Drain, ...]
    acknowledged_s: float = 0.0
    maintenance: tuple[Maintenance, ...] = ()
    rebalancing: Rebalancing | None = None
    traffic: Traffic = Traffic()
    projects: tuple[Project, ...] = ()
    tariffs: tuple[Tariff, ...] = ()
    lined: Lined | None = None
    steady: Steady | None = None

    @classmethod
    def build(
        cls,
        nodes: Iterable[Node],
        jobs: Iterable[Job],
        now_s: float,
        drains: Iterable[Drain] = (),
        acknowledged_s: float = 0.0,
    ) -> Snapshot:
        """Order is canonical (by id), so equal facts give equal snapshots."""
        rows = tuple(sorted(nodes, key=lambda n: n.id))
        todo = tuple(sorted(jobs, key=lambda j: j.id))
        total = np.array([n.devices for n in rows], dtype=np.int64)
        used = np.array([n.used for n in rows], dtype=np.int64)
        held = Tally()
        for job in todo:
            held.add(job)
        assert all(held.balances(n) for n in rows), "the books do not balance"
        regions, region = _codes([n.region for n in rows])
        clusters, cluster = _codes([n.cluster for n in rows])
        devices, device = _codes([n.device for n in rows])
        racks, rack = _codes([f"{n.cluster}/{n.rack}" for n in rows])
        ready = np.array([n.ready for n in rows], dtype=np.bool_)
        layout = lay_out(region, cluster, device, rack)
        whole = np.array([n.whole for n in rows], dtype=np.bool_)
        open_to = np.where(ready & whole, total - used, 0)
        return cls(
            now_s=now_s,
            nodes=rows,
            row={n.id: i for i, n in enumerate(rows)},
            total=frozen(total),
            free=frozen(total - used),
            memory=frozen(np.array([n.memory_bytes for n in rows], dtype=np.int64)),
            preempts=frozen(np.array([n.preempts for n in rows], dtype=np.bool_)),
            whole=frozen(whole),
            region=region,
            cluster=cluster,
            device=device,
            rack=rack,
            region_names=regions,
            cluster_names=clusters,
            device_names=devices,
            rack_names=racks,
            ready=frozen(ready),
            lost=frozen(np.array([n.lost for n in rows], dtype=np.bool_)),
            draining=frozen(np.array([n.draining for n in rows], dtype=np.bool_)),
            ailing=frozen(np.array([n.health != WELL for n in rows], dtype=np.bool_)),
            failures=frozen(np.array([n.failures for n in rows], dtype=np.int64)),
            known_s=frozen(np.array([n.known_s for n in rows], dtype=np.float64)),
            fleet=Fleet.build(layout, open_to, int(total.max(initial=0))),
            jobs=todo,
            by_id={j.id: j for j in todo},
            drains=tuple(sorted(drains, key=lambda d: d.id)),
            acknowledged_s=acknowledged_s,
        )

    def anew(
        self,
        nodes: Iterable[Node],
        jobs: Iterable[Job],
        now_s: float | None = None,
        drains: Iterable[Drain] | None = None,
    ) -> Snapshot:
        """Of other rows, with all else that operators said."""
        when_s = self.now_s if now_s is None else now_s
        orders = self.drains if drains is None else drains
        found = Snapshot.build(nodes, jobs, when_s, orders, self.acknowledged_s)
        return replace(
            found,
            maintenance=self.maintenance,
            rebalancing=self.rebalancing,
            traffic=self.traffic,
            projects=self.projects,
            tariffs=self.tariffs,
        )

    @property
    def loose(self) -> tuple[Job, ...]:
        """The jobs without those that never had a device and wait for nothing but devices, where
        somebody knows which those are: who looks for anything else need not look at them."""
        return loose_of(self.jobs, self.lined)

    @property
    def astir(self) -> tuple[Job, ...]:
        """The loose jobs without those that run as they should, where somebody knows which those
        are: who looks for nothing but what stirs need not look at them."""
        known = self.steady
        return known.astir if known is not None and known.of is self.jobs else self.loose

    def inside(self, scope: Scope) -> Flags:
        """bool[N]: nodes that are in `scope`."""
        found: Flags
        match scope.kind:
            case ScopeKind.REGION:
                found = self.region == _code(self.region_names, scope.id)
            case ScopeKind.CLUSTER:
                found = self.cluster == _code(self.cluster_names, scope.id)
            case ScopeKind.NODE:
                found = np.zeros(len(self.nodes), dtype=np.bool_)
                if (row := self.row.get(NodeId(scope.id))) is not None:
                    found[row] = True
        return found


def _code(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else -1


def _codes(names: list[str]) -> tuple[tuple[str, ...], Codes]:
    found = tuple(sorted(set(names)))
    lookup = {name: code for code, name in enumerate(found)}
    return found, frozen(np.array([lookup[n] for n in names], dtype=np.int32))


def frozen(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """The array, never to be changed again."""
    array.flags.writeable = False
    return array
