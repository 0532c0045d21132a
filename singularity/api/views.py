"""What clients see of jobs, nodes and drains. Pure: nouns in, plain JSON out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from singularity.primitives import engines, replicas
from singularity.primitives.findings import Certificate
from singularity.primitives.health import Health
from singularity.primitives.model import Checkpoint, Job, Tier
from singularity.primitives.nodes import Node, NodeId, Scope
from singularity.primitives.service import Taken
from singularity.primitives.sla import PROMISED, Share, share
from singularity.scheduler.interval import Cadence, cadence
from singularity.scheduler.policy import Policy

Json = dict[str, Any]
MIB: Final = 1 << 20


def scope_text(scope: Scope) -> str:
    return f"{scope.kind}/{scope.id}"


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a view of the future needs: when it is, and what the scheduler goes by."""

    now_s: float
    policy: Policy

    def cadence(self, job: Job, nodes: Mapping[NodeId, Node]) -> Cadence:
        if job.spec.checkpoint_every_s is None and not job.placement:
            return Cadence(None, "auto, from the nodes that it will be placed on")
        return cadence(job, [nodes[n] for n in sorted(job.nodes)], self.now_s, self.policy)


def job_view(job: Job, spec: Json, nodes: Mapping[NodeId, Node], outlook: Outlook) -> Json:
    """`spec` is the job's own, as JSON; `nodes` holds at least those it is placed on."""
    found = outlook.cadence(job, nodes)
    placement = [
        {
            "node": s.node,
            "cluster": nodes[s.node].cluster,
            "region": nodes[s.node].region,
            "devices": s.devices,
            "ranks": list(s.ranks),
            "indices": list(s.indices),
        }
        for s in job.placement
    ]
    return {
        "id": job.id,
        "name": job.spec.name,
        "project": job.spec.project,
        "kind": str(job.spec.kind),
        "tier": job.tier.name.lower(),
        "state": str(job.state),
        "intent": str(job.intent),
        "resting": replicas.resting(job),
        "warm": job.warm,
        "devices": job.devices,
        "device": job.spec.device,
        "ranks": job.spec.ranks,
        "elastic": {"min": job.spec.devices_min, "max": job.spec.devices_max},
        "placement": placement,
        "region": placement[0]["region"] if placement else None,
        "incarnation": job.incarnation,
        "cut": job.cut,
        "step": job.step,
        "exit_code": job.exit_code,
        "message": job.message,
        "submitted_at_s": job.submitted_at_s,
        "since_s": job.since_s,
        "started_at_s": job.started_at_s,
        "infra_failures": job.infra_failures,
        "checkpoint": checkpoint_view(job.checkpoint) if job.checkpoint else None,
        "checkpointing": {
            "engine": job.engine or "none",
            "reason": engines.label(job),
            "engines": list(job.spec.engines),
            "every_s": found.every_s,
            "origin": found.origin,
            "pause_s": job.pause_s,
        },
        "certificate": certificate_view(job.certificate) if job.certificate else None,
        "taken": taken_view(job.taken) if job.taken else None,
        "share": {
            **share_view(share(job, outlook.now_s), job.tier),
            "lost_s": job.account.lost_s if job.account else 0.0,  # beside others on its devices
        },
        "confine": scope_text(job.confine) if job.confine else None,
        "version": job.version,
        "spec": {**spec, "tier": job.tier.name.lower()},
    }


def sharing_reasons(sharing: Sequence[Json]) -> list[Json]:
    """What sharing costs each rank, in words; for those of whom it is known."""
    found = []
    for one in sharing:
        used, cap = (one[name] / MIB for name in ("used_bytes", "cap_bytes"))
        told = f"rank {one['rank']} on device {one['index']} of {one['node']}: "
        if one["slowdown"] is not None:
            told += f"its work takes {one['slowdown']:.2f} times as long as alone; "
        if held_s := one.get("held_s", 0.0):  # nodes of an earlier release do not say
            told += f"it was kept waiting for others for {held_s:.0f} s"
            told += f", {one['lost_s']:.0f} s of them promised to it; "
        told += f"{used:.0f} of {cap:.0f} MiB in use"
        if stiff := one.get("unyielding"):
            told += f"; {stiff:.0%} of its launches cannot leave the device block by block"
        if one["complaint"]:
            told += f"; not enforced: {one['complaint']}"
        found.append({"kind": "sharing", "detail": told})
    return found


def taken_view(taken: Taken) -> Json:
    """Without whose gain it was: an id that may be another project's."""
    return {name: value for name, value in asdict(taken).items() if name != "whom"}


def share_view(found: Share, tier: Tier) -> Json:
    """Of the devices that were asked for within the hour, and what the tier promises."""
    told = {"asked_s": found.asked_s, "given_s": found.given_s, "fraction": found.fraction}
    return {**told, "promised": PROMISED.get(tier)}


def certificate_view(found: Certificate) -> Json:
    return {**asdict(found), "finding": str(found.finding), "facts": dict(found.facts)}


def checkpoint_view(checkpoint: Checkpoint) -> Json:
    return {
        "incarnation": checkpoint.incarnation,
        "cut": checkpoint.cut,
        "step": checkpoint.step,
        "engine": checkpoint.engine,
        "at_s": checkpoint.at_s,
        "raw_bytes": sum(i.raw_bytes for i in checkpoint.shards),
        "new_bytes": sum(i.new_bytes for i in checkpoint.shards),
    }


def node_view(node: Node, jobs: Sequence[str]) -> Json:
    return {
        "id": node.id,
        "region": node.region,
        "cluster": node.cluster,
        "rack": node.rack,
        "device": node.device,
        "devices": node.devices,
        "used": node.used,
        "memory_bytes": node.memory_bytes,
        "preempts": node.preempts,
        "whole": node.whole,
        "parts": [asdict(part) for part in node.parts],
        "duty": node.duty.name.lower(),
        "lost": node.lost,
        "heard_s": node.heard_s,
        "epoch": node.epoch,
        "known_s": node.known_s,
        "failures": node.failures,
        "health": health_view(node.health),
        "jobs": sorted(jobs),
    }


def health_view(found: Health) -> Json:
    """What keeps work away, if anything does, and what went wrong, newest first."""
    return {
        "quarantine": asdict(found.quarantine) if found.quarantine else None,
        "sick": list(found.sick),
        "times": found.times,
        "faults": [asdict(fault) for fault in reversed(found.faults)],
    }


def areas(nodes: Iterable[Node], by: str) -> list[Json]:
    """Nodes counted by one of their fields ("region", "cluster" or "device"), in order."""
    groups: defaultdict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        groups[getattr(node, by)].append(node)
    return [
        {
            "id": name,
            **({"region": found[0].region} if by == "cluster" else {}),
            "devices": sum(n.devices for n in found),
            "used": sum(n.used for n in found),
            "nodes": len(found),
            "ready": sum(n.ready for n in found),
            "lost": sum(n.lost for n in found),
            "draining": sum(n.duty.name == "DRAINING" for n in found),
            "quarantined": sum(n.health.quarantine is not None for n in found),
        }
        for name, found in sorted(groups.items())
    ]
