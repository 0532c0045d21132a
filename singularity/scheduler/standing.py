"""Is what was decided within all rules, and still true when it is carried out?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import chain, filterfalse

from singularity.primitives.holdings import claimed, holdings, overfull, spots
from singularity.primitives.model import TERMINAL, WAITING, Intent, Job, JobId
from singularity.primitives.nodes import Node, NodeId
from singularity.primitives.serving import ServiceId

from .lines import lines_of
from .pending import Pending
from .plan import CUTS, Action, Plan, Verb, grows
from .quota import Quota
from .snapshot import Snapshot


def check(snapshot: Snapshot, plan: Plan) -> list[str]:
    """Every rule the plan breaks; empty means valid. Pure: asked by tests, by the simulator, and
    by the control plane before it writes."""
    faults = []
    for job_id, times in Counter(a.job for a in plan.actions).items():
        if times > 1:
            faults.append(f"{job_id}: {times} actions in one plan")
    booked: dict[NodeId, Node] = {}
    for action in plan.actions:
        job = snapshot.by_id[action.job]
        clusters = {snapshot.nodes[snapshot.row[s.node]].cluster for s in action.placement}
        if len(clusters) > 1:
            faults.append(f"{action.job}: gang across clusters {sorted(clusters)}")
        for shard in action.placement:
            row = snapshot.row[shard.node]
            node = booked.get(shard.node, snapshot.nodes[row])
            booked[shard.node] = claimed(node, job, shard)
            if not snapshot.ready[row] and shard.node not in {*holdings(job), *spots(job)}:
                faults.append(f"{action.job}: placed on unready {shard.node}")
        if not action.reason:
            faults.append(f"{action.job}: {action.verb} without a reason")
    for node in booked.values():
        if fault := overfull(node):
            faults.append(f"{node.id} {fault}")
    return faults + _unexplained(snapshot, plan) + _above_quota(snapshot, plan)


def _unexplained(snapshot: Snapshot, plan: Plan) -> list[str]:
    told, acted = plan.pending, {a.job for a in plan.actions}
    lines: Iterable[tuple[JobId, ...]] = (x.ids for x in lines_of(snapshot.jobs, snapshot.lined))
    if isinstance(told, Pending):  # most were told together with their line
        lines, told = map(told.untold, lines), told.each
    may_wait = chain((job.id for job in snapshot.astir), *lines)  # who runs steadily does not
    silent = {i for i in filterfalse(told.__contains__, may_wait) if i not in acted}
    jobs = (snapshot.by_id[job] for job in sorted(silent))
    wanting = (j for j in jobs if j.state in WAITING and j.intent is Intent.RUN)
    # Asked one by one only here: of other lines than the plan's nobody knows who was told together.
    return [f"{j.id}: waits without a reason" for j in wanting if j.id not in plan.pending]


def _above_quota(snapshot: Snapshot, plan: Plan) -> list[str]:
    faults, quota = [], Quota(snapshot.projects, snapshot.loose)
    for action in plan.actions:
        job = snapshot.by_id[action.job]
        if above := quota.refuses(job, grows(job, action)):
            faults.append(f"{job.id}: {above}")
        quota.take(job, grows(job, action))
    return faults


def admissible(job: Job, action: Action, nodes: Mapping[NodeId, Node]) -> str:
    """Is the action still true now? "" for yes, else why not. Asked with the rows locked."""
    if job.version != action.seen:
        return "the job moved on"
    if job.state in TERMINAL:
        return f"the job has {job.state}"
    if action.verb in CUTS and (job.dumping or job.resizing or job.exited):
        return "a checkpoint or a resize is in flight, or ranks have ended"
    for shard in action.placement:
        node = nodes[shard.node]
        if not node.ready and shard.node not in {*holdings(job), *spots(job)}:
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
