"""What the routes work with, put together once, and how they get at it.

What routes depend on is asked in the event loop wherever it cannot block: to hand a question to a
thread and its answer back costs more than most answers.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Query, Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import Scope

from singularity.primitives.clock import Clock, SystemClock
from singularity.primitives.errors import Overloaded
from singularity.primitives.transport import SigningKey
from singularity.store.imagestore import ImageStore

from .applier import SqlLedger
from .auth import Caller, Role, Tokens, check_origin
from .brokers import BrokerUsers
from .database import make_engine
from .enrolment import Enrolment
from .estimates import Estimates
from .intake import Gauge, Intake, Waker
from .inventory import Inventory
from .prospects import Prospects
from .reporting import Desk
from .service_store import ServiceStore
from .settings import Settings
from .store import PAGE_MOST, Page, Store
from .views import Outlook

HEAVY_MOST: Final = 8  # of 40 worker threads: agents must be heard whatever users ask


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    engine: Engine
    clock: Clock
    ledger: SqlLedger
    inventory: Inventory
    estimates: Estimates
    prospects: Prospects
    store: Store
    offered: ServiceStore
    images: ImageStore
    tokens: Tokens
    enrolment: Enrolment
    intake: Intake
    desk: Desk
    gauge: Gauge
    waker: Waker
    key: SigningKey
    heavy: threading.BoundedSemaphore  # who takes one may keep a worker thread for long
    stop: threading.Event  # set when the server goes: streams end then

    @classmethod
    def open(cls, settings: Settings) -> Services:
        engine, stop = make_engine(settings), threading.Event()
        ledger, waker = SqlLedger(engine), Waker(engine, stop)
        estimates = Estimates(engine)
        clock, policy = SystemClock(), settings.policy()
        tokens, key = Tokens(engine, settings.join_token), settings.signing_key()
        users = BrokerUsers(settings.broker_url, key.mark, wanted=settings.broker_users)
        store = Store(engine, lambda: Outlook(clock.now_s(), policy))
        return cls(
            settings=settings,
            engine=engine,
            clock=clock,
            ledger=ledger,
            inventory=Inventory(engine),
            estimates=estimates,
            prospects=Prospects(estimates),
            store=store,
            offered=ServiceStore(engine),
            images=ImageStore(settings.blobs()),
            tokens=tokens,
            enrolment=Enrolment(engine, tokens, key, users),
            intake=Intake(ledger, waker, stop),
            desk=Desk(ledger, engine, clock, stop),
            gauge=Gauge(store.fleet, clock),
            waker=waker,
            key=key,
            heavy=threading.BoundedSemaphore(HEAVY_MOST),
            stop=stop,
        )

    def close(self) -> None:
        self.stop.set()
        self.intake.close()
        self.desk.close()
        self.waker.close()
        self.engine.dispose()


async def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


Serving = Annotated[Services, Depends(services)]


async def known(scope: Scope, serving: Services) -> Caller:
    """Who asks. Raises Unauthenticated, and Forbidden to pages of other web sites."""
    headers, now_s = Headers(scope=scope), serving.clock.now_s()
    check_origin(headers, serving.settings.allowed_hosts)
    authorization = headers.get("authorization", "")
    if (found := serving.tokens.remembered(authorization, now_s)) is not None:
        return found
    return await run_in_threadpool(serving.tokens.caller, authorization, now_s)


async def caller(request: Request) -> Caller:
    """Who asks, as found at the gate: before anything else of the request was read."""
    found: Caller = request.scope["caller"]
    return found


async def viewer(who: Annotated[Caller, Depends(caller)]) -> Caller:
    who.need(Role.VIEWER)
    return who


async def submitter(who: Annotated[Caller, Depends(caller)]) -> Caller:
    who.need(Role.SUBMITTER)
    return who


async def overseer(who: Annotated[Caller, Depends(caller)]) -> Caller:
    who.need_planet(Role.VIEWER)
    return who


async def planet_operator(who: Annotated[Caller, Depends(caller)]) -> Caller:
    who.need_planet(Role.OPERATOR)
    return who


async def planet_admin(who: Annotated[Caller, Depends(caller)]) -> Caller:
    who.need_planet(Role.ADMIN)
    return who


async def data_path(who: Annotated[Caller, Depends(caller)]) -> Caller:
    who.need_router()
    return who


async def heavy(serving: Serving) -> AsyncIterator[None]:
    """For what reads whole checkpoints, or decides about all jobs. Raises Overloaded."""
    if not serving.heavy.acquire(blocking=False):
        raise Overloaded(f"{HEAVY_MOST} requests as heavy as this are at work; try again")
    try:
        yield
    finally:
        serving.heavy.release()


async def page(
    limit: Annotated[int, Query(ge=1, le=PAGE_MOST)] = 100,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Page:
    return Page(limit, cursor)


Anyone = Annotated[Caller, Depends(caller)]
Viewer = Annotated[Caller, Depends(viewer)]
Submitter = Annotated[Caller, Depends(submitter)]
Overseer = Annotated[Caller, Depends(overseer)]
Operator = Annotated[Caller, Depends(planet_operator)]
Admin = Annotated[Caller, Depends(planet_admin)]
DataPath = Annotated[Caller, Depends(data_path)]
Paged = Annotated[Page, Depends(page)]
Heavy = Annotated[None, Depends(heavy)]
