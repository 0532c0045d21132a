"""Where can a gang go? What a job says, in the terms of fleet.gangs, which finds the place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final

import numpy as np

from singularity.primitives.holdings import holdings
from singularity.primitives.model import Job, JobId, JobSpec, Placement, Shard
from singularity.primitives.nodes import Scope, ScopeKind
from singularity.primitives.resizing import in_place
from singularity.primitives.sharing import DeviceShare, Precedence
from singularity.primitives.topology import Near

from .draft import Draft
from .fleet.gangs import Fleet, Gang
from .fleet.layout import Level
from .fleet.reference import Ranks
from .lines import alike as alike
from .nearness import distance, home_of
from .policy import Policy
from .snapshot import Flags, Ints, Snapshot, frozen

_LEVELS: Final = {Near.NODE: Level.NODE, Near.RACK: Level.RACK}


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


def may(draft: Draft, job: Job) -> Flags:
    """As `feasible`; the same array for all that are alike."""
    kind = alike(job)
    if (found := draft.findings.may.get(kind)) is None:
        found = draft.findings.may[kind] = frozen(feasible(draft.snapshot, job))
    return found


def at_home(draft: Draft, job: Job) -> Job:
    """The running job, as if it could not leave the cluster that it is in, or is mostly in."""
    snapshot = draft.snapshot
    row = snapshot.row[max(job.placement, key=lambda shard: (shard.devices, shard.node)).node]
    cluster = Scope(ScopeKind.CLUSTER, snapshot.cluster_names[snapshot.cluster[row]])
    return job if job.confine else replace(job, confine=cluster)


def meet(draft: Draft, one: Job, other: Job) -> bool:
    """Is there a node that both may use?"""
    kinds = alike(one), alike(other)
    if (found := draft.findings.meet.get(kinds)) is None:
        found = bool((may(draft, one) & may(draft, other)).any())
        draft.findings.meet[kinds] = found
    return found


def allowed(snapshot: Snapshot, spec: JobSpec) -> Flags:
    """bool[N]: nodes in regions that the owner allows, with devices that can be had as asked."""
    share = spec.share
    return offered(snapshot, spec) & (snapshot.whole if share is None else sharing(snapshot, share))


def offered(snapshot: Snapshot, spec: JobSpec) -> Flags:
    """bool[N]: nodes in regions that the owner allows, with devices of the kind."""
    regions = np.array([_may(spec, name) for name in snapshot.region_names], dtype=np.bool_)
    kinds = np.array([name == spec.device for name in snapshot.device_names], dtype=np.bool_)
    found: Flags = regions[snapshot.region] & kinds[snapshot.device]
    return found


def sharing(snapshot: Snapshot, share: DeviceShare) -> Flags:
    """bool[N]: nodes whose devices are large enough for the share, and can do what it asks for."""
    found: Flags = snapshot.memory >= share.memory_bytes
    return found & snapshot.preempts if share.precedence is Precedence.REAL_TIME else found


def _may(spec: JobSpec, region: str) -> bool:
    wanted = not spec.regions or any(fnmatchcase(region, glob) for glob in spec.regions)
    return wanted and not any(fnmatchcase(region, glob) for glob in spec.avoid)


def _confined(snapshot: Snapshot, job: Job) -> Flags:
    if job.confine is None:
        return np.ones(len(snapshot.nodes), dtype=np.bool_)
    return snapshot.inside(job.confine)


def find(
    draft: Draft,
    job: Job,
    devices: int,
    free: Ints | None = None,
    leaving: Collection[JobId] = (),
) -> Placement:
    """Where `devices` of the job fit on nodes that take new work; () if nowhere.

    What the job itself holds counts as free to it: its dump frees it before it comes back. Among
    clusters that fit, the nearest comes first (nearness.py: its own region, unless prices or data
    say otherwise), then where it needs the fewest nodes, then the tightest. `free` int64[N] in
    place of what the draft has left; then what is being given up of shares counts as given up, and
    so does what jobs that are `leaving` have. A replica goes where its processes wait.
    """
    if job.spec.share is not None:
        return _find_shares(draft, job, free, leaving)
    snapshot = draft.snapshot
    if job.warm is not None and (there := _where_it_waits(draft, job, devices, free)):
        return there
    pinned = job.confine is not None and job.confine.kind is ScopeKind.NODE
    if free is None and not pinned:
        own = {snapshot.row[n]: held for n, held in sorted(holdings(job).items())}
        own = {r: held for r, held in own.items() if snapshot.ready[r] and snapshot.whole[r]}
        wanted = gang(job.spec, devices, own, tuple(draft.shunned(job)))
        return _first(draft, job, wanted) if wanted else ()
    room = (draft.free if free is None else free).copy()
    for node, held in sorted(holdings(job).items()):
        room[snapshot.row[node]] += held
    room = np.where(feasible(snapshot, job) & snapshot.ready, room, 0)
    room[draft.shunned(job)] = 0
    return pack(snapshot, room, job, devices, draft.policy)


def _where_it_waits(draft: Draft, job: Job, devices: int, free: Ints | None) -> Placement:
    """The node that the job's processes have not left, if it has room for them; else ()."""
    snapshot, node = draft.snapshot, job.warm
    if node is None or (row := snapshot.row.get(node)) is None:
        return ()
    room = draft.free if free is None else free
    if room[row] < devices or not (snapshot.ready[row] and snapshot.whole[row]):
        return ()
    if not may(draft, job)[row] or row in draft.shunned(job):
        return ()
    return (Shard(node, devices),)


