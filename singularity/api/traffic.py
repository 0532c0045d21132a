"""Services in the database: what their owners want, what routers say of them, what they borrowed.

Rows of services are locked before those of jobs and nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError

from singularity.primitives.errors import Conflict, IdempotencyMismatch, NotFound
from singularity.primitives.lending import Repaid
from singularity.primitives.model import Job, JobId
from singularity.primitives.routing import Loads
from singularity.primitives.service import Loan
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

from . import service_tables as st
from .books import insert_jobs
from .bulk import Json
from .projects import open_projects
from .rows import Submission

MINUTE_S: Final = 60
_KEPT_MINUTES: Final = 24 * 60
_SERVICE = TypeAdapter(Service)
_UNNAMED: Final = Submission()
_LIVES = st.service.c.ended_at_s.is_(None)
_COUNTS: Final = ("arrivals", "done", "failed", "shed", "waits", "latencies")


def service_of(body: Json) -> Service:
    return _SERVICE.validate_python(body)


class SqlServices:
    """The part of the ledger that keeps them; see scheduler.ledger.Ledger."""

    _engine: Engine

    def open_service(
        self, service: Service, replicas: Sequence[Job], known: Submission = _UNNAMED
    ) -> Service:
        """Of one that came before with the same key, that. Raises Conflict, IdempotencyMismatch."""
        row = {"idempotency_key": known.key, "body_digest": known.digest}
        try:
            with self._engine.begin() as db:
                open_projects(db, {service.project}, service.created_at_s)
                if (found := _submitted(db, service.project, known)) is not None:
                    return found
                db.execute(insert(st.service).values({**_row(service), **row}))
                _tell(db, service.id, "made", "", service.created_at_s)
                insert_jobs(db, [(job, Submission()) for job in replicas])
        except IntegrityError:
            with self._engine.begin() as db:
                if (found := _submitted(db, service.project, known)) is not None:
                    return found
            detail = f"{service.project} has a service {service.name} already; update that"
            raise Conflict(detail, hint=f"singularity service update {service.name}") from None
        return service

    def change_service(
        self, service: ServiceId, event: str, change: Callable[[Service], Amended], now_s: float
    ) -> Service:
        with self._engine.begin() as db:
            known = _locked(db, {service}).get(service)
            if known is None:
                raise NotFound(f"there is no service {service!r}")
            found, replicas = change(known)
            if found != known:
                _put(db, found)
                _tell(db, service, event, found.message, now_s)
            insert_jobs(db, [(job, Submission()) for job in replicas])
            return found

    def hear_router(self, region: str, loads: Loads, now_s: float) -> None:
        row = {"region": region, "heard_s": now_s, "leaving": dict(loads.leaving)}
        heard = upsert(st.router).values({"id": loads.router, **row})
        with self._engine.begin() as db:
            db.execute(heard.on_conflict_do_update(index_elements=["id"], set_=row))
            named = {note.service for note in loads.notes}
            query = select(st.service.c.id).where(st.service.c.id.in_(sorted(named)))
            there = set(db.execute(query).scalars()) if named else set()
            notes = [note for note in loads.notes if note.service in there]
            if notes:
                rows = [
                    {
                        **note.model_dump(
                            include={"service", "revision", "span_s", "arrivals", "done", "queued"}
                        ),
                        "busy_s": note.busy * note.span_s,
                        "jumps": note.arrivals if note.jumps is None else note.jumps,
                        "router": loads.router,
                        "at_s": now_s,
                    }
                    for note in notes
                ]
                db.execute(insert(st.service_load), rows)
                _count(db, Loads(router=loads.router, notes=tuple(notes)), now_s)
            load = st.service_load
            old = (load.c.router == loads.router) & (load.c.at_s <= now_s - 2 * STABLE_S)
            db.execute(delete(load).where(old))

    def services(self) -> list[Service]:
        with self._engine.connect() as db:
            return living(db)

    def loans(self) -> list[tuple[JobId, Repaid]]:
        with self._engine.connect() as db:
            rows = db.execute(select(st.loan).order_by(st.loan.c.id))
            return [(JobId(row.job), repaid_of(row)) for row in rows]


def repaid_of(row: Any) -> Repaid:
    return Repaid(Loan(row.service, row.devices, row.since_s, row.price), row.until_s)


def living(db: Connection) -> list[Service]:
    """Those that have not ended, by id."""
    query = select(st.service.c.body).where(_LIVES).order_by(st.service.c.id)
    return [service_of(body) for body in db.execute(query).scalars()]


def traffic(db: Connection, now_s: float) -> Traffic:
    """What the scheduler goes by. A planet without services costs one query."""
    services = living(db)
    if not services:
        return Traffic()
    heard = select(st.router).where(st.router.c.heard_s >= now_s - STABLE_S)
    routers = [
        Router(row.id, row.region, row.heard_s, row.leaving)
        for row in db.execute(heard.order_by(st.router.c.id))
    ]
    trials = {
        s.id: found
        for s in services
        if s.trial and (found := served(db, s.id, s.trial.revision)) is not None
    }
    loads = known_loads(services, _parts(db, now_s), routers, now_s)
    return Traffic(tuple(services), loads, trials, tuple(routers))


def write_changes(db: Connection, changes: Iterable[Change], now_s: float) -> set[ServiceId]:
    """Those of services that nobody else has changed since; which these are."""
    wanted, written = list(changes), set[ServiceId]()
    known = _locked(db, {change.service.id for change in wanted}) if wanted else {}
    for change in wanted:
        after = change.service
        if known[after.id].version + 1 == after.version:
            known[after.id] = after
            _put(db, after)
            _tell(db, after.id, change.event, change.reason, now_s)
            written.add(after.id)
    return written


def served(
    db: Connection, service: ServiceId, revision: int | None = None, since_s: float = 0.0
) -> Served | None:
    """All that was counted, of one revision or of all; None of nothing."""
    row = st.service_minute
    query = select(row).where(row.c.service == service, row.c.minute >= int(since_s) // MINUTE_S)
    if revision is not None:
        query = query.where(row.c.revision == revision)
    found: Served | None = None
    for each in db.execute(query).mappings():
        found = (found or Served()).plus(_served_of(each))
    return found


def _served_of(row: Any) -> Served:
    counts = (row["arrivals"], row["done"], row["failed"], row["shed"])
    return Served(*counts, tuple(row["waits"]), tuple(row["latencies"]))


def _parts(db: Connection, now_s: float) -> dict[ServiceId, list[Part]]:
    row = st.service_load
    late = row.c.at_s > now_s - PANIC_S
    columns = (row.c.arrivals, row.c.done, row.c.span_s, row.c.busy_s, row.c.jumps)
    sums = [func.sum(column) for column in columns]
    newest = func.array_agg(aggregate_order_by(row.c.queued, row.c.id.desc())).filter(late)
    query = select(
        *(row.c.service, row.c.router, func.max(row.c.at_s)),
        *(*sums, *(s.filter(late) for s in sums), newest),
    )
    query = query.where(row.c.at_s > now_s - STABLE_S)
    found: dict[ServiceId, list[Part]] = {}
    for service, router, last_s, *rest in db.execute(
        query.group_by(row.c.service, row.c.revision, row.c.router)
    ):
        stable, panic = Window(*rest[:5]), Window(*(x or 0 for x in rest[5:10]))
        queued = rest[10][0] if rest[10] else 0
        found.setdefault(service, []).append(Part(router, last_s, stable, panic, queued))
    return found


def _count(db: Connection, loads: Loads, now_s: float) -> None:
    """Add what one router saw to its rows of this minute; only it writes them."""
    row, minute = st.service_minute, int(now_s) // MINUTE_S
    mine = (row.c.router == loads.router) & (row.c.minute == minute)
    known = {
        (r["service"], r["revision"]): _served_of(r)
        for r in db.execute(select(row).where(mine).with_for_update()).mappings()
    }
    if not known:  # a new minute: what is too old goes
        old = (row.c.router == loads.router) & (row.c.minute < minute - _KEPT_MINUTES)
        db.execute(delete(row).where(old))
    for note in loads.notes:
        key = (note.service, note.revision)
        known[key] = known.get(key, Served()).plus(Served.of(note))
    for (service, revision), total in sorted(known.items()):
        counts = {name: getattr(total, name) for name in _COUNTS}
        where = {"service": service, "revision": revision, "minute": minute}
        added = upsert(row).values({**where, "router": loads.router, **counts})
        keys = ["service", "revision", "minute", "router"]
        db.execute(added.on_conflict_do_update(index_elements=keys, set_=counts))


def _locked(db: Connection, ids: set[ServiceId]) -> dict[ServiceId, Service]:
    query = select(st.service.c.body).where(st.service.c.id.in_(sorted(ids)))
    rows = db.execute(query.order_by(st.service.c.id).with_for_update(key_share=True))
    return {found.id: found for found in map(service_of, rows.scalars())}


def _submitted(db: Connection, project: str, known: Submission) -> Service | None:
    if known.key is None:
        return None
    mine = (st.service.c.project == project) & (st.service.c.idempotency_key == known.key)
    row = db.execute(select(st.service.c.body, st.service.c.body_digest).where(mine)).first()
    if row is None:
        return None
    if row.body_digest != known.digest:
        raise IdempotencyMismatch(
            f"Idempotency-Key {known.key!r} was used for another service; choose a new key"
        )
    return service_of(row.body)


def _put(db: Connection, service: Service) -> None:
    db.execute(update(st.service).where(st.service.c.id == service.id).values(_row(service)))


def _tell(db: Connection, service: ServiceId, event: str, reason: str, now_s: float) -> None:
    if event:
        line = {"service": service, "at_s": now_s, "event": event, "reason": reason}
        db.execute(insert(st.service_event).values(line))


def _row(service: Service) -> Json:
    return {
        "id": service.id,
        "project": service.project,
        "name": service.name,
        "body": _SERVICE.dump_python(service, mode="json"),
        "version": service.version,
        "ended_at_s": service.ended_at_s,
    }
