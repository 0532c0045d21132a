"""Everything that is read of services: for their owners, and the table that routers go by."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, insert, select, text, update

from singularity.primitives import replicas
from singularity.primitives.errors import NotFound
from singularity.primitives.lending import Repaid
from singularity.primitives.model import TERMINAL, Job, JobId, JobState, Kind
from singularity.primitives.routing import Endpoint, Route, Table
from singularity.primitives.serving import ServiceId
from singularity.scheduler.services import Served, Service
from singularity.scheduler.traffic import Load, Traffic

from . import service_tables as st
from . import tables as t
from .auth import Caller
from .books import load_jobs
from .bulk import Json, among, literally
from .store import Page, listing
from .traffic import living, repaid_of, served, service_of, traffic

_HOUR_S: Final = 3600.0
_ALIVE: Final = t.job_state.c.state.not_in([str(s) for s in TERMINAL])
_REPLICAS: Final = _ALIVE & literally(t.job.c.kind, str(Kind.SERVE))


@dataclass(frozen=True, slots=True)
class Standing:
    """A service and how it is. `load` None: no router was heard; `hour` is what it served in the
    last; `lent` what it has borrowed, by job."""

    service: Service
    replicas: tuple[Job, ...]
    load: Load | None
    hour: Served
    tried: Served | None
    lent: dict[JobId, int]


class ServiceStore:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._known: tuple[tuple[object, ...], Table] | None = None

    def find(self, caller: Caller, name: str) -> Service:
        """The one of that id or name that has not ended, or else the last that has, among those
        that the caller may see. Raises NotFound."""
        row = st.service
        mine: list[ColumnElement[bool]] = [(row.c.id == name) | (row.c.name == name)]
        if caller.project is not None:
            mine.append(row.c.project == caller.project)
        query = select(row.c.body).where(*mine)
        query = query.order_by(row.c.ended_at_s.desc().nulls_first(), row.c.id.desc()).limit(1)
        with self._reading.connect() as db:
            body = db.execute(query).scalar()
            known = [s.name for s in living(db) if caller.sees(s.project)] if body is None else []
        if body is None:
            near = get_close_matches(name, known, n=3)
            raise NotFound(f"there is no service {name!r}", near=near)
        return service_of(body)

    def standings(self, services: Sequence[Service], now_s: float) -> list[Standing]:
        """Of services in hand."""
        with self._reading.connect() as db:
            jobs = _by_service(load_jobs(db, _REPLICAS))
            seen = traffic(db, now_s)
            lent = _lent(db)
            return [self._standing(db, s, jobs, seen, lent, now_s) for s in services]

    def _standing(
        self,
        db: Connection,
        service: Service,
        jobs: dict[ServiceId, list[Job]],
        seen: Traffic,
        lent: dict[ServiceId, dict[JobId, int]],
        now_s: float,
    ) -> Standing:
        return Standing(
            service=service,
            replicas=tuple(jobs.get(service.id, ())),
            load=seen.loads.get(service.id),
            hour=served(db, service.id, since_s=now_s - _HOUR_S) or Served(),
            tried=seen.trials.get(service.id, Served()) if service.trial else None,
            lent=lent.get(service.id, {}),
        )

    def services(self, caller: Caller) -> list[Service]:
        """Those that have not ended; there are never so many that they need pages."""
        with self._reading.connect() as db:
            return [s for s in living(db) if caller.sees(s.project)]

    def events(self, service: Service, page: Page) -> Json:
        """Oldest first."""
        row = st.service_event
        query = select(row).where(row.c.service == service.id, row.c.id > page.number())
        with self._reading.connect() as db:
            rows = db.execute(query.order_by(row.c.id).limit(page.limit + 1)).mappings()
            return listing([{"seq": r["id"], **_without(r, "id")} for r in rows], page, "seq")

    def lenders(self) -> list[Job]:
        """The jobs that lend devices now."""
        with self._reading.connect() as db:
            return _lenders(db)

    def repaid(self, wanted: dict[str, str], page: Page) -> list[tuple[int, JobId, Repaid]]:
        """Loans that are over, newest first, of one service or of one job; one more than the limit
        when there is a next page."""
        row = st.loan
        query = select(row).where(*(row.c[name] == value for name, value in wanted.items()))
        if page.cursor is not None:
            query = query.where(row.c.id < page.number())
        with self._reading.connect() as db:
            rows = db.execute(query.order_by(row.c.id.desc()).limit(page.limit + 1))
            return [(r.id, JobId(r.job), repaid_of(r)) for r in rows]

    # -- routers ---------------------------------------------------------------------------------

    def table(self) -> Table:
        """What routers go by now. Its version grows whenever what is in it changes. They ask ten
        times a second, so it is made anew only when something has changed that it is made of."""
        with self._reading.connect() as db:
            marks = tuple(db.execute(_MARKS).one())
        known = self._known
        if known is None or known[0] != marks:
            self._known = known = marks, self._table()  # of that moment, or of a later one
        return known[1]

    def _table(self) -> Table:
        with self._reading.connect() as db:
            routes = _routes(db)
            known = db.execute(select(st.routing)).first()
            if known is not None and known.digest == _digest(routes):
                return Table(version=known.version, routes=routes)
        with self._engine.begin() as db:  # read again with the number locked: nobody goes back
            db.exec_driver_sql("LOCK TABLE routing IN EXCLUSIVE MODE")
            known = db.execute(select(st.routing)).first()
            routes = _routes(db)
            digest = _digest(routes)
            if known is None:
                db.execute(insert(st.routing).values(id=1, version=1, digest=digest))
                return Table(version=1, routes=routes)
            version = known.version + (known.digest != digest)
            db.execute(update(st.routing).values(version=version, digest=digest))
            return Table(version=version, routes=routes)


# By this it is told whether any row has changed that routes are made of, and no row is read whole.
_MARKS: Final = text("""
SELECT (SELECT md5(string_agg(concat_ws(' ', id, version), ',' ORDER BY id))
        FROM service WHERE ended_at_s IS NULL),
       (SELECT md5(string_agg(concat_ws(' ', s.id, s.version, n.id, n.region, n.lost), ','
                              ORDER BY s.id, n.id))
        FROM job JOIN job_state s ON s.id = job.id
        JOIN shard ON shard.job = s.id JOIN node n ON n.id = shard.node
        WHERE job.kind = 'serve' AND s.state = 'running'),
       (SELECT version FROM routing)""")


def _lenders(db: Connection) -> list[Job]:
    """Asked for by their ids: of a table that is empty most of the time, a join expects too much,
    and begins with all jobs."""
    ids = db.execute(select(st.lender.c.job)).scalars().all()
    return load_jobs(db, _ALIVE & among(t.job_state.c.id, ids)) if ids else []


def _routes(db: Connection) -> tuple[Route, ...]:
    services = living(db)
    if not services:
        return ()
    jobs = _by_service(load_jobs(db, _REPLICAS & (t.job_state.c.state == str(JobState.RUNNING))))
    used = sorted({str(n) for found in jobs.values() for job in found for n in job.nodes})
    rows = db.execute(
        select(t.node.c.id, t.node.c.region, t.node.c.lost).where(t.node.c.id.in_(used))
    )
    regions = {row.id: row.region for row in rows if not row.lost}
    return tuple(_route(service, jobs.get(service.id, []), regions) for service in services)


def _route(service: Service, jobs: Sequence[Job], regions: dict[str, str]) -> Route:
    serving, trial = service.spec.serving, service.trial
    assert serving is not None
    return Route(
        service=service.id,
        name=service.name,
        project=service.project,
        concurrency=serving.concurrency,
        queue_most=service.queue_most,
        timeout_s=service.timeout_s,
        promised_s=service.slo.most_s if service.slo else None,
        canary=trial.revision if trial else 0,
        canary_share=trial.share if trial else 0.0,
        endpoints=tuple(
            Endpoint(
                job=job.id,
                incarnation=job.incarnation,
                address=job.endpoint,
                region=regions[node],
                revision=job.spec.serving.revision,
                leaving=not replicas.ready(job),
            )
            for job in jobs
            for node in job.nodes
            if job.endpoint and node in regions and job.spec.serving is not None
        ),
    )


def _digest(routes: Sequence[Route]) -> str:
    text = "\n".join(route.model_dump_json() for route in routes)
    return hashlib.sha256(text.encode()).hexdigest()


def _by_service(jobs: Sequence[Job]) -> dict[ServiceId, list[Job]]:
    found: dict[ServiceId, list[Job]] = {}
    for job in sorted(jobs, key=lambda j: j.id):
        if job.spec.serving is not None:
            found.setdefault(job.spec.serving.service, []).append(job)
    return found


def _lent(db: Connection) -> dict[ServiceId, dict[JobId, int]]:
    found: dict[ServiceId, Counter[JobId]] = {}
    for job in _lenders(db):
        for loan in job.loans:
            found.setdefault(loan.service, Counter())[job.id] += loan.devices
    return {service: dict(counts) for service, counts in found.items()}


def _without(row: Any, name: str) -> Json:
    return {key: value for key, value in row.items() if key != name}