def _first(draft: Draft, job: Job, wanted: Gang) -> Placement:
    """The best place; not looked for where one like it, and no larger, has found none."""
    full = draft.findings.full
    kind = None if wanted.own or wanted.apart else (alike(job), wanted.unit)
    if kind and wanted.units >= full.get(kind, wanted.units + 1):
        return ()
    found = _placed(draft.fleet, draft.snapshot, wanted, _ranks(draft, job))
    if kind and not found:
        full[kind] = wanted.units
    return found


def _find_shares(
    draft: Draft, job: Job, free: Ints | None, leaving: Collection[JobId]
) -> Placement:
    """A share for each rank, each on a device of its own. The nodes of a gang are found as those of
    whole devices are; the node of one rank, and devices on it, by what they spoil least."""
    snapshot, parts, share = draft.snapshot, draft.parts, job.spec.share
    assert share is not None
    soon, gone = free is not None, {job.id, *leaving}
    may = feasible(snapshot, job) & snapshot.ready
    may[draft.shunned(job)] = False
    if free is None:  # what was promised to others is not in the fleet any more
        free = np.where(snapshot.whole, draft.fleet.free, draft.free - draft.promised)
    whole = free.copy()
    own = parts.emptied(gone, soon=soon) - parts.emptied(leaving, soon=soon)
    for node, devices in sorted(own.items()):
        whole[snapshot.row[node]] += devices
    whole = np.where(may, np.maximum(whole, 0), 0)
    left = {r: tuple(parts.left(r, gone, soon=soon)) for r in parts.rows if may[r]}
    room = whole.copy()
    for row, of_node in left.items():
        room[row] += sum(part.holds(share) for part in of_node)
    rows = {snapshot.row[s.node]: s.devices for s in pack(snapshot, room, job, job.spec.ranks)}
    if job.spec.ranks == 1 and rows:
        home = (room > 0) & np.isin(snapshot.region, home_of(snapshot, job))
        alike: dict[object, int] = {}  # of nodes that nothing tells apart the first
        for row in np.flatnonzero(home if home.any() else room > 0).tolist():
            size = snapshot.total[row], snapshot.memory[row], whole[row]
            alike.setdefault((*size, left.get(row, ())), row)
        rated = {r: parts.best(r, int(whole[r]), left.get(r, ()), share)[0] for r in alike.values()}
        rows = {max(rated, key=lambda r: (rated[r], -r)): 1}
    found = []
    for row, ranks in sorted(rows.items()):
        indices = parts.settle(row, int(whole[row]), left.get(row, ()), share, ranks)
        found.append(Shard(snapshot.nodes[row].id, ranks, indices=indices))
    return tuple(found)


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
        if more > 0 and not (
            snapshot.ready[row] and snapshot.whole[row] and draft.free[row] >= more
        ):
            return ()
    return target


def pack(
    snapshot: Snapshot, room: Ints, job: Job, devices: int, policy: Policy = Policy()
) -> Placement:
    """The gang on the fewest nodes of one cluster with `room` int64[N] devices, which is 0 where
    the job may not go; () if none fits."""
    wanted, near = gang(job.spec, devices), distance(snapshot, job, policy)
    return _placed(snapshot.fleet.of(room), snapshot, wanted, near) if wanted else ()


def gang(
    spec: JobSpec,
    devices: int,
    own: Mapping[int, int] | None = None,
    apart: tuple[int, ...] = (),
) -> Gang | None:
    """What is to be placed; None if `devices` cannot be divided among the ranks.

    Devices go in units of d // ranks when the job has more devices than ranks, so that no rank's
    devices straddle two nodes.
    """
    if devices < 1 or (devices > spec.ranks and devices % spec.ranks):
        return None
    unit = max(1, devices // spec.ranks)
    topology, within = spec.topology, Level.CLUSTER
    if spec.same_node or topology.same_rack:
        within = Level.NODE if spec.same_node else Level.RACK
    return Gang(
        units=devices // unit,
        unit=unit,
        within=within,
        prefer=_LEVELS[topology.prefer] if topology.prefer else None,
        spread=_LEVELS[topology.spread] if topology.spread else None,
        apart=apart,
        own=own or {},
    )


def _placed(fleet: Fleet, snapshot: Snapshot, wanted: Gang, ranks: Ranks) -> Placement:
    found = fleet.find(wanted, ranks)
    return tuple(Shard(snapshot.nodes[row].id, devices) for row, devices in found)


def _ranks(draft: Draft, job: Job) -> Ranks:
    """How far away places are, and 0 where the job may not go. Where nothing draws a job anywhere,
    that is the same for all that are alike."""
    if job.origin or job.placement or job.spec.data or draft.snapshot.tariffs:
        return _ranks_of(draft, job)
    kind = alike(job)
    if (found := draft.findings.ranks.get(kind)) is None:
        found = draft.findings.ranks[kind] = _ranks_of(draft, job)
    return found


def _ranks_of(draft: Draft, job: Job) -> Ranks:
    snapshot, spec = draft.snapshot, job.spec
    layout = snapshot.fleet.layout
    regions = np.array([_may(spec, name) for name in snapshot.region_names], dtype=np.bool_)
    kinds = np.array([name == spec.device for name in snapshot.device_names], dtype=np.bool_)
    may = regions[layout.region] & kinds[layout.device]
    if job.confine is not None:
        by_region = job.confine.kind is ScopeKind.REGION
        names = snapshot.region_names if by_region else snapshot.cluster_names
        codes = layout.region if by_region else layout.cluster
        may &= codes == (names.index(job.confine.id) if job.confine.id in names else -2)
    found: Ranks = np.where(may, distance(snapshot, job, draft.policy), 0).astype(np.uint8)
    return found
