"""The part of the ledger in memory that keeps services, what routers say, and loans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from singularity.primitives.errors import Conflict, NotFound
from singularity.primitives.lending import Repaid
from singularity.primitives.model import Job, JobId
from singularity.primitives.routing import LoadNote, Loads
from singularity.primitives.serving import ServiceId
from singularity.scheduler.services import Amended, Change, Served, Service
from singularity.scheduler.traffic import (
    PANIC_S,
    STABLE_S,
    Part,
    Router,
    Traffic,
    Window,
    known_loads,
)


class MemoryServices:
    def __init__(self) -> None:
        self._services: dict[ServiceId, Service] = {}
        self._routers: dict[str, Router] = {}
        self._notes: list[tuple[float, str, LoadNote]] = []
        self._served: dict[tuple[ServiceId, int], Served] = {}
        self._repaid: list[tuple[JobId, Repaid]] = []

    def submit(self, job: Job) -> None:
        raise NotImplementedError

    def open_service(self, service: Service, replicas: Sequence[Job]) -> Service:
        taken = (service.project, service.name)
        if any((s.project, s.name) == taken for s in self.services()):
            raise Conflict(f"there is a service {service.name} already")
        self._services[service.id] = service
        for job in replicas:
            self.submit(job)
        return service

    def change_service(
        self, service: ServiceId, event: str, change: Callable[[Service], Amended], now_s: float
    ) -> Service:
        if service not in self._services:
            raise NotFound(f"there is no service {service!r}")
        found, replicas = change(self._services[service])
        self._services[service] = found
        for job in replicas:
            self.submit(job)
        return found

    def hear_router(self, region: str, loads: Loads, now_s: float) -> None:
        self._routers[loads.router] = Router(loads.router, region, now_s, dict(loads.leaving))
        for note in loads.notes:
            if note.service in self._services:
                self._notes.append((now_s, loads.router, note))
                key = (note.service, note.revision)
                self._served[key] = self._served.get(key, Served()).plus(Served.of(note))
        self._notes = [n for n in self._notes if n[0] > now_s - STABLE_S]

    def services(self) -> list[Service]:
        found = [s for s in self._services.values() if s.ended_at_s is None]
        return sorted(found, key=lambda s: s.id)

    def loans(self) -> list[tuple[JobId, Repaid]]:
        return list(self._repaid)

    def traffic(self, now_s: float) -> Traffic:
        if not (services := self.services()):
            return Traffic()
        routers = [r for r in self._routers.values() if r.heard_s >= now_s - STABLE_S]
        trials = {
            s.id: self._served[key]
            for s in services
            if s.trial and (key := (s.id, s.trial.revision)) in self._served
        }
        return Traffic(
            services=tuple(services),
            loads=known_loads(services, self._parts(now_s), routers, now_s),
            trials=trials,
            routers=tuple(sorted(routers, key=lambda r: r.id)),
        )

    def _parts(self, now_s: float) -> Mapping[ServiceId, Sequence[Part]]:
        notes: dict[tuple[ServiceId, int, str], list[tuple[float, LoadNote]]] = {}
        for at_s, router, note in self._notes:
            if at_s > now_s - STABLE_S:
                notes.setdefault((note.service, note.revision, router), []).append((at_s, note))
        parts: dict[ServiceId, list[Part]] = {}
        for (service, _, router), found in sorted(notes.items()):
            stable = _window(n for _, n in found)
            panic = _window(n for at_s, n in found if at_s > now_s - PANIC_S)
            last_s, last = found[-1]
            queued = last.queued if last_s > now_s - PANIC_S else 0
            parts.setdefault(service, []).append(Part(router, last_s, stable, panic, queued))
        return parts

    def _change(self, changes: Iterable[Change]) -> set[ServiceId]:
        written = set[ServiceId]()
        for change in changes:
            known = self._services[change.service.id]
            if change.service.version == known.version + 1:
                self._services[known.id] = change.service
                written.add(known.id)
        return written

    def _repay(self, job: Job, ended: Sequence[Repaid]) -> None:
        self._repaid += [(job.id, each) for each in ended]


def _window(notes: Iterable[LoadNote]) -> Window:
    found = Window()
    for note in notes:
        found = found.plus(note)
    return found
