"""Projects: a tree in which devices are guaranteed, lent and borrowed; and what each has used."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from .errors import InvalidSpec, NotFound
from .model import ACTIVE, Job
from .nodes import Node
from .records import replace

HALF_LIFE_S: Final = 86_400.0  # of what was used: who had much yesterday is behind for a day or two
_COUNT_MOST: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, order=True)
class Allotment:
    """What a project has of one kind of device. `guaranteed` are its own: whoever borrowed them
    gives them back. `borrow` is how many more it may hold while nobody claims them, and `lend` how
    many of its own others may hold while it does not; None is no limit."""

    kind: str
    guaranteed: int = 0
    borrow: int | None = None
    lend: int | None = None

    @property
    def most(self) -> int | None:
        """Devices that it may ever hold; None is no limit."""
        return None if self.borrow is None else self.guaranteed + self.borrow

    @property
    def kept(self) -> int:
        """Of its own, what nobody else may hold."""
        return 0 if self.lend is None else max(0, self.guaranteed - self.lend)


@dataclass(frozen=True, slots=True)
class Usage:
    """`device_s` device-seconds until `at_s`, each worth half of itself after HALF_LIFE_S, and what
    is `held` since then: devices by kind, in order."""

    held: tuple[tuple[str, int], ...] = ()
    device_s: float = 0.0
    at_s: float = 0.0

    @property
    def devices(self) -> int:
        return sum(devices for _, devices in self.held)

    def until(self, now_s: float) -> float:
        """Device-seconds by now."""
        seconds = max(0.0, now_s - self.at_s)
        left = math.exp2(-seconds / HALF_LIFE_S)
        return self.device_s * left + self.devices * (1.0 - left) * HALF_LIFE_S / math.log(2.0)

    def changed(self, kind: str, more: int, now_s: float) -> Usage:
        """From now on `more` devices are held."""
        held = Counter(dict(self.held))
        held[kind] += more
        kept = tuple(sorted((kind, devices) for kind, devices in held.items() if devices))
        return Usage(kept, self.until(now_s), max(self.at_s, now_s))


@dataclass(frozen=True, slots=True)
class Project:
    """`parent` "" is the planet itself. A kind without an allotment has no limit, nor has a project
    with none at all. Of two that want the same, the one that used less by `weight` is first."""

    id: str
    parent: str = ""
    weight: float = 1.0
    allotments: tuple[Allotment, ...] = ()
    usage: Usage = Usage()

    def of(self, kind: str) -> Allotment | None:
        return next((a for a in self.allotments if a.kind == kind), None)

    def share(self, now_s: float) -> float:
        """Device-seconds used for each unit of its weight."""
        return self.usage.until(now_s) / self.weight


def claim(job: Job) -> int:
    """Devices that count against its project: what it holds, or will hold where it is on its way.
    A job that verifies another holds what nobody wants, and counts for nothing."""
    if not (job.placement or job.target) or job.spec.aside is not None:
        return 0
    return max(job.held if job.state in ACTIVE else 0, sum(s.devices for s in job.target))


def lineage(projects: Mapping[str, Project], project: str) -> tuple[str, ...]:
    """The project and those that it is part of, up to the planet; itself alone if it is unknown."""
    found = [project]
    while (here := projects.get(found[-1])) is not None and here.parent:
        found.append(here.parent)
    return tuple(found)


def own(projects: Mapping[str, Project], project: str, kind: str) -> int:
    """Devices guaranteed to the project; where nobody said how many, to its parts together."""
    here = projects.get(project)
    if here is not None and (said := here.of(kind)) is not None:
        return said.guaranteed
    return sum(own(projects, p.id, kind) for p in projects.values() if p.parent == project)


def admitted(
    projects: Iterable[Project], new: Project, capacity: Mapping[str, int]
) -> dict[str, Project]:
    """The projects with `new` among them. `capacity` are the devices of the fleet, by kind.

    Raises NotFound for a parent that is unknown; InvalidSpec where projects would be their own
    ancestors, for numbers below nothing, and for guarantees that those above cannot keep.
    """
    known = {p.id: p for p in projects}
    if new.parent and new.parent not in {*known, new.id}:
        raise NotFound(f"there is no project {new.parent!r} for {new.id} to be part of")
    if not (math.isfinite(new.weight) and new.weight > 0.0):
        raise InvalidSpec(f"the weight of {new.id} must be more than 0", field="weight")
    for each in new.allotments:
        _in_range(new.id, each)
    used = known[new.id].usage if new.id in known else new.usage
    known[new.id] = replace(new, allotments=tuple(sorted(new.allotments)), usage=used)
    _no_circle(known, new.id)
    kinds = {a.kind for p in known.values() for a in p.allotments}
    for kind in sorted(kinds):
        _kept_by_parents(known, kind, capacity.get(kind, 0), new)
    return known


def capacity(nodes: Iterable[Node]) -> Counter[str]:
    """Devices of the nodes that were ever admitted, by kind."""
    found = Counter[str]()
    for node in nodes:
        if node.epoch > 0:
            found[node.device] += node.devices
    return found


def _in_range(project: str, said: Allotment) -> None:
    for name in ("guaranteed", "borrow", "lend"):
        value = getattr(said, name)
        if value is not None and not 0 <= value <= _COUNT_MOST:
            detail = f"{name} of {project} must be 0 {said.kind} devices or more, not {value}"
            raise InvalidSpec(detail, field=name)
    if said.lend is not None and said.lend > said.guaranteed:
        detail = f"{project} cannot lend {said.lend} of {said.guaranteed} {said.kind} devices"
        raise InvalidSpec(detail, field="lend")


def _no_circle(known: Mapping[str, Project], project: str) -> None:
    seen, at = [project], known[project].parent
    while at:
        seen.append(at)
        if at == project:
            raise InvalidSpec(f"projects would be part of themselves: {' < '.join(seen)}")
        at = known[at].parent


def _kept_by_parents(known: Mapping[str, Project], kind: str, capacity: int, new: Project) -> None:
    """What is guaranteed to the parts of something is no more than it has; asked of those above
    `new` and of itself, for nothing else has changed."""
    for above in (*lineage(known, new.id), ""):
        said = known[above].of(kind) if above else Allotment(kind, capacity)
        parts = sum(own(known, p.id, kind) for p in known.values() if p.parent == above)
        if said is None or parts <= said.guaranteed:
            continue
        if not above and not new.of(kind):
            continue  # the fleet has shrunk since; not by this
        who = f"{above} has" if above else "the fleet has"
        detail = f"{parts} {kind} devices would be guaranteed, and {who} {said.guaranteed}"
        raise InvalidSpec(detail, project=new.id, kind=kind, devices=said.guaranteed)
