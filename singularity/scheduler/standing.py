"""Is what was decided still true when it is carried out?"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from singularity.primitives.holdings import claimed, holdings, overfull, spots
from singularity.primitives.model import TERMINAL, Job, Node, NodeId
from singularity.primitives.serving import ServiceId

from .plan import CUTS, Action, Verb


def admissible(job: Job, action: Action, nodes: Mapping[NodeId, Node]) -> str:
    """Is the action still true now? "" for yes, else why not. Asked with the rows locked."""
    if job.version != action.seen:
        return "the job moved on"
    if job.state in TERMINAL:
        return f"the job has {job.state}"
    if action.verb in CUTS and (job.dumping or job.resizing or job.exited):
        return "a checkpoint or a resize is in flight, or ranks have ended"
    held = {*holdings(job), *spots(job)}
    for shard in action.placement:
        node = nodes[shard.node]
        if not node.ready and shard.node not in held:
            return f"{node.id} takes nothing new"
        if node.lost:
            return f"{node.id} is lost"
        if fault := overfull(claimed(node, job, shard)):
            return f"{node.id} {fault}"
    return ""


def outdated(job: Job, action: Action, written: Collection[ServiceId]) -> str:
    """Was a replica woken for a service that somebody else has changed since? "" for no. `written`
    are those whose changes in the same plan were; a plan that wakes has some."""
    serving = job.spec.serving
    if action.verb is Verb.WAKE and serving is not None and serving.service not in written:
        return "its service has changed meanwhile"
    return ""
