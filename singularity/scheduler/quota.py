"""Who may hold how many devices, who holds borrowed ones, and who gives them back to whom.

A project may hold what it was guaranteed, and beyond that what others leave idle, up to what it may
borrow and they lend; so may everything that it is part of. Whoever is within its guarantee takes
back what was borrowed from it, whatever the tier of the borrower. Mutable, like the Draft it is in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    what others keep for themselves. It has `used` of what is `said`, or others keep `kept` of so
    many idle ones."""

    project: str
    room: int
    kind: str
    used: int
    said: Allotment | None = None
    kept: int = 0

    @property
    def text(self) -> str:
        if self.said is None:
            return (
                f"{self.kept} of {self.used} idle {self.kind} are not lent by those whose they are"
            )
        detail = f"{self.project} is at {self.used} of {self.said.most} {self.kind}"
        return f"{detail} ({self.said.guaranteed} guaranteed, {self.said.borrow} borrowed at most)"


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
        self._keys: dict[_Key, tuple[_Key, ...]] = {}
        self._own: dict[_Key, int] = {}
        self._limits: dict[_Key, tuple[tuple[_Key, Allotment], ...]] = {}
        self._parts: dict[str, list[str]] = {}
        self._said = {(p.id, a.kind): a for p in self._projects.values() for a in p.allotments}
        self.governs = bool(self._said)
        self._kept = {key for key, each in self._said.items() if each.kept}
        self._kinds_kept = {kind for _, kind in self._kept}
        self._keep_now, self._keep_then = Kept(self, self._now), Kept(self, self._then)
        if not self.governs:
            return
        for project in self._projects.values():
            self._parts.setdefault(project.parent, []).append(project.id)
            for kind, devices in project.usage.held if jobs is None else ():
                for above in lineage(self._projects, project.id):
                    self.use[above, kind] += devices
        for job in jobs or ():
            if devices := claim(job):
                for key in self.keys(job):
                    self.use[key] += devices
                    for tier in range(job.tier):
                        self._less_urgent[(*key, tier)] += devices

    def copy(self) -> Quota:
        """One of which the counts can be changed apart."""
        found = copy(self)
        found.use, found.coming = Counter(self.use), Counter(self.coming)
        found.promised = Counter(self.promised)
        found._keep_now, found._keep_then = Kept(found, found._now), Kept(found, found._then)
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
            for key in self.keys(job):
                counts[key] += devices
                self._keep_then.forget(key)
                if counts is self.use:
                    self._keep_now.forget(key)

    # -- who may start ---------------------------------------------------------------------------

    def bound(self, job: Job, free: int) -> Bound | None:
        """What keeps the job from more devices now, `free` of its kind being idle; None if nothing
        does."""
        if not self.governs:
            return None
        return self._bound(job, self._now, self._keep_now.besides, free)

    def room(self, job: Job, free: int) -> int:
        """Devices more that it may have now, `free` of its kind being idle."""
        bound = self.bound(job, free)
        return UNBOUND if bound is None else bound.room

    def bound_later(self, job: Job, free: int, freed: Iterable[tuple[Job, int]]) -> Bound | None:
        """The same, when all that is coming has come and jobs have given `freed` devices as well.
        `free` counts those."""
        if not self.governs:
            return None
        less = Counter[_Key]()
        for other, devices in freed:
            for key in self.keys(other):
                less[key] += devices

        def later(key: _Key) -> int:
            return self._then(key) - less[key]

        return self._bound(job, later, Kept(self, later).besides, free)

    def admits_later(self, job: Job, devices: int, free: int, less: Mapping[_Key, int]) -> bool:
        """Does `bound_later` leave room for so many more? `less` are the devices given, by project
        and all that it is part of."""
        for key, said in self._limits_of(job):
            if said.most is not None and said.most - self._then(key) + less.get(key, 0) < devices:
                return False
        kind, key = job.spec.device, (job.spec.project, job.spec.device)
        if kind not in self._kinds_kept:
            return True
        if self._owns(key) - self._then(key) + less.get(key, 0) >= devices:
            return True  # within its own guarantee
        path = self._path(job)
        kept = self._keep_then.besides(path, kind)
        if kept > 0 and free - kept < devices:
            return False  # and no less is kept by those who give
        if not less.keys().isdisjoint(self._kept):
            kept = self._keep_then.less(path, kind, less)
        return kept <= 0 or free - kept >= devices

    def refuses(self, job: Job, more: int) -> str:
        """Which limit of its projects would be exceeded by so many devices; "" if none."""
        if not (self.governs and more):
            return ""
        found = self._bound(job, self._now, self._keep_now.besides, UNBOUND)
        return found.text if found and found.room < more else ""

    def hopeless(self, job: Job, devices: int) -> bool:
        """Would no quota admit the job even if all in its projects that is less urgent gave way?"""
        if not self.governs:
            return False
        for key, said in self._limits_of(job):
            urgent = self.use[key] - self._less_urgent[(*key, int(job.tier))]
            if said.most is not None and urgent + devices - claim(job) > said.most:
                return True
        return False

    def _bound(
        self, job: Job, use: _Use, besides: Callable[[tuple[str, ...], str], int], free: int
    ) -> Bound | None:
        """The tightest; `besides` counts what others keep, as Kept.besides."""
        kind, room, by = job.spec.device, UNBOUND, None
        for key, said in self._limits_of(job):
            if said.most is not None and said.most - use(key) < room:
                room, by = said.most - use(key), (key[0], said)
        if kind in self._kinds_kept and (kept := besides(self._path(job), kind)) > 0:
            key = job.spec.project, kind
            left = max(free - kept, self._owns(key) - use(key))  # or what its own guarantee covers
            if left < room:
                return Bound("", left, kind, free, kept=kept)
        return Bound(by[0], room, kind, (by[1].most or 0) - room, by[1]) if by else None

    # -- who gives back --------------------------------------------------------------------------

    def claims(self, job: Job, devices: int, before: Job | None = None) -> bool:
        """Are `devices` for the job within a guarantee: of its project, or of something that this
        is part of and the job `before` is not? Then it may take back what was borrowed."""
        if not self.governs:
            return False
        others = self._path(before) if before is not None else ()
        more = devices - claim(job)
        for key in self.keys(job):
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
        return not self.governs or all(self.surplus(key) > 0 for key in self.apart(victim, asker))

    def yields(self, job: Job, devices: int, to: Job) -> bool:
        """Would `job`, once it had so many, sit on devices that are not its own, seen from `to`?"""
        if job.spec.device != to.spec.device:
            return False
        return all(self.surplus(key) + devices > 0 for key in self.apart(job, to))

    def apart(self, victim: Job, asker: Job) -> list[_Key]:
        """What the victim is in and the asker is not."""
        path = self._path(asker)
        return [key for key in self.keys(victim) if key[0] not in path]

    def surplus(self, key: _Key) -> int:
        """Devices that it has borrowed, when all that is coming has come."""
        return self._then(key) - self._owns(key)

    def may_take(self, asker: Job, devices: int, victim: Job) -> bool:
        """Two of three decide: the victim is less urgent, it has borrowed what it holds, the asker
        is within its guarantee. In one project the more urgent comes first, whoever holds what."""
        less_urgent = victim.tier > asker.tier
        if not self.governs or victim.spec.project == asker.spec.project:
            return less_urgent
        return less_urgent + self.stands(asker, devices, victim) >= 2

    def stands(self, asker: Job, devices: int, victim: Job) -> int:
        """How many of the other two speak for the asker: the same for all of a project."""
        return self.borrows(victim, asker) + self.claims(asker, devices, victim)

    def spares(self, asker: Job, devices: int, freed: Iterable[tuple[Job, int]]) -> bool:
        """Does everybody who gives to the asker keep what he is guaranteed, as far as he has it?
        Only who is within his own guarantee may ask for more."""
        if not self.governs:
            return True
        given = Counter[_Key]()
        for victim, count in freed:
            if victim.spec.project != asker.spec.project:
                if self.claims(asker, devices, victim):
                    continue
                given.update(dict.fromkeys(self.apart(victim, asker), count))
        return all(self.surplus(key) >= count for key, count in given.items())

    def same(self, one: Job, other: Job) -> bool:
        """Do both use the quotas of some project?"""
        kind = one.spec.device == other.spec.device
        return kind and not set(self._path(one)).isdisjoint(self._path(other))

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

    def keys(self, job: Job) -> tuple[_Key, ...]:
        """Of everything that counts its devices."""
        of = job.spec.project, job.spec.device
        if (found := self._keys.get(of)) is None:
            found = self._keys[of] = tuple((project, of[1]) for project in self._path(job))
        return found

    def _limits_of(self, job: Job) -> tuple[tuple[_Key, Allotment], ...]:
        """What may have no more than so many, from its project upwards."""
        of = job.spec.project, job.spec.device
        if (found := self._limits.get(of)) is None:
            said = [(key, self.said(key)) for key in self.keys(job)]
            limited = [(key, each) for key, each in said if each and each.most is not None]
            found = self._limits[of] = tuple(limited)
        return found

    def said(self, key: _Key) -> Allotment | None:
        return self._said.get(key)

    def parts(self, project: str) -> Sequence[str]:
        """Of it, or, with "", those that are part of nothing."""
        return self._parts.get(project, ())

    def above(self, project: str) -> str | None:
        """What it is part of; None for one that is unknown."""
        found = self._projects.get(project)
        return found.parent if found else None

    def _owns(self, key: _Key) -> int:
        if key not in self._own:
            self._own[key] = own(self._projects, *key)
        return self._own[key]

    def _now(self, key: _Key) -> int:
        return self.use[key]

    def _then(self, key: _Key) -> int:
        """Devices in use when what is coming has come, and what was promised is taken."""
        return self.use[key] - self.coming[key] + self.promised[key]


