"""What goes wrong on nodes, and what they become by it. Pure.

A fault is counted where it shows. Whether it is the node's or the job's is judged later, from all
of them together (scheduler/quarantine.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from .errors import Conflict
from .health import Fault, FaultKind, Health, Quarantine
from .messages import DeviceNote, Report
from .model import Job, JobId
from .nodes import Node
from .records import replace
from .service import Loss

_KEPT: Final = 24
_DETAIL_MOST: Final = 200  # of a reason that an agent gave


def noted(node: Node, fault: Fault) -> Node:
    faults = (*node.health.faults, fault)[-_KEPT:]
    return replace(node, health=replace(node.health, faults=faults))


def gone(node: Node, now_s: float) -> Node:
    """The node after it was silent for too long."""
    fault = Fault(now_s, FaultKind.LOST, detail="silent for too long")
    return noted(replace(node, lost=True, failures=node.failures + 1), fault)


def reborn(node: Node, now_s: float, *, held: bool, seen: int = 0) -> Node:
    """The node in its next epoch, later than any it has `seen`: a plane that was restored from a
    backup may have given it epochs that it knows nothing of. It failed if it was there before and
    nobody had noticed yet; with nothing `held` that may be a repeated registration, and is no
    fault."""
    anew = replace(node, epoch=max(node.epoch, seen) + 1, seq=0, lost=False)
    if node.epoch == 0 or node.lost:
        return anew
    anew = replace(anew, failures=node.failures + 1)
    fault = Fault(now_s, FaultKind.LOST, detail="came back without its ranks")
    return noted(anew, fault) if held else anew


def fault_of(before: Job, after: Job, report: Report, now_s: float) -> Fault | None:
    """What a report that was folded in tells against its node, None for nothing. Engines that can
    never work, and images made for other processors, are no faults."""
    if after == before or report.unable or report.unfit or report.corrupt:
        return None
    match report.phase:
        case "lost":
            kind = FaultKind.RANKS
        case "refused":
            kind = FaultKind.RESTORE if before.origin else FaultKind.START
        case _ if after.dump_failures > before.dump_failures and report.image is None:
            kind = FaultKind.DUMP
        case _:
            return None
    return Fault(now_s, kind, before.id, report.reason[:_DETAIL_MOST])


def unwell(devices: tuple[DeviceNote, ...]) -> tuple[str, ...]:
    """Of the devices that a node found, those that are not well."""
    return tuple(f"{d.index}: {d.health[:_DETAIL_MOST]}" for d in devices if d.health)


def losses(devices: Iterable[DeviceNote]) -> Mapping[JobId, tuple[Loss, ...]]:
    """What the ranks that share a node's devices lost, as it says."""
    found: dict[JobId, tuple[Loss, ...]] = {}
    for one in (sharer for device in devices for sharer in device.sharers if sharer.lost_s):
        loss = Loss(one.rank, one.incarnation, one.lost_s)
        found[one.job] = (*found.get(one.job, ()), loss)
    return found


def isolated(health: Health, quarantine: Quarantine) -> Health:
    return replace(health, quarantine=quarantine, times=health.times + 1)


def readmitted(health: Health, now_s: float) -> Health:
    """What was is forgiven; how often it was is not."""
    return replace(health, quarantine=None, forgiven_s=now_s)


def steered(node: Node, quarantine: Quarantine | None, now_s: float) -> Node:
    """The node as an operator wants it. Raises Conflict when it is so already."""
    there = node.health.quarantine
    if quarantine is None:
        if there is None:
            raise Conflict(f"{node.id} is not quarantined", node=node.id)
        return replace(node, health=readmitted(node.health, now_s))
    if there is not None:
        detail = f"{node.id} is quarantined already: {there.reason}; release it first"
        raise Conflict(detail, node=node.id)
    return replace(node, health=isolated(node.health, quarantine))
