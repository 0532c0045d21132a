"""Where can a gang go? Feasible nodes, then the tightest cluster, then the fewest nodes."""

from __future__ import annotations

from fnmatch import fnmatchcase

import numpy as np

from singularity.primitives.holdings import holdings
from singularity.primitives.model import Job, JobSpec, Placement, Shard
from singularity.primitives.resizing import in_place

from .plan import Draft
from .snapshot import Flags, Ints, Snapshot


def sizes(job: Job, most: int | None = None) -> list[int]:
    """Device counts the job can run at, largest first: what its owner wants, down to its least.

    Only counts that divide among its ranks: at most one device a rank, or the same for each.
    """
    top = job.devices if most is None else min(job.devices, most)
    low = min(job.spec.devices_min, job.devices)
    ranks = job.spec.ranks
    return [d for d in range(top, low - 1, -1) if d <= ranks or d % ranks == 0]


def feasible(snapshot: Snapshot, job: Job) -> Flags:
    """bool[N]: nodes that the job's owner and its own needs allow, whatever their state."""
    found = allowed(snapshot, job.spec) & _confined(snapshot, job)
    found[[snapshot.row[n] for n in sorted(job.unfit) if n in snapshot.row]] = False
    return found


def allowed(snapshot: Snapshot, spec: JobSpec) -> Flags:
    regions = np.array(
        [
            (not spec.regions or any(fnmatchcase(name, glob) for glob in spec.regions))
            and not any(fnmatchcase(name, glob) for glob in spec.avoid)
            for name in snapshot.region_names
        ],
        dtype=np.bool_,
    )
    kinds = np.array([name == spec.device for name in snapshot.device_names], dtype=np.bool_)
    found: Flags = regions[snapshot.region] & kinds[snapshot.device]
    return found


def _confined(snapshot: Snapshot, job: Job) -> Flags:
    if job.confine is None:
        return np.ones(len(snapshot.nodes), dtype=np.bool_)
    return np.array([job.confine.holds(n) for n in snapshot.nodes], dtype=np.bool_)


def find(draft: Draft, job: Job, devices: int, free: Ints | None = None) -> Placement:
    """Where `devices` of the job fit on nodes that take new work; () if nowhere.

    What the job itself holds counts as free to it: its dump frees it before it comes back. Among
    clusters that fit, its own region comes first, then the tightest.
    """
    snapshot = draft.snapshot
    room = (draft.free if free is None else free).copy()
    for node, held in sorted(holdings(job).items()):
        room[snapshot.row[node]] += held
    room = np.where(feasible(snapshot, job) & snapshot.ready, room, 0)
    return pack(snapshot, room, job, devices)


def resized(draft: Draft, job: Job, devices: int) -> Placement:
    """Where a running job takes `devices`: with every rank where it is if that can be, for this
    needs no cut, else wherever they fit; () if nowhere."""
    stays = stay(draft, job, devices)
    return stays or find(draft, job, devices)


def stay(draft: Draft, job: Job, devices: int) -> Placement:
    """`devices` of the nodes that the job is on, each rank on its own; () if that cannot be."""
    if job.resize_refused:
        return ()
    held, snapshot = holdings(job), draft.snapshot
    target = in_place(job.placement, job.spec.ranks, devices)
    for shard in target:
        row, more = snapshot.row[shard.node], shard.devices - held[shard.node]
        if more > 0 and not (snapshot.ready[row] and draft.free[row] >= more):
            return ()
    return target


def pack(snapshot: Snapshot, room: Ints, job: Job, devices: int) -> Placement:
    """The gang on the fewest nodes of one cluster with `room` int64[N] devices; () if none fits.

    Devices go in units of d // ranks when the job has more devices than ranks, so that no rank's
    devices straddle two nodes. Greedy is exact: inside one cluster nodes differ only in room.
    """
    spec = job.spec
    if devices < 1 or (devices > spec.ranks and devices % spec.ranks):
        return ()
    unit = max(1, devices // spec.ranks)
    units, room = devices // unit, room // unit
    per_cluster = np.bincount(snapshot.cluster, weights=room, minlength=len(snapshot.cluster_names))
    if spec.same_node:
        per_cluster = np.zeros_like(per_cluster)
        np.maximum.at(per_cluster, snapshot.cluster, room)
    fits = np.flatnonzero(per_cluster >= units)
    if fits.size == 0:
        return ()
    away = np.array([not _near(snapshot, int(c), job) for c in fits])
    cluster = fits[np.lexsort((per_cluster[fits], away))[0]]
    rows = np.flatnonzero((snapshot.cluster == cluster) & (room > 0))
    return tuple(
        Shard(snapshot.nodes[row].id, taken * unit) for row, taken in _fewest(rows, room, units)
    )


def _fewest(rows: Ints, room: Ints, units: int) -> list[tuple[int, int]]:
    """The tightest single node that holds all, else the roomiest first; in id order."""
    whole = rows[room[rows] >= units]
    if whole.size:
        return [(int(whole[np.argmin(room[whole])]), units)]
    taken = []
    for row in rows[np.argsort(-room[rows], kind="stable")]:
        share = int(min(room[row], units))
        taken.append((int(row), share))
        units -= share
        if units == 0:
            break
    return sorted(taken)


def _near(snapshot: Snapshot, cluster: int, job: Job) -> bool:
    """Is the cluster in the region where the job runs, or where its last images were made?"""
    last = job.origin
    nodes = job.nodes or (frozenset(s.node for s in last.shards) if last else frozenset())
    rows = [snapshot.row[n] for n in sorted(nodes) if n in snapshot.row]
    if not rows:
        return True
    regions = snapshot.region[snapshot.cluster == cluster]
    return bool(np.isin(regions[:1], snapshot.region[rows]).any())
