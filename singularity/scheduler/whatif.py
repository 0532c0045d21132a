"""What would be if something were otherwise: the live state with changes and without them, both
played forward to where they come to rest, and what differs then."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from singularity.primitives.errors import InvalidSpec, NotFound
from singularity.primitives.model import ACTIVE, TERMINAL, WAITING, Intent, Job, JobId, Tier
from singularity.primitives.nodes import ClusterId, Node, NodeId, Scope
from singularity.primitives.projects import Allotment, Project, admitted, capacity
from singularity.primitives.sla import PROMISED

from .plan import Action, Reason
from .policy import Policy
from .rehearsal import rehearse
from .snapshot import Snapshot

_MORE: Final = re.compile(r"\+(?P<count>\d{1,6})(?::(?P<kind>[A-Za-z0-9][A-Za-z0-9_.-]*))?")


@dataclass(frozen=True, slots=True)
class Changes:
    """`jobs` are submitted, everything in `without` is gone. `quotas` guarantee a project more, as
    ("team", "+4:h200"); `devices` are new ones, as "+8:h200@us-1"."""

    jobs: tuple[Job, ...] = ()
    without: tuple[Scope, ...] = ()
    quotas: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scorecard:
    """`devices` and `used` where nodes are there; `waiting` jobs want `wanted` devices at least.
    `short` are the devices by tier that are promised and not held."""

    devices: int
    used: int
    running: int
    waiting: int
    wanted: int
    short: tuple[tuple[str, int], ...]

    @property
    def utilisation(self) -> float:
        return self.used / self.devices if self.devices else 0.0


@dataclass(frozen=True, slots=True)
class Effect:
    """What the changes do to one job: `what` is starts, waits, stops, moves, resizes or ends;
    `before` and `after` where it is then, and `reason` why."""

    job: Job
    what: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """`paid` device-seconds are what it takes of those who give way, beyond what others cost."""

    effects: tuple[Effect, ...]
    before: Scorecard
    after: Scorecard
    paid: float

    @property
    def changed(self) -> bool:
        return bool(self.effects) or self.before != self.after


def compare(snapshot: Snapshot, changes: Changes, policy: Policy) -> Outcome:
    """Raises NotFound and InvalidSpec where a change is about what there is not."""
    as_is, done, _ = rehearse(snapshot, policy)
    there, made, last = rehearse(changed(snapshot, changes), policy)
    return Outcome(
        effects=tuple(_effects(as_is, there, made, last.pending)),
        before=scorecard(as_is),
        after=scorecard(there),
        paid=_paid(made) - _paid(done),
    )


def _paid(actions: Iterable[Action]) -> float:
    return sum(a.price or 0.0 for a in actions)


# -- the changes -----------------------------------------------------------------------------------


def changed(snapshot: Snapshot, changes: Changes) -> Snapshot:
    """As compare() says."""
    nodes = [replace(n, lost=True) if _gone(n, changes.without) else n for n in snapshot.nodes]
    for number, text in enumerate(changes.devices):
        nodes += _more_nodes(snapshot.nodes, text, f"new-{number}")
    jobs = (*snapshot.jobs, *changes.jobs)
    found = snapshot.anew(nodes, jobs)
    projects = {p.id: p for p in snapshot.projects}
    there = capacity(n for n in nodes if not _gone(n, changes.without))
    for name, text in changes.quotas:
        projects = admitted(projects.values(), _raised(projects, name, text), there)
    named = tuple(projects[p] for p in sorted(projects))
    return replace(found, projects=named)


def _gone(node: Node, without: Sequence[Scope]) -> bool:
    return any(scope.holds(node) for scope in without)


def _more_nodes(nodes: Sequence[Node], text: str, name: str) -> list[Node]:
    """New nodes like those of the cluster, with so many devices in all."""
    said, _, cluster = text.partition("@")
    count, kind = _more(said, text)
    inside = [n for n in nodes if n.cluster == cluster]
    if not inside:
        known = ", ".join(sorted({n.cluster for n in nodes}))
        raise NotFound(f"there is no cluster {cluster!r} for {text}; there are: {known}")
    kind = kind or inside[0].device
    each = max((n.devices for n in inside if n.device == kind), default=inside[0].devices)
    sizes = [each] * (count // each) + [count % each] * (count % each > 0)
    return [
        Node(
            id=NodeId(f"{cluster}-{name}-{i}"),
            region=inside[0].region,
            cluster=ClusterId(cluster),
            device=kind,
            devices=size,
            epoch=1,
            rack=inside[0].rack,
        )
        for i, size in enumerate(sizes)
    ]


def _raised(projects: dict[str, Project], name: str, text: str) -> Project:
    if name not in projects:
        raise NotFound(f"there is no project {name!r}", near=sorted(projects)[:3])
    project, (count, kind) = projects[name], _more(text, text)
    said = [a for a in project.allotments if kind in ("", a.kind)]
    if len(said) != 1:
        known = ", ".join(a.kind for a in project.allotments) or "no kind of device"
        raise InvalidSpec(f"{name} has a quota of {known}; say which to raise, as in +4:KIND")
    more = replace(said[0], guaranteed=said[0].guaranteed + count)
    others: tuple[Allotment, ...] = tuple(a for a in project.allotments if a != said[0])
    return replace(project, allotments=(*others, more))


def _more(said: str, text: str) -> tuple[int, str]:
    found = _MORE.fullmatch(said)
    if found is None or int(found["count"]) < 1:
        raise InvalidSpec(f"{text!r} is not understood; write +4, +4:h200 or +8:h200@cluster")
    return int(found["count"]), found["kind"] or ""


# -- what comes of them ----------------------------------------------------------------------------


def scorecard(snapshot: Snapshot) -> Scorecard:
    there = [n for n in snapshot.nodes if n.epoch > 0 and not n.lost]
    jobs = [j for j in snapshot.jobs if j.spec.aside is None]
    waiting = [j for j in jobs if j.state in WAITING and j.intent is Intent.RUN]
    short = dict.fromkeys(PROMISED, 0)
    for job in jobs:
        if job.tier in PROMISED and job.state not in TERMINAL and job.intent is Intent.RUN:
            short[job.tier] += max(0, math.ceil(PROMISED[job.tier] * job.devices) - job.held)
    return Scorecard(
        devices=sum(n.devices for n in there),
        used=sum(n.used for n in there),
        running=sum(j.state in ACTIVE for j in jobs),
        waiting=len(waiting),
        wanted=sum(min(j.devices, j.spec.devices_min) for j in waiting),
        short=tuple((Tier(tier).name.lower(), count) for tier, count in sorted(short.items())),
    )


def _effects(
    before: Snapshot,
    after: Snapshot,
    actions: Sequence[Action],
    pending: Mapping[JobId, tuple[Reason, ...]],
) -> Iterable[Effect]:
    reasons = {a.job: a.reason for a in actions}
    for job in after.jobs:
        if job.spec.aside is not None:
            continue
        old = before.by_id.get(job.id)
        if what := _what(old, job):
            waits = "; ".join(r.detail for r in pending.get(job.id, ()))
            why = waits if what == "waits" else reasons.get(job.id, waits)
            yield Effect(job, what, where(before, old), where(after, job), why)


def _what(old: Job | None, job: Job) -> str:
    held = old.placement if old else ()
    if job.state in TERMINAL:
        return "ends" if old is None or old.state is not job.state else ""
    if not job.placement:
        return "waits" if old is None else "stops" if held else ""
    if not held:
        return "starts"
    if {s.node for s in held} != {s.node for s in job.placement}:
        return "moves"
    return "resizes" if sum(s.devices for s in held) != job.held else ""


def where(snapshot: Snapshot, job: Job | None) -> str:
    """As in "16 in eu-1"; "" for a job that is nowhere."""
    if job is None or not job.placement:
        return ""
    clusters = {snapshot.nodes[snapshot.row[s.node]].cluster for s in job.placement}
    return f"{job.held} in {', '.join(sorted(clusters))}"
