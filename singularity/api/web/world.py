"""Regions as a grid: who has their devices, and what is on its way between them. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from singularity.primitives.holdings import holdings
from singularity.primitives.model import Job, JobState
from singularity.primitives.nodes import Duty, Node, NodeId

CELLS_MOST: Final = 400  # nodes of a region that are drawn one by one
ARCS_MOST: Final = 12  # regions that fit side by side
# What a device may be, in the order in which they are drawn.
USES: Final = ("premium", "standard", "basic", "shared", "others", "free", "closed", "lost")


@dataclass(frozen=True, slots=True)
class Cell:
    """One node. `free` devices of one that is closed or lost are nobody's to have."""

    id: str
    condition: str
    devices: int
    used: int


@dataclass(frozen=True, slots=True)
class Area:
    """A region. `uses` are its devices by what they are used for: held by jobs of a tier, given out
    in shares, held by jobs of others, free, closed to new work, lost."""

    id: str
    devices: int
    nodes: int
    uses: Mapping[str, int]
    conditions: Mapping[str, int]
    clusters: Mapping[str, Sequence[Cell]]
    hidden: int


@dataclass(frozen=True, slots=True)
class Move:
    """A job that is on its way from one place to another, between regions if they differ."""

    job: str
    name: str
    tier: str
    state: str
    devices: int
    begun: str
    ends: str
    since_s: float


@dataclass(frozen=True, slots=True)
class Arc:
    """Jobs on their way between two regions, the `begun`-th and the `ends`-th of those drawn."""

    begun: int
    ends: int
    jobs: int


def condition(node: Node) -> str:
    """In one word, as the command line says it."""
    if node.lost:
        return "lost"
    if node.duty is Duty.DRAINING:
        return "draining"
    if node.health.quarantine is not None:
        return "quarantined"
    return "cordoned" if node.duty is Duty.CORDONED else "ready"


def areas(nodes: Iterable[Node], jobs: Iterable[Job], sees: Callable[[Job], bool]) -> list[Area]:
    """By region, in order. Jobs that the caller does not see are `others`."""
    held: defaultdict[NodeId, Counter[str]] = defaultdict(Counter)
    for job in jobs:
        whose = job.tier.name.lower() if sees(job) else "others"
        for node, devices in holdings(job).items():
            held[node][whose] += devices
    regions: defaultdict[str, list[Node]] = defaultdict(list)
    for each in nodes:
        regions[each.region].append(each)
    return [_area(name, found, held) for name, found in sorted(regions.items())]


def _area(name: str, nodes: list[Node], held: Mapping[NodeId, Counter[str]]) -> Area:
    uses = Counter[str]()
    clusters: defaultdict[str, list[Cell]] = defaultdict(list)
    for number, node in enumerate(nodes):
        uses.update(_uses(node, held.get(node.id, Counter())))
        if number < CELLS_MOST:
            clusters[node.cluster].append(Cell(node.id, condition(node), node.devices, node.used))
    return Area(
        id=name,
        devices=sum(n.devices for n in nodes),
        nodes=len(nodes),
        uses={use: uses[use] for use in USES if uses[use]},
        conditions=Counter(map(condition, nodes)),
        clusters=dict(sorted(clusters.items())),
        hidden=max(0, len(nodes) - CELLS_MOST),
    )


def _uses(node: Node, held: Mapping[str, int]) -> dict[str, int]:
    """Its devices by use; together they are all that it has."""
    if node.lost:
        return {"lost": node.devices}
    shared, known = len(node.parts), sum(held.values())
    idle = node.devices - known - shared
    return {**held, "shared": shared, "free" if node.ready else "closed": idle}


def moves(jobs: Iterable[Job], nodes: Mapping[NodeId, Node]) -> Iterator[Move]:
    """Jobs that go on elsewhere: their ranks leave for nodes that are reserved, or begin on some
    from what was kept on others."""
    for job in jobs:
        if job.state is JobState.SUSPENDING and job.target:
            before, after = job.nodes, frozenset(s.node for s in job.target)
        elif job.state is JobState.STARTING and (origin := job.origin) is not None:
            before, after = frozenset(i.node for i in origin.shards), job.nodes
        else:
            continue
        if before != after:
            yield Move(
                job=job.id,
                name=job.spec.name,
                tier=job.tier.name.lower(),
                state=str(job.state),
                devices=job.held,
                begun=_regions(before, nodes),
                ends=_regions(after, nodes),
                since_s=job.since_s,
            )


def arcs(regions: Sequence[str], found: Iterable[Move]) -> list[Arc]:
    """Of each pair of these regions between which something moves, in their order."""
    place = {name: number for number, name in enumerate(regions)}
    pairs = Counter(
        (place[m.begun], place[m.ends])
        for m in found
        if m.begun in place and m.ends in place and m.begun != m.ends
    )
    return [Arc(*pair, jobs) for pair, jobs in sorted(pairs.items())]


def _regions(found: Iterable[NodeId], nodes: Mapping[NodeId, Node]) -> str:
    """By name; a node that is forgotten is nowhere."""
    return ", ".join(sorted({nodes[n].region for n in found if n in nodes})) or "elsewhere"
