"""Other devices for a gang that runs on: who shares a device with whom changes, with no cut.

Possible where every rank stays on its node and no rank has more than one device. Each node tells
its ranks which turns to take, they follow at their next mini-batch boundary, and only when every
node has said so is what they left free for others. A node whose ranks do not follow takes it
back, and then so do all.
"""

from __future__ import annotations

from .messages import Command, Report, Reslot
from .model import Job, Placement, Shard
from .nodes import NodeId
from .records import replace


def in_place(placement: Placement, ranks: int, devices: int) -> Placement:
    """`placement` with `devices` devices and each of the `ranks` where it is; () if there is none.

    Rank r sits on device r·d // ranks, as in model.divide(); a device is of one node only.
    """
    held = sum(shard.devices for shard in placement)
    if not 1 <= devices <= ranks or held > ranks:
        return ()
    found = tuple(
        Shard(shard.node, len({r * devices // ranks for r in shard.ranks}), shard.ranks)
        for shard in placement
    )
    return found if sum(shard.devices for shard in found) == devices else ()


def is_in_place(job: Job, target: Placement) -> bool:
    """Can the job take on `target` without a cut?"""
    devices = sum(shard.devices for shard in target)
    stays = in_place(job.placement, job.spec.ranks, devices)
    return [(s.node, s.devices) for s in stays] == [(s.node, s.devices) for s in target]


def begin(job: Job, devices: int, now_s: float) -> tuple[Job, tuple[Command, ...]]:
    """Ask every node for the slots of `devices` devices. Both placements are held until all have
    answered."""
    target = in_place(job.placement, job.spec.ranks, devices)
    assert target and not job.resizing, (job.id, devices)
    job = replace(
        job,
        resize=job.resize + 1,
        resize_at_s=now_s,
        resizing=job.nodes,
        target=target,
        version=job.version + 1,
    )
    first, commands = 0, []
    for shard in target:
        commands.append(
            Reslot(
                job=job.id,
                node=shard.node,
                incarnation=job.incarnation,
                resize=job.resize,
                slots=slots(shard, first, devices, job.spec.ranks),
                devices=shard.devices,
            )
        )
        first += shard.devices
    return job, tuple(commands)


def slots(shard: Shard, first: int, devices: int, ranks: int) -> tuple[int, ...]:
    """The device on its node of each rank of `shard`, of which the first is the gang's `first`."""
    return tuple(rank * devices // ranks - first for rank in shard.ranks)


def answered(job: Job, report: Report, now_s: float) -> tuple[Job, tuple[Command, ...]]:
    """Fold in what a node says of the resize in flight."""
    if report.resize != job.resize or report.node not in job.resizing:
        return job, ()
    if report.devices != _devices_on(job.target, report.node):
        return _refused(job, report, now_s)
    left = job.resizing - {report.node}
    job = replace(job, resizing=left, version=job.version + 1)
    if not left:
        back = job.target == job.placement  # then the message says why
        message = job.message if back else ""
        job = replace(job, placement=job.target, target=(), message=message)
    return job, ()


def _refused(job: Job, report: Report, now_s: float) -> tuple[Job, tuple[Command, ...]]:
    """Back to what it holds: some nodes may have followed already."""
    was_back = job.target == job.placement
    job = replace(job, resizing=frozenset(), target=(), version=job.version + 1)
    if was_back:
        return job, ()
    job = replace(job, resize_refused=True, message=f"not resized: {report.reason}")
    return begin(job, job.held, now_s)


def _devices_on(placement: Placement, node: NodeId) -> int:
    return sum(shard.devices for shard in placement if shard.node == node)
