"""Who may hold how many devices, who holds borrowed ones, and who gives them back to whom.

A project may hold what it was guaranteed, and beyond that what others leave idle, up to what it may
borrow and they lend; so may everything that it is part of. Whoever is within its guarantee takes
back what was borrowed from it, whatever the tier of the borrower. Mutable, like the Draft it is in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from typing import Final

from singularity.primitives.model import Job
from singularity.primitives.projects import Allotment, Project, claim, lineage, own

UNBOUND: Final = 1 << 40  # more devices than there are
_Key = tuple[str, str]  # project and kind of device
_Use = Callable[[_Key], int]


@dataclass(frozen=True, slots=True)
class Bound:
    """What keeps a job from more than `room` devices: the limit of `project`, or, where that is "",
    what others keep for themselves."""

    project: str
    room: int
    text: str


class Quota:
    """`use` counts the devices of each project and of all its parts, by kind; `coming` those that
    will be given back, `promised` those meant for jobs that wait."""

    def __init__(self, projects: Iterable[Project], jobs: Iterable[Job] | None = None) -> None:
        """With the jobs of a snapshot, or without: then as projects are known to hold devices."""
        self._projects = {p.id: p for p in projects}
        self.use: Counter[_Key] = Counter()
        self.coming: Counter[_Key] = Counter()
        self.promised: Counter[_Key] = Counter()
        self._less_urgent: Counter[tuple[str, str, int]] = Counter()
        self._lineage: dict[str, tuple[str, ...]] = {}
        self._own: dict[_Key, int] = {}
        self._parts: dict[str, list[str]] = {}
        said = [a for p in self._projects.values() for a in p.allotments]
        self.governs = bool(said)
        self._kinds_kept = {a.kind for a in said if a.kept}
        if not self.governs:
            return
        for project in self._projects.values():
            self._parts.setdefault(project.parent, []).append(project.id)
            for kind, devices in project.usage.held if jobs is None else ():
                for above in lineage(self._projects, project.id):
                    self.use[above, kind] += devices
        for job in jobs or ():
            if devices := claim(job):
                for key in self._keys(job):
                    self.use[key] += devices
                    for tier in range(job.tier):
                        self._less_urgent[(*key, tier)] += devices

    def copy(self) -> Quota:
        """One of which the counts can be changed apart."""
        found = copy(self)
        found.use, found.coming = Counter(self.use), Counter(self.coming)
        found.promised = Counter(self.promised)
        return found

    # -- what changes ----------------------------------------------------------------------------

    def take(self, job: Job, devices: int) -> None:
        """The job will hold so many more."""
        self._count(self.use, job, devices)

    def expect(self, job: Job, devices: int) -> None:
        """The job will give back so many."""
        self._count(self.coming, job, devices)

    def promise(self, job: Job, devices: int) -> None:
        """What is being freed is meant for the job."""
        self._count(self.promised, job, devices)

    def _count(self, counts: Counter[_Key], job: Job, devices: int) -> None:
        if self.governs and job.spec.aside is None:
            for key in self._keys(job):
                counts[key] += devices

    # -- who may start ---------------------------------------------------------------------------

    def bound(self, job: Job, free: int) -> Bound | None:
        """What keeps the job from more devices now, `free` of its kind being idle; None if nothing
        does."""
        return self._bound(job, self._now, free) if self.governs else None

    def bound_later(self, job: Job, free: int, freed: Iterable[tuple[Job, int]]) -> Bound | None:
        """The same, when all that is coming has come and jobs have given `freed` devices as well.
        `free` counts those."""
        if not self.governs:
            return None
        less = Counter[_Key]()
        for other, devices in freed:
            for key in self._keys(other):
                less[key] += devices
        return self._bound(job, lambda key: self._then(key) - less[key], free)

    def refuses(self, job: Job, more: int) -> str:
        """Which limit of its projects would be exceeded by so many devices; "" if none."""
        found = self._bound(job, self._now, UNBOUND) if self.governs and more else None
        return found.text if found and found.room < more else ""

    def hopeless(self, job: Job, devices: int) -> bool:
        """Would no quota admit the job even if all in its projects that is less urgent gave way?"""
        for key in self._keys(job) if self.governs else ():
            most = self._most(key)
            urgent = self.use[key] - self._less_urgent[(*key, int(job.tier))]
            if most is not None and urgent + devices - claim(job) > most:
                return True
        return False

    def _bound(self, job: Job, use: _Use, free: int) -> Bound | None:
        kind, found = job.spec.device, list[Bound]()
        for key in self._keys(job):
            if (most := self._most(key)) is not None:
                said = self._said(key)
                assert said is not None
                detail = f"{key[0]} is at {use(key)} of {most} {kind}"
                detail += f" ({said.guaranteed} guaranteed, {said.borrow} borrowed at most)"
                found.append(Bound(key[0], most - use(key), detail))
        if (kept := self._kept_from(job, use)) > 0:
            room = max(free - kept, self._within(job, use))
            detail = f"{kept} of {free} idle {kind} are not lent by those whose they are"
            found.append(Bound("", room, detail))
        return min(found, key=lambda b: b.room) if found else None

    def _within(self, job: Job, use: _Use) -> int:
        """Devices more that its project's own guarantee covers."""
        key = job.spec.project, job.spec.device
        return self._owns(key) - use(key)

    def _kept_from(self, job: Job, use: _Use) -> int:
        """Idle devices that others do not lend, down the branches that the job is not in."""
        if job.spec.device not in self._kinds_kept:
            return 0
        path = (*self._path(job), "")
        return sum(
            self._kept((part, job.spec.device), use)
            for above in path
            for part in self._parts.get(above, ())
            if part not in path
        )

    def _kept(self, key: _Key, use: _Use) -> int:
        said = self._said(key)
        parts = sum(self._kept((part, key[1]), use) for part in self._parts.get(key[0], ()))
        return max(parts, (said.kept if said else 0) - use(key))

    # -- who gives back --------------------------------------------------------------------------

    def claims(self, job: Job, devices: int, before: Job | None = None) -> bool:
        """Are `devices` for the job within a guarantee: of its project, or of something that this
        is part of and the job `before` is not? Then it may take back what was borrowed."""
        if not self.governs:
            return False
        others = self._path(before) if before is not None else ()
        more = devices - claim(job)
        for key in self._keys(job):
            if key[0] in others:
                return False
            if 0 < self._then(key) + more <= self._owns(key):
                return True
        return False

    def claimable(self, job: Job, wanted: Iterable[int]) -> tuple[int, ...]:
        """The largest of the sizes that is within its guarantee, if there is one."""
        return tuple(d for d in wanted if self.claims(job, d))[:1]

    def borrows(self, victim: Job, asker: Job) -> bool:
        """Does the victim, seen from the asker, sit on devices that are not its own: is everything
        that it is in and the asker is not above its guarantee?"""
        if not self.governs:
            return True
        path, kind = self._path(asker), victim.spec.device
        apart = [(p, kind) for p in self._path(victim) if p not in path]
        return all(self._then(key) > self._owns(key) for key in apart)

    def may_take(self, asker: Job, devices: int, victim: Job) -> bool:
        """Two of three decide: the victim is less urgent, it has borrowed what it holds, the asker
        is within its guarantee. In one project the more urgent comes first, whoever holds what."""
        less_urgent = victim.tier > asker.tier
        if not self.governs or victim.spec.project == asker.spec.project:
            return less_urgent
        lends = self.claims(asker, devices, victim)
        return less_urgent + self.borrows(victim, asker) + lends >= 2

    def spares(self, asker: Job, devices: int, freed: Iterable[tuple[Job, int]]) -> bool:
        """Does everybody who gives to the asker keep what he is guaranteed, as far as he has it?
        Only who is within his own guarantee may ask for more."""
        if not self.governs:
            return True
        path, given = self._path(asker), Counter[_Key]()
        for victim, count in freed:
            if victim.spec.project != asker.spec.project:
                if self.claims(asker, devices, victim):
                    continue
                apart = (p for p in self._path(victim) if p not in path)
                given.update({(p, victim.spec.device): count for p in apart})
        return all(self._then(key) - count >= self._owns(key) for key, count in given.items())

    def same(self, one: Job, other: Job) -> bool:
        """Do both use the quotas of some project?"""
        kind = one.spec.device == other.spec.device
        return kind and not set(self._path(one)).isdisjoint(self._path(other))

    def binds(self, bound: Bound, job: Job) -> bool:
        """Is the job one of those that this limit is for?"""
        return bound.project in (*self._path(job), "")

    # -- the tree --------------------------------------------------------------------------------

    def above_its_own(self, job: Job, devices: int) -> int:
        """How many of `devices` its project would have to borrow."""
        if not self.governs:
            return 0
        key = job.spec.project, job.spec.device
        return max(0, min(devices, self._then(key) + devices - self._owns(key)))

    def _path(self, job: Job) -> tuple[str, ...]:
        name = job.spec.project
        if name not in self._lineage:
            self._lineage[name] = lineage(self._projects, name)
        return self._lineage[name]

    def _keys(self, job: Job) -> list[_Key]:
        return [(project, job.spec.device) for project in self._path(job)]

    def _said(self, key: _Key) -> Allotment | None:
        project: Project | None = self._projects.get(key[0])
        return project.of(key[1]) if project else None

    def _most(self, key: _Key) -> int | None:
        said = self._said(key)
        return said.most if said else None

    def _owns(self, key: _Key) -> int:
        if key not in self._own:
            self._own[key] = own(self._projects, *key)
        return self._own[key]

    def _now(self, key: _Key) -> int:
        return self.use[key]

    def _then(self, key: _Key) -> int:
        """Devices in use when what is coming has come, and what was promised is taken."""
        return self.use[key] - self.coming[key] + self.promised[key]