class Kept:
    """Idle devices that others do not lend, by what is in `use`; remembered until that changes."""

    def __init__(self, quota: Quota, use: _Use) -> None:
        self._quota, self._use = quota, use
        self._by: dict[_Key, int] = {}
        self._inside: dict[_Key, int] = {}

    def besides(self, path: Sequence[str], kind: str) -> int:
        """In all branches that are not on the way from a project to the planet."""
        found = self._of_parts(("", kind))
        for project in path:
            found += self._of_parts((project, kind))
            if self._quota.above(project) is not None:
                found -= self._of((project, kind))
        return found

    def less(self, path: Sequence[str], kind: str, less: Mapping[_Key, int]) -> int:
        """The same if each that is in `less`, with all that it is part of, had so many fewer."""
        touched: dict[str, list[str]] = {}
        for project, of_kind in less:
            above = self._quota.above(project)
            if of_kind == kind and above is not None:
                touched.setdefault(above, []).append(project)

        def of(project: str) -> int:
            said, key = self._quota.said((project, kind)), (project, kind)
            mine = (said.kept if said else 0) - self._use(key) + less.get(key, 0)
            return max(of_parts(project), mine)

        def of_parts(project: str) -> int:
            changed = sum(of(p) - self._of((p, kind)) for p in touched.get(project, ()))
            return self._of_parts((project, kind)) + changed

        found = of_parts("")
        for project in path:
            found += of_parts(project)
            if self._quota.above(project) is not None:
                found -= of(project)
        return found

    def forget(self, key: _Key) -> None:
        """The project has more or fewer; the same is said of all that it is part of."""
        self._by.pop(key, None)
        self._inside.pop(key, None)
        self._inside.pop(("", key[1]), None)

    def _of(self, key: _Key) -> int:
        if (found := self._by.get(key)) is None:
            said = self._quota.said(key)
            found = max(self._of_parts(key), (said.kept if said else 0) - self._use(key))
            self._by[key] = found
        return found

    def _of_parts(self, key: _Key) -> int:
        if (found := self._inside.get(key)) is None:
            found = sum(self._of((part, key[1])) for part in self._quota.parts(key[0]))
            self._inside[key] = found
        return found
